"""Eleven ways in which a SAM goes wrong, each run against MiniCLIP's and those of three other packages.

A second table has each of MiniCLIP's presets.

    python -m benchmarks.sam_scorecard

Needs the extra `bench`. Every cell is what happened when it was tried here; nothing is looked up. A package
that is not installed is left out, which is told. zij is no part of the extra, for it asks for a torch below
2.13, which the extra would then bring; it runs with a later one: `pip install --no-deps zij`.

It is one file in spite of its length: each way is one function, and the table at the end is read beside
them.
"""

import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import resource
import statistics
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.timing import alternate, conditions
from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.config.groups import groups
from miniclip.data.batch import Batch
from miniclip.losses import ClipLoss
from miniclip.optim import SAM, MuonAdamW

Closure = Callable[[], Tensor]
RHO = 0.1


class Rival(NamedTuple):
    """A SAM as its documentation says to use it.

    Attributes:
        name: of its package, as it is installed.
        make: `(params, base class, model, **base settings) -> optimizer`.
        update: runs one step with a closure that does forward and backward and zeroes nothing.
        scaled_update: the same with a GradScaler, `(optimizer, scaler, closure, forced)`: ours by its
            docstring, others by the AMP page's recipe for clipping, since none of them tells one. That
            recipe unscales before each half-step, which the scaler refuses; `forced` makes it forget the
            first.
    """

    name: str
    make: Callable[..., Any]
    update: Callable[[Any, Closure], object]
    scaled_update: Callable[[Any, torch.amp.GradScaler, Closure, bool], object]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.name.lower()) is not None


class Verdict(NamedTuple):
    passed: bool
    detail: str


def _make_ours(params: Any, base: type, model: nn.Module | None = None, **settings: Any) -> Optimizer:
    return SAM(params, partial(base, **settings), rho=RHO, measure_every=None, model=model)


def _update_scaled_ours(
    optimizer: Any, scaler: torch.amp.GradScaler, closure: Closure, forced: bool
) -> None:
    optimizer.backward(closure, loss_scale=scaler.get_scale())
    scaler.unscale_(optimizer.base_optimizer)
    scaler.step(optimizer.base_optimizer)
    scaler.update()


def _make_two_step(
    package: str, params: Any, base: type, model: nn.Module | None = None, **settings: Any
) -> Optimizer:
    sam: Any = importlib.import_module(package).SAM
    return sam(params, base, rho=RHO, **settings)


def _update_two_step(optimizer: Any, closure: Closure) -> None:
    def again() -> Tensor:
        optimizer.zero_grad()
        return closure()

    again()
    optimizer.step(again)


def _update_scaled_two_step(
    optimizer: Any, scaler: torch.amp.GradScaler, closure: Closure, forced: bool
) -> None:
    optimizer.zero_grad()
    closure()
    scaler.unscale_(optimizer)
    optimizer.first_step(zero_grad=True)

    closure()
    if forced:
        scaler._per_optimizer_states.clear()
    scaler.unscale_(optimizer)
    optimizer.second_step()
    scaler.update()


def _make_temperon(params: Any, base: type, model: nn.Module | None = None, **settings: Any) -> Any:
    from temperon import Temperon

    # its tail, which is when it perturbs, is all of the run
    return Temperon(base(params, **settings), total_steps=1000, tail_frac=1.0, rho=RHO)


def _update_temperon(optimizer: Any, closure: Closure) -> None:
    def zeroed() -> Tensor:
        optimizer.zero_grad()
        return closure()

    optimizer.step(zeroed)


def _update_scaled_temperon(
    optimizer: Any, scaler: torch.amp.GradScaler, closure: Closure, forced: bool
) -> None:
    def unscaled() -> Tensor:
        optimizer.zero_grad()
        loss = closure()
        if forced:
            scaler._per_optimizer_states.clear()
        scaler.unscale_(optimizer.optimizer)
        return loss

    optimizer.step(unscaled)
    scaler.update()


