"""The figures of docs/scaling.md, computed anew from the formulas that stand there."""

from collections.abc import Callable

import pytest

from tests.conftest import ROOT

WIDTH, PARAMETERS, OF_MUON = 512, 28.0e6, 26.9e6
ACTIVATIONS_PER_IMAGE, PIXELS_PER_IMAGE = 27.3e6, 3 * 224**2
MIB, GIB = 2**20, 2**30


def rows_under(heading: str) -> list[list[float]]:
    """The numbers of the table whose first line begins so."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    table = text.partition(f"\n| {heading}")[2].partition("\n\n")[0]
    return [
        [float(cell.replace(",", "")) for cell in line.strip("|").split("|")]
        for line in table.split("\n")[2:]
    ]


def features(batch_size: float) -> float:
    """F of the page."""
    return 2 * 4 * batch_size * WIDTH


def loss_memory(batch_size: float) -> list[float]:
    own = features(batch_size)
    at_once = [16 * batch_size**2 / num_processes + own for num_processes in (1, 8, 32)]
    in_tiles = [8 * chunk_size**2 + 1.25 * own for chunk_size in (4096, 1024)]
    return [value / GIB for value in (own, *at_once, *in_tiles)]


def activations(batch_size: float, num_processes: float) -> list[float]:
    rows = batch_size / num_processes
    of_images = [ACTIVATIONS_PER_IMAGE * count / GIB for count in (rows, 1024)]
    return [num_processes, rows, *of_images, PIXELS_PER_IMAGE * rows / GIB]


def traffic(batch_size: float, num_processes: float) -> list[float]:
    others = (num_processes - 1) / num_processes
    parts = [others * features(batch_size), 2 * others * features(batch_size), 2 * others * 4 * PARAMETERS]
    rounded = [round(part / MIB) for part in parts]
    steps_of_muon = others * 2 * OF_MUON / MIB
    return [num_processes, *rounded, sum(rounded), 2 * sum(rounded), round(steps_of_muon)]


@pytest.mark.parametrize(
    ("heading", "formula", "num_inputs", "rounding"),
    [
        ("B | F |", loss_memory, 1, 0.0051),
        ("B | N | rows", activations, 2, 0.051),
        ("B | N | features", traffic, 2, 0),
    ],
)
def test_the_figures_follow_from_the_formulas(
    heading: str, formula: Callable[..., list[float]], num_inputs: int, rounding: float
) -> None:
    rows = rows_under(heading)
    assert [row[0] for row in rows] == [4096, 32768, 65536, 262144]
    for row in rows:
        assert row[1:] == pytest.approx(formula(*row[:num_inputs]), abs=rounding, rel=0)
