"""Muon against torch's and by hand, who trains what, and states of all versions."""

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from miniclip.errors import SettingError
from miniclip.optim import SAM, MuonAdamW, ReusedAscent, parameter_groups, set_learning_rate
from miniclip.optim.muon import check_patterns
from miniclip.optim.newton_schulz import (
    COEFFICIENTS,
    plain_iteration,
    polynomial_of_gram,
    symmetric_product,
)
from tests.optim.test_sam import batches, regression, small_net
from tests.optim.test_sam_variants import MUON

PATTERNS = ("*embed*|*.wte.*|*.wpe.*|*.shared.*|*bias*",)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The published iteration in float64, written anew: through the singular values."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    return left @ values.diag() @ right


def network() -> nn.Module:
    """A network with a first convolution, a depthwise one, one for Muon, and an embedding."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "conv": nn.Conv2d(8, 6, 3),
            "token_embedding": nn.Embedding(7, 5),
            "linear": nn.Linear(5, 9),
            "scale": nn.Linear(1, 4),
        }
    )


def give_gradients(model: nn.Module, seed: int = 0) -> None:
    """Random gradients, the same for models of one shape, in whatever memory format."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int = 3) -> None:
    for seed in range(count):
        give_gradients(model, seed)
        optimizer.step()


def named(model: nn.Module, **settings: Any) -> MuonAdamW:
    return MUON(parameter_groups(model), adamw_patterns=PATTERNS, **settings)


