"""SAM's family and Muon are full torch optimizers: groups, copies, schedulers, and clear refusals."""

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, StepLR

from miniclip.errors import SettingError, UserError
from miniclip.optim import GSAM, MSAM, SAM, Averaged, LastGradient, LookSAM, UnusualGradient
from tests.optim.test_sam import ADAMW, CURVATURE, SGD, batches, quadratic, regression, small_net
from tests.optim.test_sam_variants import MOMENTUM_SGD, MUON

Make = Callable[..., Optimizer]

FAMILY: dict[str, Make] = {
    "sam": lambda params, model: SAM(params, ADAMW, rho=0.1, model=model),
    "sam on muon": lambda params, model: SAM(params, MUON, rho=0.1, model=model),
    "gsam": lambda params, model: GSAM(params, MOMENTUM_SGD, rho=0.1, model=model),
    "looksam": lambda params, model: LookSAM(params, ADAMW, rho=0.1, interval=2, model=model),
    "msam": lambda params, model: MSAM(params, MOMENTUM_SGD, rho=0.1, model=model),
    "vasso": lambda params, model: SAM(
        params, ADAMW, rho=0.1, model=model, direction=Averaged(decay=0.6, gradient=0, average=1)
    ),
    "async_sam": lambda params, model: SAM(params, ADAMW, rho=0.1, model=model, direction=LastGradient()),
    "aesam": lambda params, model: SAM(params, ADAMW, rho=0.1, model=model, trigger=UnusualGradient()),
    "muon": lambda params, model: MUON(params),
}


def update(optimizer: Optimizer, model: nn.Module, inputs: Tensor) -> None:
    """One step with a closure, which only zeroes where the optimizer does not."""
    if not isinstance(optimizer, SAM):
        optimizer.zero_grad()
    optimizer.step(regression(model, inputs))  # type: ignore[arg-type]


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


@pytest.mark.parametrize("name", FAMILY)
def test_a_group_added_later_is_trained_as_if_it_had_been_there(name: str) -> None:
    finals = []
    for added in (False, True):
        model = small_net()
        first, last = [*model[:2].parameters()], [*model[3].parameters()]
        if added:
            optimizer = FAMILY[name](first, model)
            optimizer.add_param_group({"params": last})
        else:
            optimizer = FAMILY[name]([{"params": first}, {"params": last}], model)
        for inputs in batches(3):
            update(optimizer, model, inputs)
        finals.append(vector(model))
    # a last bit of the perturbation grows in Newton-Schulz
    torch.testing.assert_close(*finals, rtol=1e-5, atol=1e-4 if "muon" in name else 1e-6)
    assert not torch.equal(finals[1][-3:], vector(small_net())[-3:])


def test_a_group_added_to_muon_may_hold_what_it_had_none_of() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    for present, late in ((matrix, bias), (bias, matrix)):
        before = late.detach().clone()
        optimizer = MUON([present])
        optimizer.add_param_group({"params": [late], "lr": 0.1})
        (matrix.square().sum() + bias.square().sum()).backward()
        optimizer.step()
        assert not torch.equal(late, before) and optimizer.param_groups[1]["lr"] == 0.1


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_together_with_its_model_goes_on_as_the_original(name: str, way: str) -> None:
    model = small_net()
    optimizer = FAMILY[name](model.parameters(), model)
    StepLR(optimizer, 1)  # which puts a function of its own over `step`
    data = batches()
    for inputs in data[:3]:
        update(optimizer, model, inputs)
    copied_model, copied = _copied((model, optimizer), way)
    assert copied.param_groups[0]["params"][0] is not optimizer.param_groups[0]["params"][0]
    for inputs in data[3:]:
        update(optimizer, model, inputs)
        update(copied, copied_model, inputs)
    assert torch.equal(vector(copied_model), vector(model))


