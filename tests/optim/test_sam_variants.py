"""Each of SAM's family against its formula, and what must hold for all of them."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.optim import (
    GSAM,
    MSAM,
    SAM,
    Averaged,
    Functional,
    LastGradient,
    LookSAM,
    MuonAdamW,
    Random,
    Renormalized,
    UnusualGradient,
    WeightedGap,
    set_learning_rate,
)
from miniclip.training import Precision
from tests.optim.test_sam import ADAMW, CPU, CURVATURE, SGD, batches, quadratic, regression, small_net

MOMENTUM_SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)

MUON = partial(MuonAdamW, lr=0.01, weight_decay=0.1, momentum=0.95, betas=(0.9, 0.98), eps=1e-6)

VARIANTS: dict[str, Callable[..., SAM]] = {
    "sam": SAM,
    "per_layer": partial(SAM, per_layer=True),
    "asam": partial(SAM, adaptive=True),
    "gsam": partial(GSAM, alpha=0.4),
    "adaptive gsam": partial(GSAM, alpha=0.4, adaptive=True),
    "sam_norm_only": partial(SAM, norms_only=True),
    "looksam": partial(LookSAM, interval=3),
    "msam": MSAM,
    "adaptive msam": partial(MSAM, adaptive=True),
    "interval": partial(SAM, interval=3),
    "interval msam": partial(MSAM, interval=2),
    "vasso": lambda *args, **kw: SAM(*args, direction=Averaged(decay=0.6, gradient=0, average=1), **kw),
    "fsam": lambda *args, **kw: SAM(*args, direction=Averaged(decay=0.9, gradient=1, average=-1), **kw),
    "adaptive vasso": lambda *args, **kw: VARIANTS["vasso"](*args, adaptive=True, **kw),
    "async_sam": lambda *args, **kw: SAM(*args, direction=LastGradient(), **kw),
    "random_sam": lambda *args, **kw: SAM(*args, direction=Random(), **kw),
    "lesam": partial(SAM, loss_budget=0.01),
    "aesam": lambda *args, **kw: SAM(*args, trigger=UnusualGradient(low=-1, high=-1), **kw),
    "ssam": lambda *args, **kw: SAM(*args, descent=Renormalized(), **kw),
    "wsam": lambda *args, **kw: SAM(*args, descent=WeightedGap(gamma=0.8), **kw),
    "functional_sam": lambda *args, **kw: SAM(*args, descent=Functional(), **kw),
    "part": partial(SAM, perturb=["0"]),
    "stochastic_sam": partial(SAM, probability=0.5),
    "stochastic looksam": partial(LookSAM, interval=1, probability=0.5),
}


def make(name: str, model: nn.Module, base: Any = MOMENTUM_SGD, **settings: Any) -> SAM:
    return VARIANTS[name](model.parameters(), base, model=model, **{"rho": 0.1} | settings)


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors in a part of a state."""
    if isinstance(state, dict | list):
        values = state.values() if isinstance(state, dict) else state
        return [tensor for value in values for tensor in tensors_of(value)]
    return [state] if isinstance(state, Tensor) else []


def passes_of_next_step(optimizer: SAM, model: nn.Module, inputs: Tensor) -> int:
    """How many passes a copy takes."""
    copied, copied_model = copy.deepcopy((optimizer, model))
    passes: list[Tensor] = []

    def closure() -> Tensor:
        passes.append(inputs)
        return regression(copied_model, inputs)()

    copied.backward(closure)
    return len(passes)


def kept_by(optimizer: SAM) -> list[Tensor]:
    """What LookSAM keeps for the steps between."""
    return optimizer.state_dict()["sam"].get("descent", {}).get("kept", [])


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


# the formulas, on L(w) = w'Aw / 2


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_of_another_type_goes_on_as_one_that_loads_the_state(name: str) -> None:
    model = small_net()
    optimizer = make(name, model)
    first, second, *others = batches()
    for inputs in (first, second):
        optimizer.step(regression(model, inputs))

    state = copy.deepcopy(optimizer.state_dict())
    model.double()
    twin = copy.deepcopy(model)
    loaded = make(name, twin)
    loaded.load_state_dict(state)
    for inputs in others:
        optimizer.step(regression(model, inputs.double()))
        loaded.step(regression(twin, inputs.double()))

    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-5, atol=1e-6)
    kept = [value for part in optimizer.state_dict()["sam"].values() for value in tensors_of(part)]
    assert all(value.dtype == torch.float64 for value in kept)


