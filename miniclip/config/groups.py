"""The files of the config: where they are, and which groups of options they make."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parent.parent
# a checkout has conf/ and experiments/ beside the package, an installed wheel inside it
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
CONF = HOME / "conf"

SEVERAL = {"eval/tasks": "task", "logger": "logger"}
"""Groups of which several options can be chosen, 'logger=[jsonl,wandb]' say, and what each of them is."""


@cache
def groups() -> dict[str, list[str]]:
    """Every group of the config, `encoder/image` say, and its options."""
    found = {
        folder.relative_to(CONF).as_posix(): sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in CONF.rglob("*")
        if folder.is_dir()
    }
    found["experiments"] = sorted(path.stem for path in (HOME / "experiments").glob("*.yaml"))
    return {group: options for group, options in found.items() if options and group != "data/base"}


@cache
def optional_groups() -> set[str]:
    """Groups of which no option need be chosen: they stand as `trigger: null` in a list of defaults."""
    found = set()
    for path in CONF.rglob("*.yaml"):
        folder = path.relative_to(CONF).parent
        entries = [entry for entry in content_of(path).get("defaults", []) if isinstance(entry, dict)]
        found |= {
            (folder / group).as_posix() for entry in entries for group in entry if entry[group] is None
        }
    return found


@cache
def content_of(path: Path) -> dict[str, Any]:
    """What a file of the config says, nothing of it resolved."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