def _copied(both: Any, way: str) -> Any:
    if way == "deepcopy":
        return copy.deepcopy(both)
    if way == "pickle":
        return pickle.loads(pickle.dumps(both))
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("name", FAMILY)
def test_schedules_of_rate_and_momentum_reach_the_base(name: str) -> None:
    for scheduler_type in (
        partial(OneCycleLR, max_lr=0.1, total_steps=10),
        partial(CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
    ):
        model = small_net()
        optimizer = FAMILY[name](model.parameters(), model)
        scheduler = scheduler_type(optimizer)
        momenta = set()
        for inputs in batches(3):
            update(optimizer, model, inputs)
            scheduler.step()
            base = getattr(optimizer, "base_optimizer", optimizer)
            for group in base.param_groups:
                assert group["lr"] == scheduler.get_last_lr()[0]
                momenta.add(group["betas"][0] if "betas" in group else group["momentum"])
        assert len(momenta) == 3


def test_muon_follows_a_schedule_of_the_momentum() -> None:
    matrix = nn.Parameter(torch.ones(2, 2))
    optimizer = MUON([matrix])
    optimizer.param_groups[0]["betas"] = (0.5, 0.98)
    matrix.sum().backward()
    optimizer.step()
    assert torch.equal(optimizer.state[matrix]["momentum_buffer"], torch.full((2, 2), 0.5))


@pytest.mark.parametrize("name", ["sam", "gsam", "looksam", "msam"])
def test_a_scheduler_after_a_scaled_step_does_not_warn(name: str) -> None:
    model = small_net()
    optimizer: Any = FAMILY[name](model.parameters(), model)
    scheduler, scaler = StepLR(optimizer, 1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward(regression(model, batches(1)[0], scaler))
        scaler.unscale_(optimizer.base_optimizer)
        scaler.step(optimizer.base_optimizer)
        scaler.update()
        scheduler.step()


def test_settings_of_the_base_are_passed_on() -> None:
    w = nn.Parameter(torch.ones(2))
    for optimizer in (
        SAM([w], torch.optim.AdamW, lr=0.01, betas=(0.8, 0.9)),
        LookSAM([w], torch.optim.AdamW, lr=0.01, betas=(0.8, 0.9), rho=0.2),
    ):
        assert optimizer.param_groups[0]["lr"] == 0.01 and optimizer.defaults["betas"] == (0.8, 0.9)
    with pytest.raises(TypeError, match="momemtum"):
        SAM([w], torch.optim.SGD, lr=0.1, momemtum=0.9)  # type: ignore[call-arg]


# a group's own rho


def moved(optimizer: SAM, *params: nn.Parameter) -> list[Tensor]:
    """By how much the second pass sees each parameter moved; the loss is w'w."""
    seen: list[list[Tensor]] = []

    def closure() -> Tensor:
        seen.append([p.detach().clone() for p in params])
        loss = torch.stack([p.square().sum() for p in params]).sum()
        loss.backward()
        return loss.detach()

    optimizer.backward(closure)
    return [after - before for before, after in zip(seen[0], seen[-1], strict=True)]


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize(
    ("settings", "directions"),
    [
        ({}, ([0.6, 0.0], [0.8])),
        ({"per_layer": True}, ([1.0, 0.0], [1.0])),
        # w^2 g over ||w g||: 27 and 64 over the length of (9, 16)
        ({"adaptive": True}, ([27 / 337**0.5, 0.0], [64 / 337**0.5])),
    ],
)
def test_each_group_moves_by_its_own_rho(
    settings: dict[str, bool], directions: Any, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.optim.perturbation.is_on_host", lambda _: near)
    a, b = nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([4.0]))
    optimizer = SAM([{"params": [a], "rho": 0.2}, {"params": [b]}], SGD, rho=0.5, **settings)
    for e, rho, direction in zip(moved(optimizer, a, b), (0.2, 0.5), directions, strict=True):
        torch.testing.assert_close(e, rho * torch.tensor(direction), rtol=1e-4, atol=1e-6)
    assert optimizer.last_rho == 0.5


def test_a_loss_budget_holds_for_the_longest_group() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    for rho, groups in (
        (0.05, [{"params": [a], "rho": 0.5}, {"params": [b]}]),
        (0.0, [{"params": [a], "rho": 0.5}]),
    ):
        optimizer = SAM(groups, SGD, rho=rho, loss_budget=0.01)

        def closure() -> Tensor:
            loss = a.sum()
            loss.backward()
            return loss.detach()

        optimizer.backward(closure)
        assert optimizer.metrics["sharpness"].item() == pytest.approx(0.01, rel=1e-4)


def test_rho_warms_up_from_where_perturbations_begin() -> None:
    """Also in a run that goes on from a state before that, and from one in the middle of it."""
    rhos = []
    for resumed_at in ((), (3, 7)):
        w = nn.Parameter(torch.ones(3))
        rhos.append([])
        state: Any = None
        for number in range(10):
            if number == 0 or number in resumed_at:
                settings = {"rho_schedule": "warmup", "rho_warmup_steps": 4, "start_fraction": 0.5}
                optimizer = SAM([w], SGD, rho=0.4, **settings)
                if state is not None:
                    optimizer.load_state_dict(copy.deepcopy(state))
            optimizer.fraction_done = number / 10
            optimizer.step(quadratic(w))
            rhos[-1].append(optimizer.last_rho)
            state = optimizer.state_dict()
    assert rhos[0] == rhos[1] == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4])