# Newton-Schulz


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (3, 50), (32, 288), (300, 700)])
def test_the_polynomial_of_the_gram_matrix_is_the_iteration(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = 100 * torch.randn(3, *shape)
    polynomials = polynomial_of_gram(matrices @ matrices.mT)
    for matrix, polynomial in zip(matrices, polynomials, strict=True):
        expected = orthogonalized(matrix)
        torch.testing.assert_close((polynomial @ matrix).double(), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(plain_iteration(matrix).double(), expected, rtol=0, atol=0.05)
        values = torch.linalg.svdvals(polynomial @ matrix)
        assert values.max() < 1.3 and (shape[0] == shape[1] or values.min() > 0.6)


@pytest.mark.parametrize("side", [5, 64, 65, 300])
def test_half_of_a_symmetric_product_is_computed_and_mirrored(side: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, side, 40)
    gram = symmetric_product(rows, rows.mT)
    torch.testing.assert_close(gram, rows @ rows.mT)
    torch.testing.assert_close(gram, gram.mT)

    square = symmetric_product(gram, gram)
    cube = symmetric_product(gram, square)
    torch.testing.assert_close(cube, gram @ gram @ gram, rtol=0, atol=1e-6 * float(cube.max()))


def test_matrices_without_full_rank_and_without_length_stay_finite() -> None:
    torch.manual_seed(0)
    flat = torch.randn(64, 3) @ torch.randn(3, 576)
    for matrix in (flat, torch.zeros(64, 576), 1e-20 * flat, torch.ones(64, 576)):
        update = polynomial_of_gram((matrix @ matrix.T)[None])[0] @ matrix
        assert update.isfinite().all() and torch.linalg.matrix_norm(update, ord=2) < 1.3


# the step


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_that_of_torch(precision: str) -> None:
    """torch.optim.Muon works in bfloat16: against it within that, for matrices wide, tall and square."""
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((12, 40), (40, 12), (12, 12), (12, 30))]
    own, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimizer = MUON(own, precision=precision)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for seed in range(4):
        for each, params in ((optimizer, own), (reference, theirs)):
            give_gradients(nn.ParameterList(params), seed)
            set_learning_rate(each, 0.5)
            each.step()
    for p, expected in zip(own, theirs, strict=True):
        assert (p - expected).abs().max() < 4 * 0.05 * 0.2 * 0.005 * math.sqrt(max(p.shape))
        if precision == "bfloat16":
            torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix_of_its_outputs(memory_format: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3).to(memory_format=memory_format)
    weight = conv.weight
    start = weight.detach().clone()
    place = weight.data_ptr()
    optimizer = MUON([weight], conv_lr_factor=2.0)

    momentum = torch.zeros(6, 72, dtype=torch.float64)
    expected = start.double().flatten(1)  # (6, 8 * 3 * 3)
    for seed in range(3):
        give_gradients(conv, seed)
        assert weight.grad is not None
        gradient = weight.grad.double().flatten(1)
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.95 * momentum + 0.05 * gradient
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * 0.2 * math.sqrt(72) * orthogonalized(x)
        optimizer.step()

    torch.testing.assert_close(weight.double(), expected.view(6, 8, 3, 3), rtol=1e-4, atol=1e-6)
    assert weight.data_ptr() == place and weight.is_contiguous(memory_format=memory_format)
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_a_parameter_whose_memory_has_holes_moves_as_any_other() -> None:
    wide = torch.randn(6, 20)
    dense, holed = nn.Parameter(wide[:, ::2].contiguous()), nn.Parameter(wide[:, ::2])
    for p in (dense, holed):
        steps(MUON([p]), nn.ParameterList([p]))
    torch.testing.assert_close(holed, dense)
    assert not holed.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_types_keep_them(dtype: torch.dtype) -> None:
    model, expected = (small_net().to(dtype), small_net())
    for each in (model, expected):
        steps(MUON(each.parameters()), each)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert p.dtype is dtype
        torch.testing.assert_close(p.float(), q, rtol=0.02, atol=0.02)


def test_matrices_stepped_together_move_as_alone() -> None:
    together, alone = network(), network()
    steps(named(together), together)
    optimizers = [
        MUON([(name, p)], adamw_patterns=PATTERNS, weight_decay=0.1 if p.ndim > 1 else 0)
        for name, p in alone.named_parameters()
    ]
    for seed in range(3):
        give_gradients(alone, seed)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model, alone = small_net(), small_net()
    together = MUON(model.parameters())
    matrices = [p for p in alone.parameters() if p.ndim == 2]
    rest = [p for p in alone.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-6, fused=True)
    for seed in range(3):
        for own_model, optimizers in ((model, [together]), (alone, [muon, adamw])):
            give_gradients(own_model, seed)
            for optimizer in optimizers:
                set_learning_rate(optimizer, 0.5)
                optimizer.step()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        if p.ndim == 2:
            torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
        else:
            assert torch.equal(p, q)


def test_every_third_step_is_as_long_as_three() -> None:
    model = nn.Linear(6, 4, bias=False)
    start = model.weight.detach().clone()
    optimizer = MUON(model.parameters(), muon_interval=3, weight_decay=0.1)
    steps(optimizer, model, 2)
    assert torch.equal(model.weight, start)

    give_gradients(model, 2)
    gradients = []
    for seed in range(3):
        give_gradients(model, seed)
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.double())
    optimizer.step()

    momentum = torch.zeros(4, 6, dtype=torch.float64)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
    x = 0.95 * momentum + 0.05 * gradients[-1]
    expected = (1 - 0.03 * 0.1) * start - 0.03 * 0.2 * math.sqrt(6) * orthogonalized(x)
    torch.testing.assert_close(model.weight.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_told_of_an_overflow_changes_nothing() -> None:
    """As on a GPU, where the host does not wait for the news."""
    model = network()
    optimizer: Any = named(model)
    steps(optimizer, model)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])

    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    optimizer.step()

    after = [model.state_dict(), optimizer.state_dict()["state"]]
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_a_step_that_is_told_of_a_scale_divides_by_it() -> None:
    """The second step does: the first one of a matrix is as long for a gradient of any length."""
    plain, scaled = network(), network()
    steps(named(plain), plain, 2)

    optimizer: Any = named(scaled)
    steps(optimizer, scaled, 1)
    give_gradients(scaled, seed=1)
    torch._foreach_mul_([p.grad for p in scaled.parameters()], 8)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.zeros(())
    optimizer.step()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("interval", [1, 2])
