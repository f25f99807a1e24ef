"""Folder of an evaluation: where the results of a checkpoint on some data belong."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from miniclip.data.split import SEEDED_TEST
from miniclip.files import within
from miniclip.runs import DamagedFile, RunFiles
from miniclip.runs.run_files import check_place

LONGEST_NAME = 100
"""Characters of a folder that is named by settings."""


def evaluation_folder(checkpoint: Path, fingerprint: str, *, altered: Sequence[str] = ()) -> Path:
    """RUN/evaluation for the best checkpoint on the run's validation part; all else has a folder below.

    A checkpoint that lies in no run has its folder beside it.

    Args:
        fingerprint: of the split that is measured on.
        altered: settings that make other data of it; see `Restored`.
    """
    run = RunFiles.of_checkpoint(checkpoint)

    # only a run knows by their fingerprints which data are its own
    if run is None or not run.environment.exists():
        return folder_beside(checkpoint, fingerprint, altered=altered)

    check_place(run.evaluation, is_folder=True)
    names = _names_of_splits(run)
    name = names.get(fingerprint)

    parts = [run.evaluation.name]
    if checkpoint != run.best_checkpoint:
        parts.append(checkpoint.stem)
    if name is None:
        parts.append(fingerprint)
    elif name in ("test", SEEDED_TEST) and len(names) > 2:
        # of two parts it is the one that the run was validated on, whose results lie at the top
        parts.append("test")

    return within(run.path, "/".join([*parts, *_as_folder(altered)]))


def folder_beside(model: Path, fingerprint: str, *, altered: Sequence[str] = ()) -> Path:
    """The folder of a model that lies in no run, beside it.

    Args:
        model: its file or folder.
        fingerprint: of the split that is measured on.
        altered: settings that make other data of it; see `Restored`.
    """
    name = model.stem
    if model.is_dir():  # named ".", or v1.0 beside v1.1
        model = Path(os.path.abspath(model))
        name = model.name
    return within(model.parent, "/".join([f"{name}_evaluation", fingerprint, *_as_folder(altered)]))


def _as_folder(altered: Sequence[str]) -> list[str]:
    """The name of a folder for settings, or none without any."""
    if not altered:
        return []
    name = ",".join(altered)
    # a text with spaces and slashes, say, is no good name of a folder
    is_short = len(name) <= LONGEST_NAME and re.fullmatch(r"[\w.,=-]+", name)
    return [name if is_short else hashlib.sha256(name.encode()).hexdigest()[:16]]


def _names_of_splits(run: RunFiles) -> dict[str, str]:
    """Names of the splits that a run was trained and measured on, by their fingerprints."""
    try:
        splits = run.read_data()
    except DamagedFile as error:
        raise DamagedFile(f"{error} Evaluate the checkpoint in another folder.") from None
    return {split["fingerprint"]: name for name, split in splits.items()}