OURS = Rival(
    "MiniCLIP", _make_ours, lambda optimizer, closure: optimizer.step(closure), _update_scaled_ours
)
THEIRS = Rival(
    "pytorch_optimizer",
    partial(_make_two_step, "pytorch_optimizer"),
    _update_two_step,
    _update_scaled_two_step,
)
ZIJ = Rival("zij", partial(_make_two_step, "zij"), _update_two_step, _update_scaled_two_step)
TEMPERON = Rival("temperon", _make_temperon, _update_temperon, _update_scaled_temperon)

RIVALS = {rival.name: rival for rival in (OURS, THEIRS, ZIJ, TEMPERON)}


def ours_of(preset: str) -> Rival:
    """MiniCLIP's by a preset of conf/optimizer, in the part of a run in which it perturbs."""
    return OURS._replace(make=partial(_make_preset, preset))


def _make_preset(
    preset: str, params: Any, base: type, model: nn.Module | None = None, **settings: Any
) -> Optimizer:
    cfg = _config_of(preset)
    if preset == "msam" and base is torch.optim.SGD:  # whose momentum it perturbs along
        settings.setdefault("momentum", 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name of which nothing is perturbed, in one of the ways
        factory = instantiate.make(cfg, "optimizer")
        optimizer: SAM = factory(params, base=partial(base, **settings), model=model)
    optimizer.fraction_done = 1.0
    return optimizer


@cache
def _config_of(preset: str) -> DictConfig:
    cfg = compose(f"optimizer={preset}", "optimizer.measure_every=null")
    if cfg.optimizer.get("perturb"):  # a tower, in whose place are the first two parts of the nets here
        cfg.optimizer.perturb = ["0", "1"]
    return cfg


def presets() -> list[str]:
    """The presets of conf/optimizer that perturb."""
    return sorted({*groups()["optimizer"]} - {*groups()["optimizer/base"]})


def installed() -> list[Rival]:
    """MiniCLIP's and those rivals that can be tried here."""
    return [rival for rival in RIVALS.values() if rival.is_installed]


def _tensors_of_state(optimizer: Any) -> list[Tensor]:
    """What an optimizer keeps, itself or in the one that it wraps."""
    wrapped = (getattr(optimizer, name, None) for name in ("base_optimizer", "optimizer"))
    states = [getattr(part, "state", {}) for part in (optimizer, *wrapped)]

    of_params = [state for each in states for state in each.values()]
    return [value for state in of_params for value in state.values() if isinstance(value, Tensor)]


def _kept_between_passes(optimizer: Any) -> list[Tensor]:
    """What an optimizer holds in the second pass, to come back to its weights by."""
    perturbation = getattr(optimizer, "_e_w", {})  # temperon's
    return [*_tensors_of_state(optimizer), *perturbation.values()]


def _net(seed: int = 0, *, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 4)
    )


def _closure(model: nn.Module, inputs: Tensor) -> Closure:
    def closure() -> Tensor:
        loss = model(inputs).square().mean()
        loss.backward()
        return loss.detach()

    return closure


def _inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(32, 8, generator=generator) for _ in range(count)]


def _weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def resume_keeps_the_moments(rival: Rival) -> Verdict:
    """A run that is saved and loaded after three steps ends as the uninterrupted one."""
    finals = []
    for interrupted in (False, True):
        model = _net()
        optimizer = rival.make(model.parameters(), torch.optim.AdamW, model, lr=0.01)
        for number, inputs in enumerate(_inputs(6)):
            if interrupted and number == 3:
                state = optimizer.state_dict()
                optimizer = rival.make(model.parameters(), torch.optim.AdamW, model, lr=0.01)
                optimizer.load_state_dict(state)
            rival.update(optimizer, _closure(model, inputs))
        finals.append(_weights(model))
    return Verdict(torch.equal(*finals), f"differs by {(finals[0] - finals[1]).abs().max():.1e}")


