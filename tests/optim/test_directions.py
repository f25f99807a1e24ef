"""Each direction of the perturbation by its formula, on L(w) = w'Aw / 2."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.optim import (
    SAM,
    Averaged,
    Direction,
    Gradient,
    LastGradient,
    Momentum,
    Random,
    SurrogateGap,
    UnusualGradient,
)
from tests.optim.test_sam import ADAMW, CURVATURE, SGD, quadratic
from tests.optim.test_sam_variants import MOMENTUM_SGD

RHO = 0.3


def perturbations(optimizer: SAM, w: nn.Parameter, steps: int, *, scale: float = 1.0) -> list[Tensor]:
    """What each step's last pass saw of e."""
    found = []
    for _ in range(steps):
        before, seen = w.detach().clone(), []

        def closure(seen: list[Tensor] = seen) -> Tensor:
            seen.append(w.detach().clone())
            loss = scale * (CURVATURE * w.square()).sum() / 2
            loss.backward()
            return loss.detach() / scale

        optimizer.backward(closure, loss_scale=scale)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad /= scale
        optimizer.base_optimizer.step()
        found.append(seen[-1] - before)
    return found


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize(("of_gradient", "of_average"), [(0.0, 1.0), (1.0, -1.0), (1.0, 0.5)])
def test_an_average_of_unscaled_gradients(of_gradient: float, of_average: float, scale: float) -> None:
    w = start()
    direction = Averaged(decay=0.8, gradient=of_gradient, average=of_average)
    optimizer = SAM([w], SGD, rho=RHO, direction=direction)

    mean = CURVATURE * w.detach()
    perturbations(optimizer, w, 1, scale=scale)
    for _ in range(3):
        gradient = CURVATURE * w.detach()
        mean = 0.8 * mean + 0.2 * gradient
        (found,) = perturbations(optimizer, w, 1, scale=scale)
        torch.testing.assert_close(found, RHO * unit(of_gradient * gradient + of_average * mean))


def test_averages_are_those_of_a_scaler_that_changes() -> None:
    ways = []
    for scales in ((1.0, 1.0, 1.0), (1024.0, 512.0, 2048.0)):
        w = start()
        optimizer = SAM([w], SGD, rho=RHO, direction=Averaged(decay=0.8, gradient=0, average=1))
        ways.append(torch.cat([perturbations(optimizer, w, 1, scale=scale)[0] for scale in scales]))
    torch.testing.assert_close(*ways)


def test_f_sam_has_no_direction_in_its_first_step() -> None:
    """The average is the gradient then, and their difference is nothing."""
    w = start()
    optimizer = SAM([w], SGD, rho=RHO, direction=Averaged(decay=0.8, gradient=1, average=-1))
    assert not perturbations(optimizer, w, 1)[0].any()


def test_the_last_gradient_is_that_of_the_step_before() -> None:
    w = start()
    optimizer = SAM([w], SGD, rho=RHO, direction=LastGradient())
    places, found = [], []
    for _ in range(4):
        places.append(w.detach().clone())
        found += perturbations(optimizer, w, 1)
    assert not found[0].any()
    for number in range(1, 4):
        last = CURVATURE * (places[number - 1] + found[number - 1])
        torch.testing.assert_close(found[number], RHO * unit(last))


def test_a_last_gradient_that_is_not_finite_is_not_kept() -> None:
    w = start()
    optimizer = SAM([w], SGD, rho=RHO, direction=LastGradient())
    optimizer.step(quadratic(w))
    kept = copy.deepcopy(optimizer.state_dict()["sam"]["direction"]["last"])

    def overflowing() -> Tensor:
        loss = quadratic(w)()
        assert w.grad is not None
        w.grad[0] = torch.nan
        return loss

    optimizer.backward(overflowing)
    assert torch.equal(optimizer.state_dict()["sam"]["direction"]["last"][0], kept[0])


def test_a_last_gradient_is_that_of_the_step_before_or_none() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM([a, b], SGD, rho=RHO, direction=LastGradient())
    seen: list[Tensor] = []

    def step(*params: Tensor, scale: float) -> None:
        def closure() -> Tensor:
            seen.append(torch.cat([a, b]).detach())
            loss = scale * torch.cat(params).square().sum()
            loss.backward()
            return loss.detach()

        optimizer.backward(closure, loss_scale=scale)

    for params, scale in (((a, b), 1024.0), ((a,), 2.0), ((a, b), 2.0)):
        step(*params, scale=scale)
    torch.testing.assert_close(seen[2] - 1, RHO * unit(torch.tensor([1.0, 1.0, 0.0, 0.0])))


