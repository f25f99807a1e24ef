"""SAM against its formula, under overflow, through a checkpoint, with batch norm."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError
from miniclip.optim import SAM, frozen_statistics
from miniclip.training import Precision

SGD = partial(torch.optim.SGD, lr=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
CPU = torch.device("cpu")
CURVATURE = torch.tensor([1.0, 4.0, 9.0])


def quadratic(w: Tensor) -> Callable[[], Tensor]:
    """L(w) = w'Aw / 2 with A diagonal: the gradient is Aw."""

    def closure() -> Tensor:
        loss = (CURVATURE * w.square()).sum() / 2
        loss.backward()
        return loss.detach()

    return closure


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))


def regression(
    model: nn.Module, inputs: Tensor, scaler: torch.amp.GradScaler | None = None
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss = model(inputs).square().mean()
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss.detach()

    return closure


def batches(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 4, generator=generator) for _ in range(count)]


def test_a_quadratic_step_by_the_formula() -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    start = w.detach().clone()
    optimizer = SAM([w], SGD, rho=0.3)
    loss = optimizer.step(quadratic(w))
    gradient = CURVATURE * start
    perturbed = start + 0.3 * gradient / gradient.norm()
    torch.testing.assert_close(w.detach(), start - 0.1 * CURVATURE * perturbed)
    assert loss is not None
    torch.testing.assert_close(loss, (CURVATURE * start.square()).sum() / 2)


def test_adaptive_step_by_the_formula() -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    start = w.detach().clone()
    SAM([w], SGD, rho=0.3, adaptive=True).step(quadratic(w))
    gradient = CURVATURE * start
    e = 0.3 * start.square() * gradient / (start.abs() * gradient).norm()
    torch.testing.assert_close(w.detach(), start - 0.1 * CURVATURE * (start + e))


@pytest.mark.parametrize("per_layer", [False, True])
def test_norms_by_hand(per_layer: bool) -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    optimizer = SAM([first, second], SGD, rho=0.5, per_layer=per_layer)
    assert optimizer.ascend().item() == pytest.approx(5)
    expected = ([0.5, 0], [0.5]) if per_layer else ([0.3, 0], [0.4])
    torch.testing.assert_close(first.detach(), torch.tensor(expected[0]))
    torch.testing.assert_close(second.detach(), torch.tensor(expected[1]))


