"""Steps of Muon in one process out of several, for test_muon.py."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from miniclip.distributed import World
from miniclip.optim import orthogonal_step
from miniclip.training import TrainingStep
from tests.distributed.steps import training_step
from tests.optim.test_sam_variants import MUON

IN_EACH = ("optimizer=muon", "optimizer.muon_interval=1")

CASES: dict[str, tuple[str, ...]] = {
    "muon": IN_EACH,
    "sam on muon": ("optimizer=sam_on_muon", "optimizer.base.muon_interval=1"),
    "every second step": ("optimizer=muon", "optimizer.muon_interval=2"),
    "bfloat16": (*IN_EACH, "optimizer.precision=bfloat16"),
    "scaler": (*IN_EACH, "precision=fp16"),
}

NUM_STEPS = 5
SKIPPED = 2
"""The step whose gradient is not finite."""


def steps_of(settings: Sequence[str], world: World) -> dict[str, Any]:
    """Weights after each step of a whole model, last momenta, and how many matrices were orthogonalized."""
    step = training_step(settings, world)
    weights: list[Tensor] = []
    with counted_matrices() as counts:
        for number in range(NUM_STEPS):
            take_step(step, number)
            weights.append(weights_of(step))
    state = step.optimizer.base_optimizer.state
    return {
        "weights": torch.stack(weights),
        "momenta": [own["momentum_buffer"] for own in state.values() if "momentum_buffer" in own],
        "num_matrices": sum(counts),
    }


def take_step(step: TrainingStep, number: int) -> None:
    """Move towards random weights, with gradients that are equal in all processes."""
    params = [p for group in step.optimizer.param_groups for p in group["params"]]

    def closure() -> Tensor:
        generator = torch.Generator().manual_seed(number)
        loss = torch.zeros(())
        for p in params:
            loss = loss + (p - torch.randn(p.shape, generator=generator)).square().sum()
        if number == SKIPPED:
            loss = loss * torch.nan
        step.precision.backward(loss)
        return loss

    step.optimizer.backward(closure)
    step.precision.step(step.optimizer, max_norm=None)


def weights_of(step: TrainingStep) -> Tensor:
    return torch.cat([p.detach().flatten() for p in step.model.parameters()])


@contextmanager
def counted_matrices() -> Iterator[list[int]]:
    """A list of how many matrices each call of Newton-Schulz had."""
    counts: list[int] = []
    polynomial_of_gram, plain_iteration = (
        orthogonal_step.polynomial_of_gram,
        orthogonal_step.plain_iteration,
    )

    def counting_polynomial(grams: Tensor) -> Tensor:
        counts.append(len(grams))
        return polynomial_of_gram(grams)

    def counting_iteration(matrix: Tensor) -> Tensor:
        counts.append(1)
        return plain_iteration(matrix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orthogonal_step, "polynomial_of_gram", counting_polynomial)
        patch.setattr(orthogonal_step, "plain_iteration", counting_iteration)
        yield counts


def one_matrix(world: World) -> Tensor:
    """The weights, (4, 6), after a step of Muon that leaves the other processes nothing to do."""
    weight = torch.nn.Parameter(torch.eye(4, 6))
    optimizer = MUON([weight])
    optimizer.world = world
    weight.grad = torch.arange(24.0).view(4, 6)
    optimizer.step()
    return weight.detach()


def save(step: TrainingStep, path: Path) -> None:
    torch.save([step.model.state_dict(), step.optimizer.state_dict()], path)


def load(step: TrainingStep, path: Path) -> None:
    of_model, of_optimizer = torch.load(path)
    step.model.load_state_dict(of_model)
    step.optimizer.load_state_dict(of_optimizer)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    world = World.current()
    found: dict[str, Any] = {name: steps_of(settings, world) for name, settings in CASES.items()}

    resumed = training_step(CASES["every second step"], world)
    load(resumed, folder / "saved.pt")
    for number in range(3, NUM_STEPS):
        take_step(resumed, number)
    found["resumed"] = weights_of(resumed)
    found["one matrix"] = one_matrix(world)

    torch.save(found, folder / f"{world.rank}.pt")
    dist.destroy_process_group()