def test_on_a_gpu_a_step_waits_for_nothing(interval: int) -> None:
    """Fake tensors say that they lie on a GPU, on any machine; to read one's value raises an error."""
    with FakeTensorMode(), torch.device("cuda"):
        model = network()
        optimizer: Any = named(model, precision="float32", muon_interval=interval)
        assert optimizer._step_supports_amp_scaling

        for p in model.parameters():
            p.grad = torch.empty_like(p)
        optimizer.grad_scale, optimizer.found_inf = None, torch.zeros(())
        for _ in range(interval):
            optimizer.step()
    assert not named(network())._step_supports_amp_scaling


def test_autocast_around_a_step_changes_nothing() -> None:
    plain, cast = network(), network()
    steps(named(plain), plain)
    with torch.autocast("cpu", torch.bfloat16):
        steps(named(cast), cast)
    for p, q in zip(plain.parameters(), cast.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_is_frozen_or_has_no_gradient_rests() -> None:
    model = network()
    optimizer = named(model)
    starts = [p.detach().clone() for p in model.parameters()]
    model["linear"].requires_grad_(False)
    for p in model["conv"].parameters():
        p.requires_grad_(False)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), starts, strict=True))
    assert not optimizer.state


# who trains what


def test_who_trains_what() -> None:
    optimizer = named(network())
    muon, adamw = optimizer.shares()["muon"], optimizer.shares()["adamw"]
    assert muon["names"] == ["conv.weight", "linear.weight"]
    assert (muon["tensors"], muon["weights"]) == (2, 6 * 8 * 9 + 9 * 5)
    assert {"stem.weight", "depthwise.weight", "token_embedding.weight", "scale.weight"} < set(
        adamw["names"]
    )
    assert adamw["tensors"] + 2 == len(list(network().parameters()))


def test_without_names_shapes_decide() -> None:
    model = network()
    with pytest.warns(UserWarning, match=r"give model\.named_parameters\(\)") as told:
        optimizer = MUON(model.parameters(), adamw_patterns=PATTERNS)
    assert told[0].filename == __file__
    trained = {p for group in optimizer.param_groups if group["use_muon"] for p in group["params"]}
    weights = (model[name].weight for name in ("conv", "token_embedding", "linear"))
    assert trained == set(weights)
    assert optimizer.shares()["muon"]["names"] == []


def test_a_shared_parameter_is_stepped_once_under_its_first_name() -> None:
    model = nn.ModuleDict({"token_embedding": nn.Embedding(7, 5), "head": nn.Linear(5, 7, bias=False)})
    model["head"].weight = model["token_embedding"].weight
    optimizer = named(model)
    assert optimizer.shares()["adamw"]["names"] == ["token_embedding.weight"]
    assert optimizer.shares()["muon"]["tensors"] == 0


def test_names_reach_muon_through_sam() -> None:
    model = network()
    base = partial(MUON, adamw_patterns=("conv.*", *PATTERNS))
    optimizer = SAM(parameter_groups(model), base, rho=0.1)
    assert isinstance(optimizer.base_optimizer, MuonAdamW)
    assert optimizer.base_optimizer.shares()["muon"]["names"] == ["linear.weight"]


def test_patterns_are_of_the_names_before_compiling() -> None:
    model = network()
    for child in ("conv", "token_embedding"):
        model[child] = torch.compile(model[child])
    compiled = torch.compile(model)
    optimizer = MUON(compiled.named_parameters(), adamw_patterns=("conv.*", "token_embedding.*"))
    assert optimizer.shares()["muon"]["names"] == ["_orig_mod.linear.weight"]


def test_a_pattern_of_nothing_is_named() -> None:
    check_patterns(["conv.*|nothing", "*.weight"], ["conv.weight"])
    with pytest.raises(SettingError, match=r"adamw_patterns=kconv.*: matches no parameter"):
        check_patterns(["*.weight", "kconv*"], ["conv.weight"])


def test_a_text_is_no_list_of_patterns() -> None:
    with pytest.raises(SettingError, match=r"adamw_patterns=\*embed\*: must be a list, as \['\*embed\*'\]"):
        MUON(network().named_parameters(), adamw_patterns="*embed*")