def overflow_in_the_first_pass(rival: Rival) -> Verdict:
    """One inf in a first gradient, ordinary under float16, leaves weights and moments finite.

    Under a GradScaler, as AMP's documentation uses it with several backward passes.
    """
    model = _net()
    optimizer = rival.make(model.parameters(), torch.optim.AdamW, model, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        loss = model(_inputs(1)[0]).square().mean()
        scaler.scale(loss).backward()
        if passes == 1:
            gradients = (p.grad for p in model.parameters() if p.grad is not None)
            next(gradients).view(-1)[0] = torch.inf
        return loss.detach()

    rival.scaled_update(optimizer, scaler, closure, True)
    kept = [_weights(model), *_tensors_of_state(optimizer)]
    finite = all(bool(value.isfinite().all()) for value in kept)
    return Verdict(finite, "weights or moments are NaN")


def first_update_skipped(rival: Rival) -> Verdict:
    """First steps that overflow, ordinary under float16, are as if they had not been: for every base."""
    broken = [name for name, make in BASES.items() if not _survives_skipped_start(rival, *make)]
    return Verdict(not broken, f"not as without it: {', '.join(broken)}")


BASES: dict[str, tuple[type, dict[str, Any]]] = {
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "fused": True}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.01}),
    "Muon": (
        MuonAdamW,
        {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "betas": (0.9, 0.98), "eps": 1e-6},
    ),
}


def _survives_skipped_start(rival: Rival, base: type, settings: dict[str, Any]) -> bool:
    finals = []
    for num_skipped in (0, 2):
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 4))
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.01)
        optimizer = rival.make(model.parameters(), base, model, **settings)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for number in range(num_skipped + 2):
            overflow = torch.inf if number < num_skipped else 1.0

            def closure(
                model: nn.Module = model, scaler: Any = scaler, overflow: float = overflow
            ) -> Tensor:
                loss = model(torch.ones(1, 64)).square().mean()
                scaler.scale(loss * overflow).backward()
                return loss.detach()

            # memory that was in use, which state without values would be made of
            used = [torch.full((64, 64), 1e30) for _ in range(50)]
            del used
            rival.scaled_update(optimizer, scaler, closure, True)
        finals.append(_weights(model))
    return torch.allclose(finals[0], finals[1], rtol=1e-3, atol=1e-4)


def missing_second_gradient(rival: Rival) -> Verdict:
    """A parameter without a gradient in the second pass is not left perturbed."""
    always, once = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        loss = always.square().sum() + (once.square().sum() if passes == 1 else 0)
        loss.backward()
        return loss.detach()

    model = nn.ParameterList([always, once])
    rival.update(rival.make([always, once], torch.optim.SGD, model, lr=0.1), closure)
    trained = not torch.equal(always, torch.ones(3))
    return Verdict(trained and torch.equal(once, torch.ones(3)), f"off by {(once - 1).abs().max():.1e}")


def storage_stays(rival: Rival) -> Verdict:
    """Weights keep their storage, and perturbing makes none anew: CUDA graphs and flat buffers hold."""
    model = _net()
    optimizer = rival.make(model.parameters(), torch.optim.SGD, model, lr=0.1)
    seen: list[tuple[int, ...]] = []
    for inputs in _inputs(4):
        kept: list[Tensor] = []

        def closure(inputs: Tensor = inputs, kept: list[Tensor] = kept) -> Tensor:
            # whatever the optimizer holds between the passes
            kept.extend(_kept_between_passes(optimizer))
            return _closure(model, inputs)()

        rival.update(optimizer, closure)
        held = list(optimizer.perturbation._saved.values()) if isinstance(optimizer, SAM) else kept
        _pool.extend(held)  # so that a freed address is not handed out again
        seen.append(tuple(t.data_ptr() for t in [*model.parameters(), *held]))
    weights_stay = len({pointers[:6] for pointers in seen}) == 1
    if not weights_stay:
        return Verdict(False, "weights change their storage")
    copies = {pointers[6:] for pointers in seen if len(pointers) > 6}  # a step may have no perturbation
    if isinstance(optimizer, SAM) and not copies:
        return Verdict(False, "no step has a perturbation")
    return Verdict(len(copies) <= 1, "one copy of the weights is allocated each step")


_pool: list[Tensor] = []


def exact_restore(rival: Rival) -> Verdict:
    """After 100 cycles with a learning rate of 0 every weight is what it was, bit for bit."""
    model = _net()
    optimizer = rival.make(model.parameters(), torch.optim.SGD, model, lr=0.0)
    before = _weights(model)
    for inputs in _inputs(100):
        rival.update(optimizer, _closure(model, inputs))
    fraction = (_weights(model) != before).float().mean()
    return Verdict(fraction.item() == 0, f"{100 * fraction:.1f} % of the weights moved")


