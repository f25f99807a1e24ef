"""Two processes that divide Newton-Schulz's work do what one does."""

from typing import Any

import pytest
import torch

from miniclip.distributed import World
from tests.distributed.children import children
from tests.distributed.muon_steps import (
    CASES,
    NUM_STEPS,
    SKIPPED,
    main,
    one_matrix,
    save,
    steps_of,
    take_step,
)
from tests.distributed.steps import training_step


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, one of whose runs goes on from what one process saved."""
    folder = tmp_path_factory.mktemp("muon")
    step = training_step(CASES["every second step"], World())
    for number in range(3):
        take_step(step, number)
    save(step, folder / "saved.pt")

    with children(folder, main, [(folder,)] * 2) as started:
        assert [child.end() for child in started] == [0, 0], [child.said() for child in started]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_step_as_one(name: str, both: list[dict[str, Any]]) -> None:
    first, second = (found[name] for found in both)
    alone = steps_of(CASES[name], World())
    assert torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=0, atol=1e-6)
    assert torch.equal(first["weights"][SKIPPED], first["weights"][SKIPPED - 1])

    assert len(first["momenta"]) > 10
    for of_first, of_second in zip(first["momenta"], second["momenta"], strict=True):
        assert torch.equal(of_first, of_second), "any process can save the state"

    numbers = [each["num_matrices"] for each in (first, second)]
    assert sum(numbers) == alone["num_matrices"], "each matrix is orthogonalized once"
    assert min(numbers) > alone["num_matrices"] / 4


def test_two_processes_go_on_from_a_state_of_one(both: list[dict[str, Any]]) -> None:
    """In the midst of an interval, whose momentum both have to go on with."""
    first, second = (found["resumed"] for found in both)
    assert torch.equal(first, second)
    whole = steps_of(CASES["every second step"], World())["weights"]
    torch.testing.assert_close(first, whole[NUM_STEPS - 1], rtol=0, atol=1e-6)


def test_a_process_without_a_matrix_moves_as_the_other(both: list[dict[str, Any]]) -> None:
    first, second = (found["one matrix"] for found in both)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one_matrix(World()), rtol=0, atol=3e-7)  # last bits of about 1
