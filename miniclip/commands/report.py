"""Compare runs, or all runs of a sweep: outputs/report/report.html, report.md and report.csv."""

import argparse
import importlib.util
import sys
from pathlib import Path

from miniclip.errors import UserError
from miniclip.files import typed_path

EXAMPLES = """\
  miniclip report outputs/miniclip/RUN outputs/miniclip/ANOTHER_RUN
  miniclip report outputs/rho_sweep/SWEEP --control optimizer.rho=0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, and how they are compared."""
    parser.add_argument("paths", nargs="+", type=typed_path, metavar="RUN_OR_SWEEP")
    parser.add_argument(
        "--out", type=typed_path, default=Path("outputs") / "report", help="folder to write into"
    )
    parser.add_argument("--control", help="SETTING=VALUE of the groups that others are held against")
    parser.add_argument("--mix", action="store_true", help="also runs measured on different data")


def run(arguments: argparse.Namespace) -> None:
    """Write the report and print where its files are."""
    from miniclip.report.page import write_report
    from miniclip.report.runs import read_collection

    if importlib.util.find_spec("scipy") is None:
        raise UserError('miniclip report needs scipy: pip install -e ".[report]"')

    collection = read_collection(arguments.paths)
    files = write_report(collection, arguments.out, control=arguments.control, mixes=arguments.mix)
    for path in files:
        print(path)
    for sentence in collection.unstarted:
        print(sentence, file=sys.stderr)