def test_rho_warms_up_again_where_a_budget_that_has_grown_lets_sam_begin_again() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, rho=0.4, rho_schedule="warmup", rho_warmup_steps=4, start_fraction=0.5)
    rhos = []
    for number in range(14):
        optimizer.fraction_done = number / (6 if number < 5 else 20)
        optimizer.step(quadratic(w))
        rhos.append(optimizer.last_rho)
    assert rhos == pytest.approx([0, 0, 0, 0.1, 0.2, 0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.filterwarnings("ignore:Weights are torch")
@pytest.mark.parametrize("near", [True, False])
def test_weights_of_several_types_move_together(near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniclip.optim.perturbation.is_on_host", lambda _: near)
    for dtypes in ((torch.float16, torch.float32), (torch.float32, torch.float16)):
        weights = [nn.Parameter(torch.zeros(1, dtype=dtype)) for dtype in dtypes]
        factors = [2.0**20 if dtype is torch.float32 else 1.0 for dtype in dtypes]
        seen: list[float] = []

        def closure(weights: Any = weights, factors: Any = factors, seen: Any = seen) -> Tensor:
            seen[:] = [w.item() for w in weights]
            loss = sum(f * w.float().sum() for f, w in zip(factors, weights, strict=True))
            loss.backward()
            return loss.detach()

        SAM(weights, SGD, rho=0.05).backward(closure)
        assert seen[dtypes.index(torch.float32)] == pytest.approx(0.05)


@pytest.mark.filterwarnings("ignore:Weights are torch")
@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("gradient", [0.0, 2.0**-22])
def test_short_gradients_of_float16_move_as_far_as_any(
    near: bool, gradient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.optim.perturbation.is_on_host", lambda _: near)
    w = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    seen: list[float] = []

    def closure() -> Tensor:
        seen.append(w.item())
        (gradient * w).backward()
        return w.detach().sum()

    SAM([w], SGD, rho=0.5).backward(closure)
    assert seen == [0.0, 0.5 if gradient else 0.0]


def test_weights_come_back_also_of_another_type_and_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = SAM(model.parameters(), partial(torch.optim.SGD, lr=0.0), rho=0.3)
    optimizer.step(regression(model, torch.ones(4, 3)))

    model.double()
    with torch.no_grad():
        model.weight.add_(1e-12)
    before = vector(model)
    optimizer.step(regression(model, torch.ones(4, 3).double()))
    assert torch.equal(vector(model), before)

    with torch.no_grad():
        model.weight.add_(1)  # what is copied for the next step is not what was for the last
    before = vector(model)
    add, calls = Tensor.add_, []

    def interrupted_at_the_second(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[0].shape)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(*args, **kwargs)

    monkeypatch.setattr(Tensor, "add_", interrupted_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(regression(model, torch.ones(4, 3).double()))
    assert torch.equal(vector(model), before)


def test_an_overflow_of_the_first_pass_is_told_also_where_the_first_weights_are_none() -> None:
    empty, w = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(2))
    passes = []

    def closure() -> Tensor:
        passes.append(1)
        loss = empty.sum() + w.sum() * (torch.inf if len(passes) == 1 else 1.0)
        loss.backward()
        return loss.detach()

    SAM([empty, w], SGD, rho=0.1).backward(closure)
    assert w.grad is not None and w.grad.isnan().any()


@pytest.mark.parametrize("optimizer_type", [SAM, GSAM, LookSAM])
def test_a_rho_of_zero_leaves_a_group_out(optimizer_type: type[SAM]) -> None:
    a, b = nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([4.0]))
    groups = [{"params": [a], "rho": 0.0}, {"params": [b], "rho": 0.5}]
    first, second = moved(optimizer_type(groups, SGD, rho=0.0), a, b)
    assert not first.any() and second.norm() == pytest.approx(0.5)


def test_a_groups_rho_counts_also_where_the_others_have_none() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [a]}, {"params": [b], "rho": 0.5}]
    optimizer = SAM(groups, SGD, rho=0.0, rho_schedule="warmup", rho_warmup_steps=2)
    assert optimizer.num_passes(3) == 6
    lengths = []
    for _ in range(2):
        moved(optimizer, a, b)
        lengths.append(optimizer.last_rho)
    assert lengths == [0.25, 0.5]


@pytest.mark.parametrize("base", [SGD, ADAMW, partial(torch.optim.NAdam, lr=0.01)])
@pytest.mark.parametrize("optimizer_type", [SAM, GSAM, LookSAM, partial(SAM, adaptive=True)])
def test_maximizing_is_minimizing_the_negative(optimizer_type: Any, base: Any) -> None:
    finals = []
    for sign in (1, -1):
        w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def closure(w: Tensor = w, sign: int = sign) -> Tensor:
            loss = sign * (CURVATURE * w.square()).sum() / 2
            loss.backward()
            return loss.detach()

        optimizer = optimizer_type([w], partial(base, maximize=sign < 0), rho=0.3, measure_every=1)
        optimizer.step(closure)
        assert (optimizer.metrics["sharpness"] * sign) > 0  # the worst point of what is climbed is lower
        assert optimizer.metrics["gradient_cosine"] > 0
        optimizer.step(closure)
        finals.append(w.detach())
    torch.testing.assert_close(*finals)


def test_momentum_sam_maximizes_as_it_minimizes_the_negative() -> None:
    finals = []
    for sign in (1, -1):
        w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def closure(w: Tensor = w, sign: int = sign) -> Tensor:
            loss = sign * (CURVATURE * w.square()).sum() / 2
            loss.backward()
            return loss.detach()

        optimizer = MSAM([w], partial(MOMENTUM_SGD, maximize=sign < 0), rho=0.3)
        rhos = []
        for _ in range(3):
            optimizer.step(closure)
            rhos.append(optimizer.last_rho)
        assert rhos == [0, 0.3, 0.3]  # the first step knows no momentum
        finals.append(w.detach())
    assert torch.equal(*finals)


# refusals


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("rho", lambda w: SAM([w], SGD, rho=math.inf)),
        ("rho", lambda w: SAM([{"params": [w], "rho": -1.0}], SGD)),
        ("rho", lambda w: SAM([w], SGD).add_param_group({"params": [], "rho": math.nan})),
        ("alpha", lambda w: GSAM([w], SGD, alpha=math.inf)),
        ("lr", lambda w: SAM([w], torch.optim.AdamW, lr=math.inf)),
        ("lr", lambda w: SAM([{"params": [w], "lr": math.inf}], SGD)),
        ("weight_decay", lambda w: SAM([w], partial(torch.optim.SGD, lr=0.1, weight_decay=math.inf))),
        ("betas", lambda w: MSAM([w], partial(torch.optim.NAdam, betas=(0.9, -math.inf)))),
        ("lr", lambda w: MUON([w], lr=math.inf)),
        ("eps", lambda w: MUON([w], eps=math.nan)),
        ("momentum", lambda w: MUON([w], momentum=math.inf)),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(setting: str, make: Any) -> None:
    try:
        make(nn.Parameter(torch.ones(2)))
    except SettingError as error:
        assert error.setting == setting
    except ValueError as error:  # torch's own check came first
        assert setting == "betas" and "beta" in str(error)
    else:
        pytest.fail(f"{setting} was accepted")


def test_norms_only_without_norm_layers_says_so() -> None:
    frozen = small_net()
    frozen[1].requires_grad_(False)
    for model in (nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), frozen):
        params = [*model.parameters()] or [nn.Parameter(torch.ones(1))]
        with pytest.raises(SettingError, match=r"norms_only=true: finds no norm layer .* LayerNorm"):
            SAM(params, SGD, norms_only=True, model=model)


