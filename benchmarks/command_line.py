"""What is typed behind `python -m benchmarks.NAME`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def arguments_of(
    description: str | None, *paths: str, settings: Sequence[str] | None = None, **numbers: int
) -> argparse.Namespace:
    """What was typed: paths, then whole numbers, which may be left out, then perhaps settings.

    Args:
        description: of the benchmark, for --help.
        paths: their names.
        settings: of MiniCLIP's config, where none are typed; None takes none.
        numbers: what each is where it is not typed.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    for name in paths:
        parser.add_argument(name, metavar=name.upper(), type=lambda text: Path(text).resolve())
    for name, default in numbers.items():
        parser.add_argument(name, metavar=name.upper(), type=int, nargs="?", default=default)
    if settings is not None:
        parser.add_argument("settings", metavar="SETTING=VALUE", nargs="*", default=settings)
    return parser.parse_args()