def test_rho_zero_is_the_base_optimizer_bit_for_bit() -> None:
    plain_model, sam_model = small_net(), small_net()
    plain = ADAMW(plain_model.parameters())
    sam = SAM(sam_model.parameters(), ADAMW, rho=0.0, model=sam_model)
    for inputs in batches():
        plain.zero_grad()
        regression(plain_model, inputs)()
        plain.step()
        sam.step(regression(sam_model, inputs))
    for ours, theirs in zip(
        sam_model.state_dict().values(), plain_model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_weights_come_back_bit_for_bit() -> None:
    model = small_net()
    storage = [p.data_ptr() for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    optimizer = SAM(model.parameters(), SGD, rho=0.7, model=model)
    for inputs in batches():
        optimizer.backward(regression(model, inputs))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert [p.data_ptr() for p in model.parameters()] == storage


def test_the_second_pass_sees_perturbed_weights() -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    seen = []

    def closure() -> Tensor:
        seen.append(w.detach().clone())
        return quadratic(w)()

    SAM([w], SGD, rho=0.3).step(closure)
    assert (seen[1] - seen[0]).norm().item() == pytest.approx(0.3)


def test_batch_norm_moves_once_counter_included() -> None:
    plain_model, sam_model = small_net(), small_net()
    inputs = batches(1)[0]
    plain_model(inputs)
    SAM(sam_model.parameters(), SGD, rho=0.5, model=sam_model).step(regression(sam_model, inputs))
    for ours, theirs in zip(sam_model.buffers(), plain_model.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert sam_model[1].num_batches_tracked == 1
    assert sam_model[1].track_running_stats


def test_frozen_statistics_still_normalise_by_the_batch() -> None:
    model, inputs = small_net(), batches(1)[0]
    normal = model(inputs)
    with frozen_statistics(model):
        assert torch.equal(model(inputs), normal)


def test_dropout_masks_are_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    dropout, w = nn.Dropout(0.5), nn.Parameter(torch.ones(100))
    masks = []

    def closure() -> Tensor:
        dropped = dropout(w)
        masks.append(dropped.detach() != 0)
        dropped.square().sum().backward()
        return dropped.detach().sum()

    optimizer = SAM([w], SGD, rho=0.1)
    optimizer.step(closure)
    optimizer.step(closure)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_state_dict_round_trip_continues_exactly() -> None:
    model = small_net()
    optimizer = SAM(model.parameters(), ADAMW, rho=0.1, model=model)
    for inputs in batches()[:3]:
        optimizer.step(regression(model, inputs))
    restored_model = small_net(seed=9)
    restored_model.load_state_dict(model.state_dict())
    restored = SAM(restored_model.parameters(), ADAMW, rho=0.1, model=restored_model)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for inputs in batches()[3:]:
        optimizer.step(regression(model, inputs))
        restored.step(regression(restored_model, inputs))
    for ours, theirs in zip(restored_model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_groups_are_shared_with_the_base_before_and_after_loading() -> None:
    model = small_net()
    optimizer = SAM(model.parameters(), ADAMW, rho=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.5
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.5


def test_weights_come_back_when_the_second_pass_raises() -> None:
    w = nn.Parameter(torch.ones(3))
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        if passes == 2:
            raise RuntimeError("out of memory")
        return quadratic(w)()

    with pytest.raises(RuntimeError):
        SAM([w], SGD, rho=0.5).step(closure)
    assert torch.equal(w, torch.ones(3))


def test_a_group_may_be_trained_and_not_perturbed() -> None:
    w, scale = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    seen = []

    def closure() -> Tensor:
        seen.append((w.detach().clone(), scale.detach().clone()))
        loss = (scale * w).square().sum()
        loss.backward()
        return loss.detach()

    SAM([{"params": [w]}, {"params": [scale], "perturb": False}], SGD, rho=0.5).step(closure)
    assert (seen[1][0] - seen[0][0]).norm().item() == pytest.approx(0.5)
    assert torch.equal(seen[1][1], seen[0][1])
    assert not torch.equal(scale, torch.ones(1))


@pytest.mark.parametrize("where", ["first pass", "second pass", "loss"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_leaves_weights_and_moments_and_halves_the_scale_once(
    where: str, dtype: Any, fused: bool
) -> None:
    model = small_net()
    base = partial(ADAMW, fused=fused)
    optimizer = SAM(model.parameters(), base, rho=0.1, model=model)
    precision = Precision(dtype=dtype, device=CPU)
    passes = 0
    broken = False

    def update(inputs: Tensor) -> Tensor:
        nonlocal passes
        passes = 0

        def closure() -> Tensor:
            nonlocal passes
            passes += 1
            with precision.autocast():
                loss = model(inputs).float().square().mean()
            if broken and where == "loss":
                loss = loss * torch.inf
            precision.backward(loss)
            if broken and passes == {"first pass": 1, "second pass": 2}.get(where):
                gradient = model[0].weight.grad
                assert gradient is not None
                gradient[0, 0] = torch.inf
            return loss.detach()

        optimizer.backward(closure)
        return precision.step(optimizer, max_norm=1.0)

    good, bad = batches(1)[0], batches(2)[1]
    for _ in range(3):
        assert update(good).isfinite()
    before = copy.deepcopy(dict(model.named_parameters()))
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    scale = precision.scaler.get_scale() if precision.scaler is not None else None
    broken = True
    assert not update(bad).isfinite()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, moments[index][key]), key
    if precision.scaler is not None:
        assert precision.scaler.get_scale() == scale / 2
    broken = False
    assert update(good).isfinite()
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_with_sgd_a_scaled_run_equals_the_unscaled_one() -> None:
    """SGD shows a gradient that was left scaled or unscaled twice; AdamW would hide it."""
    finals = []
    for scaled in (False, True):
        model = small_net()
        optimizer = SAM(model.parameters(), SGD, rho=0.1, model=model)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for inputs in batches():
            optimizer.backward(regression(model, inputs, scaler))
            scaler.unscale_(optimizer.base_optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(optimizer.base_optimizer)
            scaler.update()
        finals.append(nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(finals[1], finals[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rho", [-0.1, float("nan")])
def test_refuses_a_rho_that_is_no_length(rho: float) -> None:
    with pytest.raises(SettingError, match="rho"):
        SAM([nn.Parameter(torch.ones(1))], SGD, rho=rho)