def test_a_base_that_evaluates_the_loss_itself_is_refused() -> None:
    with pytest.raises(SettingError, match="base=LBFGS: evaluates the loss itself"):
        SAM([nn.Parameter(torch.ones(1))], torch.optim.LBFGS)


@pytest.mark.parametrize("optimizer_type", [SAM, MSAM])
@pytest.mark.parametrize("returned", [None, 0.5])
def test_a_closure_without_a_tensor_is_refused(optimizer_type: type[SAM], returned: Any) -> None:
    w = nn.Parameter(torch.ones(3))

    def closure() -> Any:
        quadratic(w)()
        return returned

    with pytest.raises(UserError, match=f"return its loss as a tensor, not {returned}"):
        optimizer_type([w], SGD).step(closure)
    assert torch.equal(w, torch.ones(3))


def test_sparse_gradients_and_none_at_all_are_refused() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)

    def closure() -> Tensor:
        loss = embedding(torch.tensor([1])).sum()
        loss.backward()
        return loss.detach()

    for settings in ({}, {"start_fraction": 0.8}, {"direction": LastGradient()}):
        with pytest.raises(UserError, match="sparse=False"):
            SAM(embedding.parameters(), SGD, **settings).step(closure)
    with pytest.raises(UserError, match=r"must call backward\(\)"):
        SAM(embedding.parameters(), SGD).step(lambda: torch.zeros(()))