@pytest.mark.parametrize("near", [True, False])
def test_an_average_begins_with_the_first_gradient_of_a_step_that_counts(
    near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.optim.directions.is_on_host", lambda _: near)
    w = start()
    direction = Averaged(decay=0.6, gradient=0, average=1)
    means = []
    for gradient in ([torch.inf, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        w.grad = torch.tensor(gradient)
        means += direction.vectors([w], base=SGD([w]), step=0, loss_scale=1.0).values()
        direction.end_step([w])
    torch.testing.assert_close(means[1], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(means[2], torch.tensor([0.6, 0.4, 0.0]))


@pytest.mark.parametrize(
    "direction_type",
    [Gradient, partial(Averaged, decay=0.8, gradient=0, average=1), LastGradient, Random, Momentum],
)
def test_what_is_frozen_midway_rests(direction_type: Callable[[], Direction]) -> None:
    a, b = start(), start()
    optimizer = SAM([a, b], MOMENTUM_SGD, rho=RHO, direction=direction_type())
    moved = []

    def closure() -> Tensor:
        moved.append((not torch.equal(a, rests[0]), not torch.equal(b, rests[1])))
        loss = (a.square() + b.square()).sum()
        loss.backward()
        return loss.detach()

    for number in range(4):
        b.requires_grad_(number < 2)
        rests = a.detach().clone(), b.detach().clone()
        optimizer.step(closure)
    assert moved[-1] == (True, False)


def test_a_random_direction_is_that_of_its_step_and_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        w = start()
        optimizer = SAM([w], SGD, rho=RHO, direction=Random())
        drawn_before = torch.get_rng_state()
        found.append(perturbations(optimizer, w, 2))
        assert torch.equal(torch.get_rng_state(), drawn_before)  # dropout draws as without it
    assert torch.equal(torch.cat(found[0]), torch.cat(found[1]))
    assert not torch.equal(found[0][0], found[2][0])
    assert not torch.equal(found[0][0], found[0][1])
    assert found[0][1].norm() == pytest.approx(RHO)


def test_random_numbers_are_taken_in_the_order_of_memory() -> None:
    """In another order a CPU takes them one at a time, which was slower than a step of AdamW."""
    w = nn.Parameter(torch.zeros(8, 4, 3, 3).to(memory_format=torch.channels_last))
    flat = nn.Parameter(torch.zeros(w.numel()))
    found = []
    for p in (w, flat):
        torch.manual_seed(3)
        found += Random().vectors([p], base=SGD([p]), step=5, loss_scale=1.0).values()
    assert torch.equal(found[0].permute(0, 2, 3, 1).flatten(), found[1])
    assert found[0].stride() == w.stride()


def test_random_directions_of_steps_and_of_tensors_have_nothing_in_common() -> None:
    params = [nn.Parameter(torch.zeros(100, 1000)) for _ in range(2)]
    direction = Random()
    drawn = [
        unit(vector.flatten())
        for step in range(4)
        for vector in direction.vectors(params, base=SGD(params), step=step, loss_scale=1.0).values()
    ]
    cosines = torch.stack(drawn) @ torch.stack(drawn).T
    torch.testing.assert_close(cosines, torch.eye(8), atol=0.02, rtol=0)


def test_another_seed_is_another_table() -> None:
    w = start()
    torch.manual_seed(0)
    first, second = Random(), Random()
    (of_first,) = first.vectors([w], base=SGD([w]), step=0, loss_scale=1.0).values()
    second.vectors([w], base=SGD([w]), step=0, loss_scale=1.0)
    second.load_state_dict({"seed": 1}, [w])
    (of_second,) = second.vectors([w], base=SGD([w]), step=0, loss_scale=1.0).values()
    torch.manual_seed(1)
    (expected,) = Random().vectors([w], base=SGD([w]), step=0, loss_scale=1.0).values()
    assert torch.equal(of_second, expected)
    assert not torch.equal(of_second, of_first)


@pytest.mark.parametrize("direction_type", [LastGradient, Random])
def test_one_pass_per_step(direction_type: type[Direction]) -> None:
    w = start()
    optimizer = SAM([w], SGD, direction=direction_type())
    passes = []
    for _ in range(3):
        optimizer.step(lambda: [passes.append(1), quadratic(w)()][1])
    assert len(passes) == optimizer.num_passes(3) == 3


@pytest.mark.parametrize(
    ("axis", "settings"),
    [
        ("descent SurrogateGap", {"descent": SurrogateGap(alpha=0.4)}),
        ("trigger UnusualGradient", {"trigger": UnusualGradient()}),
        ("loss_budget=0.1", {"loss_budget": 0.1}),
    ],
)
def test_what_needs_a_first_pass_is_refused_without_one(axis: str, settings: dict) -> None:
    with pytest.raises(UserError, match=f"direction Random has no first pass, whose gradient {axis} needs"):
        SAM([start()], SGD, direction=Random(), **settings)


def test_a_run_goes_on_from_its_state() -> None:
    for make in (
        lambda: Averaged(decay=0.8, gradient=1, average=-0.5),
        LastGradient,
        Random,
    ):
        w, other = start(), start()
        whole, first, second = (SAM([p], ADAMW, rho=RHO, direction=make()) for p in (w, other, other))
        perturbations(whole, w, 5)
        perturbations(first, other, 3)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        perturbations(second, other, 2)
        assert torch.equal(w, other)


@pytest.mark.parametrize(("decay", "gradient", "average"), [(0.9, 0.0, 0.0), (0.0, 1.0, -1.0)])
def test_weights_that_leave_no_direction_are_refused(decay: float, gradient: float, average: float) -> None:
    with pytest.raises(SettingError, match="leaves no direction"):
        Averaged(decay=decay, gradient=gradient, average=average)