@pytest.mark.parametrize(
    "changes",
    [
        {"muon_interval": 0},
        {"precision": "float16"},
        {"conv_lr_factor": 0.0},
        {"conv_lr_factor": math.nan},
        {"lr": -1e-3},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.5)},
        {"eps": -1.0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        MUON(network().parameters(), **changes)
    assert [caught.value.setting] == [*changes]


# states


@pytest.mark.parametrize("interval", [1, 2])
def test_a_state_goes_on_to_the_bit(interval: int) -> None:
    model = network().to(memory_format=torch.channels_last)
    optimizer = named(model, muon_interval=interval)
    steps(optimizer, model)
    other = copy.deepcopy(model)
    resumed = named(other, muon_interval=interval)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file))
    for each, own in ((optimizer, model), (resumed, other)):
        steps(each, own)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def old_state(model: nn.Module) -> dict[str, Any]:
    """What version 0.2 kept of a model with three groups: two-dimensional tensors first, without names."""
    params = [p for group in parameter_groups(model) for p in group["params"]]
    states: list[dict[str, Any]] = []
    matrices, others = ([p for p in params if (p.ndim == 2) == is_2d] for is_2d in (True, False))
    states += [{"momentum_buffer": torch.full_like(p, 2.0)} for p in matrices]
    states += [
        {"step": torch.tensor(3.0), "exp_avg": torch.full_like(p, 3.0), "exp_avg_sq": torch.ones_like(p)}
        for p in others
    ]
    places = [[*range(len(matrices))], [*range(len(matrices), len(params))]]
    settings = {"lr": 0.5, "weight_decay": 0.1, "momentum": 0.95}
    return {
        "state": dict(enumerate(states)),
        "param_groups": [{**settings, "params": own} for own in places],
    }


def test_an_old_state_goes_on_and_what_changed_sides_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = named(model)
    optimizer.load_state_dict(old_state(model))
    state = optimizer.state
    assert state[model["linear"].weight]["momentum_buffer"].eq(2).all()
    assert state[model["conv"].weight]["momentum_buffer"].eq(3).all()
    assert state[model["stem"].weight]["exp_avg"].eq(3).all()
    assert not state[model["token_embedding"].weight]
    assert "3 tensors changed sides" in caplog.text
    assert [group["lr"] for group in optimizer.param_groups] == [0.01] * len(optimizer.param_groups)
    steps(optimizer, model)


def test_an_old_state_of_a_model_without_convolutions_is_all_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = small_net()
    optimizer = MUON(model.parameters())
    state = old_state(model)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.98)
    assert all(optimizer.state[p] for p in model.parameters())
    assert not caplog.text


def test_what_sam_kept_in_an_old_order_is_left_behind() -> None:
    model = network()
    base = partial(MUON, adamw_patterns=PATTERNS)
    sam = SAM(parameter_groups(model), base, descent=ReusedAscent(alpha=0.7), interval=5)
    kept = [torch.zeros(3)] * sum(1 for _ in model.parameters())
    sam.load_state_dict({**old_state(model), "sam": {"num_updates": 7, "descent": {"kept": kept}}})
    assert sam.num_updates == 7
    assert {*sam.descent.state_dict([*model.parameters()])["kept"]} == {None}


def _fewer(state: dict[str, Any]) -> dict[str, Any]:
    state["param_groups"].pop()
    return state


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda model: _fewer(old_state(model)), "another number of parameters"),
        (lambda model: MUON(parameter_groups(model)).state_dict(), "adamw_patterns give other parameters"),
    ],
)
def test_a_state_that_does_not_fit_says_so(make: Callable[[nn.Module], Any], reason: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=reason):
        named(model).load_state_dict(make(model))


def test_a_state_without_names_loads_into_an_optimizer_with_them() -> None:
    model, other = small_net(), small_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    regression(model, batches(1)[0])()
    optimizer.step()
    named_optimizer = torch.optim.AdamW([{"params": [*other.named_parameters()]}], lr=0.01)
    named_optimizer.load_state_dict(optimizer.state_dict())
    assert named_optimizer.param_groups[0]["param_names"] == [name for name, _ in other.named_parameters()]