def test_gsam_by_the_formula() -> None:
    w = start()
    before = w.detach().clone()
    GSAM([w], SGD, rho=0.3, alpha=0.4).step(quadratic(w))
    g = CURVATURE * before
    g_p = CURVATURE * (before + 0.3 * g / g.norm())
    orthogonal = g - (g @ g_p) / (g_p @ g_p) * g_p
    torch.testing.assert_close(w.detach(), before - 0.1 * (g_p - 0.4 * orthogonal))
    assert orthogonal.norm() > 0.1


@pytest.mark.parametrize("adaptive", [False, True])
def test_what_gsam_adds_is_orthogonal_to_the_perturbed_gradient(adaptive: bool) -> None:
    gradients = []
    for alpha in (0.0, 0.4):
        model = small_net()
        optimizer = GSAM(model.parameters(), SGD, rho=0.5, alpha=alpha, adaptive=adaptive, model=model)
        optimizer.backward(regression(model, batches(1)[0]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    perturbed, added = gradients[0], gradients[1] - gradients[0]
    assert added.norm() > 1e-3 * perturbed.norm()
    assert (added @ perturbed).abs() < 1e-5 * perturbed.norm() * added.norm()


def test_looksam_reuses_the_orthogonal_part() -> None:
    w = start()
    before = w.detach().clone()
    optimizer = LookSAM([w], SGD, rho=0.3, interval=2, alpha=0.7)
    optimizer.step(quadratic(w))
    g = CURVATURE * before
    g_s = CURVATURE * (before + 0.3 * g / g.norm())
    torch.testing.assert_close(w.detach(), before - 0.1 * g_s)
    kept = g_s - (g_s @ g) / (g @ g) * g
    between = w.detach().clone()
    optimizer.step(quadratic(w))
    g = CURVATURE * between
    torch.testing.assert_close(w.detach(), between - 0.1 * (g + 0.7 * g.norm() / kept.norm() * kept))


def test_looksam_forgets_what_was_frozen() -> None:
    """The length of the added part is that of the parameters that still have one."""
    w, frozen = start(), nn.Parameter(torch.tensor([5.0, -3.0]))
    optimizer = LookSAM([w, frozen], SGD, rho=0.3, interval=2, alpha=0.7)

    def closure() -> Tensor:
        loss = (CURVATURE * w**2).sum() / 2 + (torch.tensor([2.0, 0.5]) * frozen**2).sum()
        loss.backward()
        return loss.detach()

    for _ in range(2):
        optimizer.step(closure)
    frozen.requires_grad_(False)

    alone = start()
    alone.data.copy_(w.detach())
    plain = LookSAM([alone], SGD, rho=0.3, interval=2, alpha=0.7)
    for _ in range(2):
        optimizer.step(closure)
        plain.step(quadratic(alone))
    torch.testing.assert_close(w.detach(), alone.detach())


def test_weights_of_few_bits_are_warned_of() -> None:
    model = small_net().to(torch.bfloat16)
    with pytest.warns(UserWarning, match="Weights are torch.bfloat16, whose rounding"):
        SAM(model.parameters(), SGD, rho=0.1, model=model)


def test_looksam_with_k_1_is_sam() -> None:
    results = []
    for optimizer_type in (SAM, partial(LookSAM, interval=1)):
        model = small_net()
        optimizer = optimizer_type(model.parameters(), ADAMW, rho=0.1, model=model)
        for inputs in batches():
            optimizer.step(regression(model, inputs))
        results.append(vector(model))
    assert torch.equal(*results)


def test_msam_goes_against_the_momentum() -> None:
    w = start()
    seen = []

    def closure() -> Tensor:
        seen.append(w.detach().clone())
        return quadratic(w)()

    optimizer = MSAM([w], MOMENTUM_SGD, rho=0.3)
    optimizer.step(closure)
    after_first = w.detach().clone()
    momentum = CURVATURE * seen[0]
    optimizer.step(closure)
    torch.testing.assert_close(seen[1], after_first - 0.3 * momentum / momentum.norm())
    momentum = 0.9 * momentum + CURVATURE * seen[1]
    torch.testing.assert_close(w.detach(), after_first - 0.05 * momentum)


def test_msam_without_a_momentum_says_so() -> None:
    for base_type in (torch.optim.Adagrad, torch.optim.SGD):
        w = start()
        optimizer = MSAM([w], partial(base_type, lr=0.1), rho=0.3)
        with pytest.raises(UserError, match=f"with momentum; {base_type.__name__} keeps none"):
            for _ in range(2):
                optimizer.step(quadratic(w))


def test_interval_runs_the_base_optimizer_between() -> None:
    w, plain = start(), start()
    optimizer = SAM([w], SGD, rho=0.3, interval=3)
    for number in range(6):
        passes = 0

        def closure() -> Tensor:
            nonlocal passes
            passes += 1
            return quadratic(w)()

        plain.data.copy_(w.data)
        optimizer.step(closure)
        assert passes == (2 if number % 3 == 0 else 1)
        if number % 3:
            SGD([plain]).zero_grad()
            quadratic(plain)()
            SGD([plain]).step()
            assert torch.equal(w, plain)


def test_asam_does_not_feel_a_rescaled_layer() -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for scale in (1.0, 8.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
        model[0].weight.data *= scale
        model[2].weight.data /= scale
        seen: list[Tensor] = []

        def closure(model: nn.Module = model, seen: list[Tensor] = seen) -> Tensor:
            seen.append(regression(model, inputs)())
            return seen[-1]

        SAM(model.parameters(), SGD, rho=0.5, adaptive=True).backward(closure)
        losses.append(torch.stack(seen))
    torch.testing.assert_close(losses[1], losses[0])
    assert losses[0][1] > 1.05 * losses[0][0]


def test_norms_only_is_sam_over_the_norm_layers() -> None:
    results = []
    for restricted in (True, False):
        model = small_net()
        norm = [*model[1].parameters()]
        others = [p for p in model.parameters() if all(p is not n for n in norm)]
        groups = [{"params": others, "perturb": restricted}, {"params": norm}]
        optimizer = SAM(groups, ADAMW, rho=0.5, norms_only=restricted, model=model)
        for inputs in batches():
            optimizer.step(regression(model, inputs))
        results.append(vector(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_norms_only_computes_no_other_gradient_in_the_first_pass() -> None:
    model = small_net()
    with_gradient: list[list[bool]] = []

    def closure() -> Tensor:
        loss = regression(model, batches(1)[0])()
        with_gradient.append([p.grad is not None for p in model.parameters()])
        return loss

    SAM(model.parameters(), SGD, rho=0.5, norms_only=True, model=model).step(closure)
    assert with_gradient == [[False, False, True, True, False, False], [True] * 6]
    assert all(p.requires_grad for p in model.parameters())


def test_norms_only_needs_the_model() -> None:
    with pytest.raises(SettingError, match="norms_only"):
        SAM([start()], SGD, norms_only=True)


# schedules of rho and measures


def test_rho_follows_its_schedule() -> None:
    for schedule, expected in (
        ("constant", [0.4, 0.4, 0.4]),
        ("warmup", [0.2, 0.3, 0.4]),
        ("lr", [0.25, 0.4, 0.1]),
    ):
        w = start()
        settings: dict[str, Any] = {"rho_schedule": schedule, "rho_warmup_steps": 3}
        optimizer = SAM([w], SGD, rho=0.4, rho_floor=0.25, **settings)
        rhos = []
        for factor in (0.5, 1.0, 0.0):
            set_learning_rate(optimizer, factor)
            optimizer.step(quadratic(w))
            rhos.append(optimizer.last_rho)
        assert rhos == pytest.approx(expected), schedule


@pytest.mark.parametrize("settings", [{}, {"per_layer": True}, {"adaptive": True}])
def test_measures_by_hand(settings: dict[str, bool]) -> None:
    params = [start(), nn.Parameter(torch.tensor([0.3, -0.1]))]
    weights, gradients = [], []

    def closure() -> Tensor:
        loss = (CURVATURE * params[0].square()).sum() / 2 + 3 * params[1].square().sum() * params[0][0]
        loss.backward()
        weights.append([p.detach().clone() for p in params])
        gradients.append([p.grad.clone() for p in params if p.grad is not None])
        return loss.detach()

    optimizer = SAM(params, SGD, rho=0.3, measure_every=2, **settings)
    optimizer.step(closure)
    measures = optimizer.metrics
    first, second = (torch.cat(g) for g in gradients)
    if "adaptive" in settings:
        first, second = first * torch.cat(weights[0]), second * torch.cat(weights[0])
    cosine = torch.cosine_similarity(first, second, dim=0)
    moved = torch.cat(weights[1]) - torch.cat(weights[0])
    torch.testing.assert_close(measures["gradient_cosine"], cosine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measures["perturbation_norm"], moved.norm())
    optimizer.step(closure)
    assert optimizer.metrics.keys() == {"sharpness"}
    assert optimizer.metrics["sharpness"] > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_the_way_without_a_host_synchronisation_is_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finals = []
    for near in (True, False):
        for module in ("descents", "directions", "perturbation"):
            monkeypatch.setattr(f"miniclip.optim.{module}.is_on_host", lambda _, near=near: near)
        model = small_net()
        optimizer = make(name, model)
        for number, inputs in enumerate(batches(7)):
            closure = regression(model, inputs)
            before = vector(model)
            if number in (0, 3):  # an overflow is skipped, as a GradScaler would
                optimizer.backward(lambda closure=closure, model=model: _overflowing(closure, model))
                assert torch.equal(vector(model), before)
            else:
                optimizer.step(closure)
        finals.append(vector(model))
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-6)
    assert finals[0].isfinite().all()


def _overflowing(closure: Callable[[], Tensor], model: nn.Module) -> Tensor:
    loss = closure()
    for p in model.parameters():
        if p.grad is not None:
            p.grad.view(-1)[0] = torch.inf
    return loss


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("rho_floor", {"rho_floor": 1.2}),
        ("interval", {"interval": 0}),
        ("measure_every", {"measure_every": 0}),
        ("rho_warmup_steps", {"rho_warmup_steps": 0}),
        ("rho_schedule", {"rho_schedule": "linear"}),
    ],
)
def test_refuses_settings_out_of_range(setting: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        SAM([start()], SGD, rho=0.1, **settings)
    assert caught.value.setting == setting


@pytest.mark.parametrize("optimizer_type", [GSAM, LookSAM])
def test_refuses_a_negative_alpha(optimizer_type: Any) -> None:
    with pytest.raises(SettingError, match="alpha"):
        optimizer_type([start()], SGD, alpha=-0.1)


# what holds for all


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("done", [1, 2, 4])
@pytest.mark.parametrize("base", [MOMENTUM_SGD, MUON])
def test_a_state_dict_goes_on_in_the_middle_of_a_cycle(name: str, done: int, base: Any) -> None:
    model = small_net()
    optimizer = make(name, model, base, rho_schedule="warmup", rho_warmup_steps=5)
    data = batches(8)
    for inputs in data[:done]:
        optimizer.step(regression(model, inputs))
    restored_model = small_net(seed=9)
    restored_model.load_state_dict(model.state_dict())
    restored = make(name, restored_model, base, rho_schedule="warmup", rho_warmup_steps=5)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for inputs in data[done:]:
        optimizer.step(regression(model, inputs))
        restored.step(regression(restored_model, inputs))
    for ours, theirs in zip(restored_model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", VARIANTS)
def test_with_rho_zero_each_is_the_base_optimizer(name: str) -> None:
    plain_model, model = small_net(), small_net()
    plain, optimizer = MOMENTUM_SGD(plain_model.parameters()), make(name, model, rho=0.0)
    for inputs in batches():
        plain.zero_grad()
        regression(plain_model, inputs)()
        plain.step()
        optimizer.step(regression(model, inputs))
    assert torch.equal(vector(model), vector(plain_model))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weights_rest_where_they_were(name: str) -> None:
    model = small_net()
    optimizer = make(name, model, rho=0.7)
    storage = [p.data_ptr() for p in model.parameters()]
    for inputs in batches():
        before = vector(model)
        optimizer.backward(regression(model, inputs))
        assert torch.equal(vector(model), before)
        optimizer.step()
    assert [p.data_ptr() for p in model.parameters()] == storage


@pytest.mark.parametrize("name", VARIANTS)
def test_storage_is_made_once(name: str) -> None:
    model = small_net()
    optimizer = make(name, model)
    for inputs in batches():
        optimizer.step(regression(model, inputs))
    pointers = [saved.data_ptr() for saved in optimizer.perturbation._saved.values()]
    for inputs in batches():
        optimizer.step(regression(model, inputs))
    assert pointers and [saved.data_ptr() for saved in optimizer.perturbation._saved.values()] == pointers


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("dtype", "in_step"), [("float16", 3), ("float32", 3), ("float32", 4)])
@pytest.mark.parametrize("breaks_in_pass", [1, 2])
def test_an_overflow_in_one_micro_batch_skips_the_step_and_nothing_else(
    name: str, dtype: Any, breaks_in_pass: int, in_step: int
) -> None:
    model = small_net()
    optimizer = make(name, model, ADAMW, measure_every=1)
    precision = Precision(dtype=dtype, device=CPU)
    passes = 0

    def update(inputs: Tensor, *, broken: bool = False) -> Tensor:
        nonlocal passes
        passes = 0

        def closure() -> Tensor:
            nonlocal passes
            passes += 1
            losses = []
            for number, part in enumerate(inputs.chunk(4)):
                with precision.autocast():
                    loss = model(part).float().square().mean() / 4
                precision.backward(loss)
                if broken and passes == min(breaks_in_pass, most_passes) and number == 1:
                    for p in model.parameters():
                        if p.grad is not None:
                            p.grad.view(-1)[0] = torch.inf
                losses.append(loss.detach())
            return torch.stack(losses).sum()

        optimizer.backward(closure, loss_scale=precision.loss_scale)
        return precision.step(optimizer, max_norm=1.0)

    data = batches(8)
    for inputs in data[:in_step]:
        assert update(inputs).isfinite()
    kept = copy.deepcopy(kept_by(optimizer))
    most_passes = passes_of_next_step(optimizer, model, data[-1])
    before, moments = vector(model), copy.deepcopy(optimizer.state_dict()["state"])
    scale = precision.scaler.get_scale() if precision.scaler is not None else 0
    assert not update(data[-1], broken=True).isfinite()
    assert torch.equal(vector(model), before)
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, moments[index][key]), key
    if precision.scaler is not None:
        assert precision.scaler.get_scale() == scale / 2
    for now, then in zip(kept_by(optimizer), kept, strict=True):
        assert torch.equal(now, then)
    assert all(update(inputs).isfinite() for inputs in data[:4])
    assert not torch.equal(vector(model), before)


@pytest.mark.parametrize("name", VARIANTS)
def test_four_micro_batches_are_one_batch(name: str) -> None:
    finals = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
        optimizer = make(name, model)
        for inputs in batches():

            def closure(inputs: Tensor = inputs, model: nn.Module = model, parts: int = parts) -> Tensor:
                losses = [model(part).square().mean() / parts for part in inputs.chunk(parts)]
                for loss in losses:
                    loss.backward()
                return torch.stack(losses).sum().detach()

            optimizer.step(closure)
        finals.append(vector(model))
    torch.testing.assert_close(finals[1], finals[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_low_precision_stays_near_float32(name: str, dtype: Any, bound: float) -> None:
    """The way from the start differs by at most `bound` of its length."""
    ways = []
    for own_dtype in ("float32", dtype):
        model = small_net()
        origin = vector(model)
        optimizer = make(name, model)
        precision = Precision(dtype=own_dtype, device=CPU)
        for inputs in batches(6):

            def closure(
                inputs: Tensor = inputs, model: nn.Module = model, precision: Precision = precision
            ) -> Tensor:
                with precision.autocast():
                    loss = model(inputs).float().square().mean()
                precision.backward(loss)
                return loss.detach()

            optimizer.backward(closure, loss_scale=precision.loss_scale)
            precision.step(optimizer, max_norm=None)
        ways.append(vector(model) - origin)
    assert (ways[1] - ways[0]).norm() < bound * ways[0].norm()


@pytest.mark.parametrize(
    ("name", "base"),
    [
        *((name, MOMENTUM_SGD) for name in VARIANTS),
        *(
            (name, base)
            for name in ("sam", "gsam", "looksam", "msam", "vasso", "async_sam", "wsam")
            for base in (ADAMW, partial(torch.optim.NAdam, lr=0.01), MUON)
        ),
    ],
)
def test_each_learns_the_digits(name: str, base: Any) -> None:
    """Real data: handwritten digits of 8 x 8 pixels (scikit-learn), 300 to learn and 300 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32)[:600] / 16
    labels = torch.tensor(labels)[:600]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make(name, model, base, rho=0.05)
    for step in range(60):
        rows = torch.arange(60) + 60 * (step % 5)

        def closure(rows: Tensor = rows) -> Tensor:
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            return loss.detach()

        optimizer.step(closure)
    model.eval()
    accuracy = (model(images[300:]).argmax(dim=1) == labels[300:]).float().mean()
    assert accuracy > 0.75  # chance is 0.1