def test_a_step_without_its_passes_is_told_once() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD)
    quadratic(w)()
    with pytest.warns(UserWarning, match=r"Call step\(closure\)") as told:
        optimizer.step()
        optimizer.step()
    assert len(told) == 1 and told[0].filename == __file__

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (SAM([w], SGD), MSAM([w], MOMENTUM_SGD), SAM([w], SGD, rho=0.0)):
            other.step(quadratic(w))
            other.backward(quadratic(w))
            other.step()
        other.step()


def test_a_step_that_makes_the_state_for_a_checkpoint_is_no_plain_one() -> None:
    model = nn.Linear(2, 2)
    optimizer = SAM(model.parameters(), torch.optim.AdamW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        get_optimizer_state_dict(model, optimizer)
    assert set(optimizer.state) == set(model.parameters())

    model(torch.ones(1, 2)).sum().backward()
    with pytest.warns(UserWarning, match=r"Call step\(closure\)"):
        optimizer.step()


def test_a_step_that_raises_does_not_count() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, interval=2)

    def broken() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(broken)
    optimizer.step(quadratic(w))
    assert optimizer.last_rho > 0


def test_a_learning_rate_of_zero_is_a_rho_of_its_floor() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, lr=0.0, rho=0.2, rho_schedule="lr", rho_floor=0.25)
    optimizer.step(quadratic(w))
    assert optimizer.last_rho == pytest.approx(0.05) and torch.equal(w, torch.ones(3))


def test_an_interval_does_not_stretch_the_measurements() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, interval=3, measure_every=10)
    measured = []
    for number in range(40):
        optimizer.step(quadratic(w))
        if "perturbation_norm" in optimizer.metrics:
            measured.append(number)
    assert measured == [0, 12, 21, 30]


@pytest.mark.filterwarnings("ignore:Weights are torch")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_measures_of_a_model_in_half_precision_are_finite(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.full((3,), 200.0, dtype=dtype))  # gradients whose squares overflow float16

    def closure() -> Tensor:
        loss = (w * w * torch.tensor([1.0, 0.5, 0.25], dtype=dtype)).float().sum()
        loss.backward()
        return loss.detach()

    optimizer = SAM([w], SGD, rho=64.0)
    optimizer.backward(closure)
    assert optimizer.metrics["gradient_cosine"] == pytest.approx(1, abs=0.05)
    assert w.grad is not None and w.grad.isfinite().all()
