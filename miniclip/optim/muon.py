"""Muon for a whole model."""

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from miniclip.distributed import World
from miniclip.errors import SettingError, above_zero, at_least, counted, in_range, one_of
from miniclip.optim.checks import check_group, check_list
from miniclip.optim.copied_state import copied_state
from miniclip.optim.matrix import Matrix
from miniclip.optim.memory_order import keep_memory_order
from miniclip.optim.norms import is_on_host
from miniclip.optim.orthogonal_step import NewtonSchulzPrecision, move_all
from miniclip.optim.passes import Closure, run_pass

log = logging.getLogger(__name__)

FEWEST_CHANNELS = 4
"""Convolutions that read fewer are the first one, of pixels, and depthwise ones: hardly matrices."""


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024) for matrices and convolutions, and AdamW for the rest.

    A convolution is the matrix of its outputs by all that each of them reads, out x (in * k * k). AdamW has
    everything of one, three or five dimensions, matrices with a side of one, convolutions that read fewer
    than four channels (the first one, depthwise ones), and what `adamw_patterns` name: embeddings, which
    are tables and no maps. Parameters that come without names are told apart by their shapes alone.

    A step of Muon, with the gradient G, momentum mu, rate lr and decay wd, is that of torch.optim.Muon
    under "match_rms_adamw", so that both sides share one learning rate and one weight decay:

        B <- mu B + (1 - mu) G,     X = mu B + (1 - mu) G           (Nesterov)
        W <- (1 - lr wd) W - 0.2 lr sqrt(max(out, in)) NS(X)

    What differs is how NS(X), the orthogonalized X, is computed: `miniclip.optim.newton_schulz`. Matrices
    of one smaller side go through it together.

    A group of both kinds becomes two, which `use_muon` tells apart. In a group of Muon's the first of
    `betas` is its momentum, so that schedules of the momentum find it in all groups under one name.

    Args:
        params: parameters or parameter groups; patterns want names, as `named_parameters` or a group's
            `param_names` give them. A parameter of several names is known by its first.
        lr: learning rate of both.
        weight_decay: decoupled, of both.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.
        adamw_patterns: names of matrices and convolutions that AdamW has, as globs ("*.stem.*"); one entry
            may list several, with | between.
        conv_lr_factor: the learning rate of Muon's convolutions over that of everything else.
        muon_interval: steps per step of Muon, which has so many times the learning rate; in those between,
            its momentum goes on and its weights rest. A step that is skipped is none of them, unless the
            device skips it without telling the host.
        precision: of Newton-Schulz: "float32", "bfloat16" (the iteration as published, with more
            multiplications), or "auto", bfloat16 on CUDA devices that have it.

    Attributes:
        world: the processes that orthogonalize together, by default this one alone. Who averages the
            gradients over several says so: all of them have to take each step, with equal gradients.

    Raises:
        SettingError: when a number is not finite or out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        adamw_patterns: Sequence[str] = (),
        conv_lr_factor: float = 1.0,
        muon_interval: int = 1,
        precision: NewtonSchulzPrecision = "auto",
    ):
        check_list("adamw_patterns", adamw_patterns)
        check_group({"betas": betas, "eps": eps, "conv_lr_factor": conv_lr_factor})
        at_least("eps", eps, 0)
        in_range("momentum", momentum, 0, 1, includes_high=False)
        above_zero("conv_lr_factor", conv_lr_factor)
        at_least("muon_interval", muon_interval, 1)
        one_of("precision", precision, get_args(NewtonSchulzPrecision))
        self.adamw_patterns = tuple(adamw_patterns)
        self.conv_lr_factor = conv_lr_factor
        self.muon_interval = muon_interval
        self.precision = precision
        self.world = World()
        self._momentum = momentum
        self._eps = eps
        self._adamw: Optimizer | None = None
        self._given: list[Tensor] = []

        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": tuple(betas)}
        super().__init__(params, defaults)
        # groups of matrices first
        self.param_groups.sort(key=lambda group: not group["use_muon"])
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of both parts. A closure is run first, and its loss returned."""
        loss = None if closure is None else run_pass(closure, 0)

        # what GradScaler tells optimizers whose step asks the device itself
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is None:
            self._step_muon()
        else:
            self._step_muon_unless(found_inf, grad_scale)

        if self._adamw is not None:
            self._adamw.grad_scale, self._adamw.found_inf = grad_scale, found_inf  # type: ignore[attr-defined]
            self._adamw.step()
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether steps are skipped on the device, which the host would wait for; see `GradScaler.step`."""
        return not any(is_on_host(p) for group in self.param_groups for p in group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters: the matrices by Muon, the rest by AdamW."""
        names_betas = "betas" in param_group
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        _check_group(group)
        self._given += group["params"]

        for part in self._split(group):
            if part["use_muon"] and not names_betas:
                part["betas"] = (self._momentum, group["betas"][1])
            if not part["use_muon"]:
                self._add_to_adamw(part)
            self.param_groups.append(part)

        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adopt a state, also one of an older version, which gave convolutions to AdamW.

        Raises:
            ValueError: when it is of other parameters, or of other patterns.
        """
        groups = state_dict["param_groups"]
        if any("use_muon" not in group for group in groups):
            state_dict = self._translated(state_dict)
        elif _kinds(groups) != _kinds(self.param_groups):
            raise ValueError("adamw_patterns give other parameters to Muon")

        super().load_state_dict(state_dict)
        self._share()

    def shares(self) -> dict[str, dict[str, Any]]:
        """What each part trains, by "muon" and "adamw": numbers of tensors and weights, and their names."""
        found: dict[str, dict[str, Any]] = {}
        for part, use_muon in (("muon", True), ("adamw", False)):
            groups = [group for group in self.param_groups if group["use_muon"] == use_muon]
            params = [p for group in groups for p in group["params"]]
            names = [name for group in groups for name in group.get("param_names", [])]
            num_weights = sum(p.numel() for p in params)
            found[part] = {"tensors": len(params), "weights": num_weights, "names": names}
        return found

    def __getstate__(self) -> dict[str, Any]:
        return copied_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _split(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """A group's matrices and its other parameters, each as a group of its own if there are any."""
        params = group["params"]
        names: list[str] | None = group.get("param_names")
        if names is None and self.adamw_patterns:
            warnings.warn(
                "adamw_patterns find nothing among parameters without names, whose shapes decide alone: "
                "give model.named_parameters(), or groups with param_names.",
                stacklevel=5,
            )
        known = names if names is not None else [""] * len(params)
        is_muons = [self._is_muons(name, p) for name, p in zip(known, params, strict=True)]

        parts = []
        for use_muon in (True, False):
            chosen = [index for index, is_own in enumerate(is_muons) if is_own == use_muon]
            if not chosen:
                continue
            part = {**group, "params": [params[index] for index in chosen], "use_muon": use_muon}
            if names is not None:
                part["param_names"] = [names[index] for index in chosen]
            parts.append(part)
        return parts

    def _is_muons(self, name: str, parameter: Tensor) -> bool:
        # as it was before torch.compile
        plain_name = name.replace("_orig_mod.", "")
        if any(matches(pattern, plain_name) for pattern in self.adamw_patterns):
            return False
        if parameter.ndim == 4:
            return parameter.shape[1] >= FEWEST_CHANNELS
        return parameter.ndim == 2 and min(parameter.shape) > 1

    def _add_to_adamw(self, group: dict[str, Any]) -> None:
        if self._adamw is None:
            self._adamw = torch.optim.AdamW([group], eps=self._eps, fused=True)
        else:
            self._adamw.add_param_group(group)

    def _share(self) -> None:
        """AdamW works on this optimizer's groups and state."""
        if self._adamw is not None:
            self._adamw.param_groups = [group for group in self.param_groups if not group["use_muon"]]
            self._adamw.state = self.state
            keep_memory_order(self._adamw)

    def _step_muon(self) -> None:
        """One step of Muon."""
        groups = [group for group in self.param_groups if group["use_muon"]]
        matrices = [matrix for group in groups for matrix in self._matrices(group)]
        move_all(matrices, self.precision, self.world)

    def _step_muon_unless(self, found_inf: Tensor, grad_scale: Tensor | None) -> None:
        """The same with gradients over `grad_scale` (); changes nothing where `found_inf` () is not 0."""
        groups = [group for group in self.param_groups if group["use_muon"]]
        params = [p for group in groups for p in group["params"] if p.grad is not None]
        if grad_scale is not None:
            for p in params:
                p.grad.div_(grad_scale)

        weights_and_momenta = [tensor for p in params for tensor in (p, self._momentum_of(p))]
        before = [tensor.clone() for tensor in weights_and_momenta]
        self._step_muon()
        for tensor, old in zip(weights_and_momenta, before, strict=True):
            tensor.copy_(torch.where(found_inf.bool(), old, tensor))

    def _momentum_of(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state["momentum_buffer"]

    def _matrices(self, group: dict[str, Any]) -> Iterator[Matrix]:
        """What of a group has a gradient and is due, with its momentum renewed."""
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                raise RuntimeError("Muon takes no sparse gradients")

            momentum = self._momentum_of(p)
            momentum.lerp_(p.grad, 1 - group["betas"][0])

            if self._is_due(self.state[p]):
                factor = self.conv_lr_factor if p.ndim == 4 else 1.0
                yield Matrix(p, momentum, group, lr=float(group["lr"]) * self.muon_interval * factor)

    def _is_due(self, state: dict[str, Any]) -> bool:
        """Whether a parameter is stepped now; counted in its state, which a resumed run goes on with."""
        if self.muon_interval == 1:
            return True
        state["step"] = int(state.get("step", 0)) + 1
        return state["step"] % self.muon_interval == 0

    def _translated(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A state of an older version in the order of this one, with the settings of this one.

        There Muon had all that is two-dimensional and nothing else. Where a parameter has changed sides
        AdamW's first moment, an average of gradients, serves as Muon's momentum; AdamW starts anew.
        """
        in_their_order = sorted(self._given, key=lambda p: p.ndim != 2)
        groups = state_dict["param_groups"]
        if sum(len(group["params"]) for group in groups) != len(in_their_order):
            raise ValueError("loaded state dict has another number of parameters")
        theirs = {p: state_dict["state"].get(index, {}) for index, p in enumerate(in_their_order)}

        own = self.state_dict()
        ours = [(p, group["use_muon"]) for group in self.param_groups for p in group["params"]]
        moments = {index: _moments(theirs[p], use_muon) for index, (p, use_muon) in enumerate(ours)}
        moved = [p for p, use_muon in ours if use_muon != (p.ndim == 2)]
        if moved:
            log.warning(
                "The state is of a version that gave convolutions to AdamW: %s changed sides.",
                counted(len(moved), "tensor"),
            )
        return {"param_groups": own["param_groups"], "state": {k: v for k, v in moments.items() if v}}


def matches(pattern: str, name: str) -> bool:
    """Whether one of a pattern's alternatives, which | divides, is a glob of the whole name."""
    return any(fnmatchcase(name, alternative) for alternative in pattern.split("|"))


def check_patterns(patterns: Iterable[str], names: Collection[str]) -> None:
    """Raise a SettingError where a pattern is of none of the names."""
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise SettingError(
                "adamw_patterns",
                pattern,
                "matches no parameter of the model; a run's environment.json lists their names",
            )


def _check_group(group: dict[str, Any]) -> None:
    """Raise a SettingError where a number of a parameter group is out of its range."""
    check_group(group)
    at_least("lr", float(group["lr"]), 0)
    at_least("weight_decay", group["weight_decay"], 0)
    for beta in group["betas"]:
        in_range("betas", beta, 0, 1, includes_high=False)


def _kinds(groups: Iterable[dict[str, Any]]) -> list[tuple[bool, list[str] | None]]:
    return [(group["use_muon"], group.get("param_names")) for group in groups]


def _moments(state: dict[str, Any], use_muon: bool) -> dict[str, Any]:
    """What a part can go on with of the other's state."""
    if not use_muon:
        return state if "exp_avg_sq" in state else {}
    momentum = state.get("momentum_buffer", state.get("exp_avg"))
    return {} if momentum is None else {"momentum_buffer": momentum}
