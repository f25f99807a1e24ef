"""What is typed behind `python -m benchmarks.NAME`."""

import argparse
import sys
from pathlib import Path


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows the description of a benchmark."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The folder of the images, as a whole path."""
    parser.add_argument("root", metavar="FOLDER", type=lambda text: Path(text).resolve())


def add_rounds(parser: argparse.ArgumentParser, default: int) -> None:
    """How often each rival is measured."""
    parser.add_argument("rounds", metavar="ROUNDS", type=int, nargs="?", default=default)


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Pairs of a batch."""
    parser.add_argument("batch_size", metavar="BATCH_SIZE", type=int, nargs="?", default=default)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Settings of MiniCLIP's config."""
    parser.add_argument("settings", metavar="SETTING=VALUE", nargs="*")
