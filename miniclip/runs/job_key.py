"""Which settings change what a job computes, and the keys by which a sweep knows its jobs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miniclip.files import without_place
from miniclip.renamed import renamed_config
from miniclip.runs.run_directory import JOB_FORMAT
from miniclip.runs.run_files import RunFiles
from miniclip.runs.small_files import DamagedFile

IGNORED_ROOT_KEYS = ("name", "logger", "eval", "hydra")
"""Root keys that change nothing of what is trained."""

IGNORED_KEYS = (
    "device",
    "deterministic",
    "compile",
    "compile_tiles",
    "cuda_graphs",
    "images_on_gpu",
    "profile",
    "resume",
    "num_workers",
    "cache_dir",
    "checkpoint_activations",
    "chunk_size",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "save_in_background",
    "keep_last",
    "keep_best",
    "on_save_error",
)
"""Nor do these settings, wherever they are. A cache does: it shrinks images before they are cropped."""

HELPER = "_"
"""What a root key begins with that only helps a study to set others."""


def changes_nothing(setting: str) -> bool:
    """Whether a setting, "trainer.num_workers" say, changes nothing of what a job computes."""
    root, *_ = keys = setting.split(".")
    is_helper = root.startswith(HELPER)
    return is_helper or root in IGNORED_ROOT_KEYS or not set(IGNORED_KEYS).isdisjoint(keys)


def job_key(config: dict[str, Any]) -> str:
    """A hash of what a job computes: its resolved config without names and places.

    Of an absolute path only the last part counts, so that data may move.
    """
    # sorted, for the order of settings computes nothing, and by today's names, which old runs lack
    parts = _computed(renamed_config(config))
    return _hash(json.dumps(parts, sort_keys=True))


def search_key(overrides: Sequence[str]) -> str:
    """A hash of what a search is over: the overrides it was launched with."""
    return _hash("\n".join(sorted(overrides)))


def read_job_key(folder: Path) -> str | None:
    """The key of the job in a run directory; None if it is none.

    A job of an older version is known by its config, in which names may have changed since.
    """
    run = RunFiles(folder)
    job = run.read_job()
    if job.get("format", 1) < JOB_FORMAT and run.config.is_file():
        return job_key(run.read_config()) if job else None
    return job.get("key")


def known_key(folder: Path) -> str | None:
    """The key of the job in a run directory, by its config where `job.json` is lost; None if both are."""
    try:
        key = read_job_key(folder)
    except DamagedFile:
        key = None
    try:
        return key or job_key(RunFiles(folder).read_config())
    except DamagedFile:
        return None


def _computed(value: Any, place: str = "") -> Any:
    """A config, or what stands at a place of it, without what changes nothing."""
    if isinstance(value, dict):
        # each key and its full name, by which it is known
        inner = {key: f"{place}.{key}" if place else str(key) for key in value}
        return {
            key: _computed(value[key], path) for key, path in inner.items() if not changes_nothing(path)
        }

    if isinstance(value, list):
        return [_computed(item, place) for item in value]

    return without_place(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
