"""Figures that benchmarks find: told one by one, kept as JSON, and shown as a Markdown table."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

KEPT_IN = "MINICLIP_FIGURES"
"""Environment variable that names the file which figures are appended to, a line of JSON each."""


class Figure(NamedTuple):
    """A figure beside what it is measured against.

    Attributes:
        name: of what was measured.
        rival: what stands beside it in the same run.
        unit: what the number counts.
        value: the median over the rounds.
        low: the least of them.
        high: the largest.
        rounds: how many there were.
        benchmark: the module of this package that found it, which `tell` enters.
    """

    name: str
    rival: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    benchmark: str = ""

    def __str__(self) -> str:
        spread = f" ({self.low:.3g} to {self.high:.3g} in {self.rounds} rounds)" if self.rounds > 1 else ""
        return f"{self.name}: {self.value:.3g} {self.unit} of {self.rival}{spread}"


def tell(figure: Figure) -> None:
    """Print a figure, and keep it where `python -m benchmarks all` has asked for it."""
    print(figure, flush=True)
    file = os.environ.get(KEPT_IN)
    if file is not None:
        benchmark = Path(sys.argv[0]).stem
        with open(file, "a", encoding="utf-8") as kept:
            kept.write(json.dumps(figure._replace(benchmark=benchmark)._asdict()) + "\n")


def read(file: Path) -> list[Figure]:
    """The figures that `tell` has kept in a file."""
    if not file.exists():
        return []
    return [Figure(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def as_markdown(conditions: str, figures: Iterable[Figure]) -> str:
    """A page with a table of all figures, but those of what stands beside itself."""
    rows = [
        f"| {each.benchmark} | {each.name} | {each.value:.3g} | {each.low:.3g} to {each.high:.3g} "
        f"| {each.rounds} | {each.unit} of {each.rival} |"
        for each in figures
        if each.name != each.rival
    ]
    head = ["| benchmark | | median | from, to | rounds | |", "|---|---|---|---|---|---|"]
    where = f"{conditions}. What each of them measures stands in `benchmarks/`."
    return "\n".join(["# Measured", "", where, "", *head, *rows, ""])