def batch_norm_moves_once(rival: Rival) -> Verdict:
    """Running statistics and their counter move as in one plain step."""
    plain, model = _net(), _net()
    inputs = _inputs(1)[0]
    plain(inputs)
    optimizer = rival.make(model.parameters(), torch.optim.SGD, model, lr=0.1)
    rival.update(optimizer, _closure(model, inputs))
    same = all(torch.equal(a, b) for a, b in zip(plain.buffers(), model.buffers(), strict=True))
    return Verdict(same, f"num_batches_tracked is {model[1].num_batches_tracked}")


def scaled_is_unscaled(rival: Rival) -> Verdict:
    """A GradScaler changes nothing; with SGD, since AdamW hides a wrong scale."""
    finals = []
    for scaled in (False, True):
        model = _net()
        optimizer = rival.make(model.parameters(), torch.optim.SGD, model, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for inputs in _inputs(3):

            def closure(model: nn.Module = model, scaler: Any = scaler, inputs: Tensor = inputs) -> Tensor:
                loss = model(inputs).square().mean()
                scaler.scale(loss).backward()
                return loss.detach()

            try:
                rival.scaled_update(optimizer, scaler, closure, False)
            except RuntimeError as error:
                return Verdict(False, str(error).split(" since")[0])
        finals.append(_weights(model))
    close = torch.allclose(finals[0], finals[1], rtol=1e-5, atol=1e-6)
    return Verdict(close, f"off by {(finals[0] - finals[1]).abs().max():.1e}")


def no_host_synchronization(rival: Rival) -> Verdict:
    """A step asks the device for no value. Tried on `meta`, whose tensors have none to give."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
        inputs = torch.randn(32, 8)
    optimizer = rival.make(model.parameters(), torch.optim.SGD, model, lr=0.1)
    try:
        for _ in range(2):
            rival.update(optimizer, _closure(model, inputs))
    except (RuntimeError, NotImplementedError) as error:
        return Verdict(False, str(error).splitlines()[0][:60])
    return Verdict(True, "")


def temperature_stays(rival: Rival) -> Verdict:
    """A parameter can be trained and left out of the perturbation: the temperature."""
    w, scale = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    seen = []

    def closure() -> Tensor:
        seen.append(scale.detach().clone())
        loss = (scale * w).square().sum()
        loss.backward()
        return loss.detach()

    # ours reads `perturb`, others a group's own `rho`
    groups = [{"params": [w]}, {"params": [scale], "perturb": False, "rho": 0.0}]
    rival.update(rival.make(groups, torch.optim.SGD, nn.ParameterList([w, scale]), lr=0.1), closure)
    trained = not torch.equal(scale.detach(), seen[0])
    return Verdict(torch.equal(seen[0], seen[1]) and trained, f"moved by {(seen[1] - seen[0]).item():.1e}")


def accumulation(rival: Rival) -> Verdict:
    """Micro-batches: one perturbation, the same dropout masks in both passes."""
    model = _net(dropout=0.5)
    masks: list[Tensor] = []
    model[3].register_forward_hook(lambda _, inputs, output: masks.append(output == 0))

    def closure() -> Tensor:
        losses = [model(part).square().mean() / 4 for part in _inputs(1)[0].chunk(4)]
        for loss in losses:
            loss.backward()
        return torch.stack(losses).sum().detach()

    rival.update(rival.make(model.parameters(), torch.optim.SGD, model, lr=0.1), closure)
    same = all(torch.equal(a, b) for a, b in zip(masks[:4], masks[4:], strict=True))
    return Verdict(same and len(masks) == 8, "the second pass draws other masks")


Check = Callable[[Rival], Verdict]

PITFALLS: dict[str, Check] = {
    "resuming keeps the base optimizer's moments": resume_keeps_the_moments,
    "an inf in the first pass leaves weights and moments finite": overflow_in_the_first_pass,
    "first steps that are skipped leave no trace, under AdamW, SGD, NAdam, Muon": first_update_skipped,
    "a parameter without second gradient is restored": missing_second_gradient,
    "storage is made once and never swapped": storage_stays,
    "weights come back bit for bit, 100 cycles": exact_restore,
    "batch-norm statistics move once, the counter too": batch_norm_moves_once,
    "a GradScaler changes nothing (SGD)": scaled_is_unscaled,
    "no host synchronization in a step": no_host_synchronization,
    "the temperature is trained and not perturbed": temperature_stays,
    "micro-batches see the same dropout in both passes": accumulation,
}


def reason_to_leave_out(preset: str, check: Check) -> str | None:
    """Why a way to go wrong is none of a preset's; None where it is tried."""
    return LEFT_OUT.get(preset, {}).get(check)


_OF_TWO_PASSES: tuple[Check, ...] = (missing_second_gradient, temperature_stays, accumulation)
_IN_ONE: dict[Check, str] = dict.fromkeys(_OF_TWO_PASSES, "one pass, at w + e")
_COUNTED: dict[Check, str] = {first_update_skipped: "skipped steps count for what comes when"}
_WITHOUT_NORMS: tuple[Check, ...] = (first_update_skipped, missing_second_gradient, temperature_stays)

LEFT_OUT: dict[str, dict[Check, str]] = {
    "async_sam": _IN_ONE,
    "msam": _IN_ONE,
    "random_sam": {
        **_IN_ONE,
        **_COUNTED,
        batch_norm_moves_once: "one pass, at w + e",
        no_host_synchronization: "meta draws no numbers",
    },
    "stochastic_sam": {**dict.fromkeys(_OF_TWO_PASSES, "the first step has no perturbation"), **_COUNTED},
    "interval": _COUNTED,
    "looksam": _COUNTED,
    "aesam": {no_host_synchronization: "asks once in a step, as it says"},
    "functional_sam": {missing_second_gradient: "refused"},
    "sam_norm_only": dict.fromkeys(_WITHOUT_NORMS, "no norm layer to perturb"),
}
"""Ways that are none of a preset's, with the reason."""


def optimizer_seconds(rounds: int = 15) -> dict[str, float]:
    """Both half-steps less AdamW's step, over the default model's number of weights, in milliseconds."""
    shapes = [(512, 512, 3, 3)] * 5 + [(256, 256, 3, 3)] * 12 + [(1024, 256)] * 20 + [(256,)] * 60
    rivals: dict[str, Callable[[], object]] = {}
    for name in _with_adamw():
        params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        fill = partial(_fill, params, [torch.randn_like(p) for p in params])
        if name == "AdamW":
            rivals[name] = partial(_plain_update, torch.optim.AdamW(params, fused=True), fill)
        else:
            optimizer = RIVALS[name].make(params, torch.optim.AdamW, fused=True)
            rivals[name] = partial(RIVALS[name].update, optimizer, fill)
    times = alternate(rivals, rounds=rounds)

    return {
        name: 1000
        * statistics.median(a - b for a, b in zip(times.seconds[name], times.seconds["AdamW"], strict=True))
        for name in _with_adamw()[1:]
    }


def _with_adamw() -> list[str]:
    """AdamW alone, and all that is installed."""
    return ["AdamW", *(rival.name for rival in installed())]


def _fill(params: list[nn.Parameter], gradients: list[Tensor]) -> Tensor:
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = gradient
    return torch.zeros(())


def _plain_update(optimizer: Optimizer, closure: Closure) -> None:
    optimizer.zero_grad()
    closure()
    optimizer.step()


def memory_in_copies() -> dict[str, float]:
    """Peak memory of a step above AdamW's, in copies of the weights; each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in _with_adamw():
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(_peak_bytes, (name,))
    one_copy = 4 * MEMORY_PARAMS
    return {name: (peaks[name] - peaks["AdamW"]) / one_copy for name in _with_adamw()[1:]}


MEMORY_PARAMS = 100_000_000


def _peak_bytes(name: str) -> int:
    # above 32 MiB glibc gives freed memory back at once, so that the peak is what was in use
    params = [nn.Parameter(torch.ones(MEMORY_PARAMS // 10)) for _ in range(10)]

    def fill() -> Tensor:
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        return torch.zeros(())

    if name in RIVALS:
        optimizer = RIVALS[name].make(params, torch.optim.AdamW, fused=True)
        update = RIVALS[name].update
    else:
        optimizer, update = torch.optim.AdamW(params, fused=True), _plain_update
    for _ in range(3):
        update(optimizer, fill)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step_costs(rounds: int = 12) -> dict[str, float]:
    """A step of the default model over one with AdamW alone, in float32 as both can run it."""
    images, token_ids = torch.randn(64, 3, 48, 48), torch.randint(4096, (64, 12))
    batch = Batch(
        images.contiguous(memory_format=torch.channels_last), token_ids, torch.ones_like(token_ids).bool()
    )
    rivals: dict[str, Callable[[], object]] = {}
    for name in _with_adamw():
        cfg = compose("precision=fp32")
        torch.manual_seed(0)
        model = instantiate.make_model(cfg, vocab_size=4096).to(memory_format=torch.channels_last)
        closure = partial(_model_closure, model, batch)
        settings: dict[str, Any] = {"lr": 5e-4, "fused": True}
        if name == "AdamW":
            optimizer: Optimizer = torch.optim.AdamW(model.parameters(), **settings)
            rivals[name] = partial(_plain_update, optimizer, closure)
        else:
            optimizer = RIVALS[name].make(model.parameters(), torch.optim.AdamW, model, **settings)
            rivals[name] = partial(RIVALS[name].update, optimizer, closure)
    times = alternate(rivals, rounds=rounds)

    return {name: times.ratio(name, over="AdamW") for name in _with_adamw()[1:]}


def _model_closure(model: nn.Module, batch: Batch) -> Tensor:
    output = model(*batch[:3])
    loss = ClipLoss()(output.image_features, output.text_features, output.logit_scale)
    loss.backward()
    return loss.detach()


def cells_of_preset(preset: str) -> list[str]:
    """What each of the ways made of a preset."""
    cells = []
    for check in PITFALLS.values():
        reason = reason_to_leave_out(preset, check)
        cells.append(reason or _cell(check(ours_of(preset))))
    return cells


def _cell(verdict: Verdict) -> str:
    return "yes" if verdict.passed else f"**no**: {verdict.detail}"


def scorecard() -> dict[str, list[Verdict]]:
    """Every pitfall tried on all that are installed, in their order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {text: [_verdict(check, rival) for rival in installed()] for text, check in PITFALLS.items()}


def _verdict(check: Callable[[Rival], Verdict], rival: Rival) -> Verdict:
    """What came of a try; that a rival raises in the middle of one is an answer, too."""
    try:
        return check(rival)
    except Exception as error:
        if rival is OURS:
            raise
        reason = str(error).splitlines()[0][:60] if str(error) else "without a word"
        return Verdict(False, f"{type(error).__name__}, {reason}")


def main() -> None:
    rivals = installed()
    packages = [rival.name.replace("_", "-") for rival in rivals if rival is not OURS]
    print(conditions("torch", *packages))
    for rival in RIVALS.values():
        if rival not in rivals:
            print(f"{rival.name} is not installed and left out.")

    titles = [OURS.name, *(f"{name} {importlib.metadata.version(name)}" for name in packages)]
    print(f"\n| | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}")
    for text, verdicts in scorecard().items():
        print_row(text, [_cell(verdict) for verdict in verdicts])

    copies = memory_in_copies()  # first: a process starts with the peak of the one that started it
    costs, seconds = step_costs(), optimizer_seconds()
    names = [rival.name for rival in rivals]
    print_row(
        "a step of the default model, float32",
        [f"{costs[name]:.2f} times AdamW" for name in names],
    )
    print_row(
        "time in the optimizer alone, above AdamW",
        [f"{seconds[name]:.1f} ms" for name in names],
    )
    print_row(
        "peak memory above AdamW",
        [f"{copies[name]:.2f} copies of the weights" for name in names],
    )

    print(f"\n| preset | {' | '.join(PITFALLS)} |\n|{'---|' * (len(PITFALLS) + 1)}")
    for preset in presets():
        print_row(preset, cells_of_preset(preset))


def print_row(title: str, cells: list[str]) -> None:
    """Print a row of the table."""
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
