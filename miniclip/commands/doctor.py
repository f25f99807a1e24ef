"""Examine the data set of `python run.py SETTINGS`; print, and write outputs/NAME/doctor/.

Exits with 1 when images lie on both sides of the split or cannot be read.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from miniclip.config.compose import compose, folder_name
from miniclip.errors import counted
from miniclip.files import write_json

if TYPE_CHECKING:
    from miniclip.data.doctor import Examination

EXAMPLES = """\
  miniclip doctor data=folder data.root=photos
  miniclip doctor data=csv data.train_csv=train.csv data.val_csv=val.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings, those of the data above all."""
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE")


def run(arguments: argparse.Namespace) -> None:
    """Examine, print, and write what was found."""
    from miniclip.figures import draw_examination

    # to find all images that cannot be read, not the first
    cfg = compose(*arguments.settings, "data.on_broken_image=skip")
    found = _examine(cfg)

    folder = Path("outputs") / folder_name(cfg.name) / "doctor"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "doctor.json", found.as_dict())
    draw_examination(found, folder / "doctor.png")

    for name, counts in found.splits.items():
        _print_split(name, counts)
    _print_lengths(found)
    _print_problems(found)

    is_healthy = not found.leaks and not found.broken
    print(f"{'Healthy.' if is_healthy else 'NOT healthy.'} Everything is in {folder}")
    sys.exit(0 if is_healthy else 1)


def _examine(cfg: DictConfig) -> "Examination":
    from miniclip.config.build import check
    from miniclip.config.instantiate import make, names_of
    from miniclip.data.doctor import Remarks, examine

    check(cfg)

    with Remarks() as remarks:
        source = make(cfg, "data")
        with names_of(cfg, "data"):
            splits = source.read_parts().present()

    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for captions in splits[0].captions for caption in captions)
    found = examine(splits, token_lengths=tokenizer.lengths, context_length=cfg.context_length)
    found.remarks = remarks.texts
    return found


def _print_split(name: str, counts: dict[str, Any]) -> None:
    """Sizes of a part of the data, and of its classes if it has some."""
    least, mean, most = counts["captions_an_image"]
    print(
        f"{name}: {counted(counts['images'], 'image')}, {counted(counts['captions'], 'caption')} "
        f"({least} to {most} an image, {mean:.1f} on average), fingerprint {counts['fingerprint']}"
    )
    if counts["classes"]:
        classes = list(counts["classes"].items())
        (largest, most), (smallest, least) = classes[0], classes[-1]
        print(
            f"{name}: {len(classes):,} classes, from {largest} ({counted(most, 'image')}) to "
            f"{smallest} ({least:,})"
        )


def _print_lengths(found: "Examination") -> None:
    """How many captions are longer than the text tower reads."""
    num_captions = sum(found.token_lengths.values())
    print(
        f"captions cut off at context_length={found.context_length}: {found.num_truncated:,} of "
        f"{num_captions:,}; the longest has {counted(max(found.token_lengths), 'token')}"
    )


def _print_problems(found: "Examination") -> None:
    """Count of each kind of problem, and the first three."""
    for title, groups in (
        ("remarks on the tables", [[remark] for remark in found.remarks]),
        ("images that cannot be read", [[reason] for reason in found.broken.values()]),
        ("groups of images with the same pixels", found.exact_duplicates),
        ("pairs of images that look the same", found.near_duplicates),
        ("of these on both sides of the split", found.leaks),
    ):
        print(f"{title}: {len(groups):,}")
        for group in groups[:3]:
            print(f"    {' = '.join(group)}")
