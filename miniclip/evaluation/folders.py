"""Folder of an evaluation: where the results of a checkpoint on some data belong."""

import json
from pathlib import Path

from miniclip.data.dataset import SEEDED_TEST
from miniclip.errors import UserError
from miniclip.files import within


def evaluation_folder(checkpoint: Path, fingerprint: str) -> Path:
    """RUN/evaluation for the best checkpoint on the run's validation part; all else has a folder below.

    A checkpoint that lies in no run has its folder beside it.

    Args:
        fingerprint: of the split that is measured on.
    """
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not within(run, "environment.json").is_file():
        return within(checkpoint.parent, f"{checkpoint.stem}_evaluation/{fingerprint}")

    names = _names_of_splits(run)
    name = names.get(fingerprint)
    parts = ["evaluation"] if checkpoint.stem == "best" else ["evaluation", checkpoint.stem]
    if name is None:
        parts.append(fingerprint)
    elif name in ("test", SEEDED_TEST) and len(names) > 2:
        parts.append("test")
    return within(run, "/".join(parts))


def _names_of_splits(run: Path) -> dict[str, str]:
    """Names of the splits that a run was trained and measured on, by their fingerprints."""
    path = within(run, "environment.json")
    try:
        splits = json.loads(path.read_text("utf-8"))["data"]
        return {split["fingerprint"]: name for name, split in splits.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); evaluate the checkpoint in another folder."
        ) from None
