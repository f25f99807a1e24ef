"""A corpus of damages: each file of a run directory, cut, emptied, of another type, or no file at all."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PRIVATE = "private.txt"
"""A file outside of the run directories, to which links lead."""

RUN_FILES = (
    "status.json",
    "summary.json",
    "metrics.jsonl",
    "config.yaml",
    "environment.json",
    "ranks.npz",
    "ranks_test.npz",
    "skipped_batches.jsonl",
    "job.json",
    "continued_in",
    "wandb_id",
    "evaluation",
    "evaluation/retrieval.json",
    "tokenizer/settings.json",
    "tokenizer/tokenizer.json",
    "figures/curves.png",
    "figures/retrieval.png",
    ".lock",
    "checkpoints",
    "checkpoints/best.pt",
    "checkpoints/best.safetensors",
    "checkpoints/last.pt",
)

SWEEP_FILES = ("sweep.json", "summary.csv", "summary.md", ".summary.lock")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _not_utf8(path: Path) -> None:
    path.write_bytes(b'{"status": "\xff\xfe"}\n')


def _a_list(path: Path) -> None:
    path.write_text("[1, 2]\n")


def _a_number(path: Path) -> None:
    path.write_text("7\n")


def _other_types(path: Path) -> None:
    """Each value in a list of its own."""
    text = path.read_text(errors="replace")
    if path.suffix == ".jsonl":
        path.write_text("".join(_listed(json.loads(line)) + "\n" for line in text.splitlines()))
    elif path.suffix == ".json":
        path.write_text(_listed(json.loads(text)))
    elif path.suffix == ".yaml":
        path.write_text(_listed(yaml.safe_load(text)))
    else:
        path.write_text("{}\n")


def _listed(content: dict[str, Any]) -> str:
    return json.dumps({key: [value] for key, value in content.items()})


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "\n")


def _huge(path: Path) -> None:
    os.truncate(path, 2**33)  # sparse: it takes no space


def _missing(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("")


def _a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _a_link_out(path: Path) -> None:
    outside = next(folder / PRIVATE for folder in path.parents if (folder / PRIVATE).exists())
    path.unlink()
    path.symlink_to(outside)


KINDS: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "cut": _cut,
    "not_utf8": _not_utf8,
    "a_list": _a_list,
    "a_number": _a_number,
    "other_types": _other_types,
    "deep": _deep,
    "huge": _huge,
    "missing": _missing,
    "a_folder": _a_folder,
    "a_fifo": _a_fifo,
    "a_link_out": _a_link_out,
}


class Damage(NamedTuple):
    """What is done to a file, `file` of `RUN_FILES` and `kind` of `KINDS`."""

    file: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.file.replace('/', '-')}_{self.kind}"

    def apply(self, run: Path) -> None:
        """Damage a file of a run directory, which may be a folder."""
        path = run / self.file
        if path.is_dir():  # a file in the place of a folder
            shutil.rmtree(path)
            path.write_bytes(b"{}")
        KINDS[self.kind](path)


def damages(files: Sequence[str] = RUN_FILES) -> list[Damage]:
    """Each damage of each file."""
    return [Damage(file, kind) for file, kind in product(files, KINDS)]


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """End what waits for a pipe that nobody writes into."""

    def end(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds:g} s")

    former = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
