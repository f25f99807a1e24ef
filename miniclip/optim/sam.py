"""Sharpness-Aware Minimization (Foret et al. 2021, arXiv 2010.01412), safe under mixed precision.

One step minimizes the loss at the worst point near the weights, found to first order:

    e = rho * g / ||g||          first pass: gradient g at w, perturbation e (eq. 2)
    w <- base(w, grad L(w + e))  second pass: gradient at w + e, applied at w

Most of its variants are a choice on five axes: the direction of e (directions.py), its length (lengths.py),
the steps that have one (ascents.py, unusual_gradient.py), the weights that are moved (selection.py), and
what is made of both gradients (descents.py). `SAM` takes one of each; a paper is a file of conf/optimizer/.

What differs from the public implementations: the weights come back bit for bit, because they are
copied and not subtracted; storage is never swapped; a gradient that is not finite in either pass leaves
a gradient that is not finite, so that a GradScaler or `miniclip.training.Precision` skips the step;
batch-norm statistics and dropout masks of the second pass are those of the first; the number of steps
is part of the state, so that a cycle of several goes on where it was.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from miniclip.errors import SettingError, UserError, at_least
from miniclip.optim.ascents import Ascents
from miniclip.optim.checks import check_group, require_plain_step
from miniclip.optim.copied_state import copied_state
from miniclip.optim.descents import Descent
from miniclip.optim.directions import Direction, Gradient, Scale
from miniclip.optim.lengths import Lengths, RhoSchedule
from miniclip.optim.memory_order import keep_memory_order
from miniclip.optim.norms import length_of, norms_of, spoil_unless
from miniclip.optim.passes import Closure, run_pass
from miniclip.optim.perturbation import Perturbation
from miniclip.optim.randomness import Randomness
from miniclip.optim.selection import named_params, selected_params
from miniclip.optim.skipped import forget_skipped_state
from miniclip.optim.statistics import frozen_statistics, warning_of_moving_statistics
from miniclip.optim.unusual_gradient import UnusualGradient

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Base = Callable[..., Optimizer]


class SAM(Optimizer):
    """One-step SAM around any base optimizer.

    Alone:

        optimizer = SAM(model.parameters(), torch.optim.AdamW, lr=1e-3, rho=0.05, model=model)
        loss = optimizer.step(closure)

    With a GradScaler, `backward` leaves scaled gradients for the usual sequence:

        loss = optimizer.backward(closure)      # the closure calls scaler.scale(loss).backward()
        scaler.unscale_(optimizer.base_optimizer)
        scaler.step(optimizer.base_optimizer)
        scaler.update()

    Neither needs to unscale between the passes: g / ||g|| does not depend on the scale. Axes that do, the
    averages of gradients and what is held against their norm, are told it: `backward(closure,
    loss_scale=scaler.get_scale())`.

    Where autocast stands does not matter, in the closure or around `step(closure)`.

    Args:
        params: parameters or parameter groups. A group with `perturb: False` or `rho: 0` is trained, not
            perturbed. A group with a `rho` of its own moves by that times its part of the direction,
            e = rho_group * g / ||g||, where ||g|| is that of all perturbed groups together (with `adaptive`
            relative to the weights, with `per_layer` that of each tensor), and under the one schedule.
            Groups that the base climbs (`maximize: True`) are moved down the loss, to their worst point.
        base: makes the base optimizer from parameter groups.
        rho: length of the perturbation; 0 turns the second pass off, which is the base optimizer.
        direction: of the perturbation; None is the gradient at w. An object of its own for each optimizer.
        descent: what is made of both gradients; None takes that of w + e. An object of its own as well.
        per_layer: give each parameter tensor a perturbation of length rho, instead of all together.
        adaptive: measure the length relative to the weights, e = rho * w^2 g / ||w g|| (ASAM, Kwon et
            al. 2021, arXiv 2102.11600, eq. 4 with T_w = |w|, so that a rescaled layer changes nothing).
        loss_budget: by how much the perturbation may raise the loss, to first order: the length is
            min(loss_budget / ||g||, rho) (LE-SAM, arXiv 2605.10183); null for no limit.
        perturb: perturb these parameters only: names of modules or parameters, or patterns, such as
            "text_encoder" or "*.bias". Needs `model`. The first pass computes no other gradient, unless the
            model is in torch's DistributedDataParallel, which waits for all.
        norms_only: perturb the gains and biases of norm layers only (SAM-ON, Mueller et al. 2023, arXiv
            2306.04226). The first pass computes no gradient of any other weight, which makes a step cost
            5/3 instead of 2 plain ones; that part is ours. Needs `model`.
        interval: perturb in the first of so many steps, from `start_fraction` on; in those between, the
            base optimizer runs alone.
        start_fraction: perturb from this fraction of the run on (Zhou et al. 2025, arXiv 2410.10373), with
            the base optimizer alone before it. Who trains tells `fraction_done` before each step.
        probability: perturb in a step with this probability.
        trigger: perturb only where the gradient is unusual; null for always.
        rho_schedule: "constant"; "warmup", linear over `rho_warmup_steps` steps; or "lr", in
            proportion to the learning rate of the first group.
        rho_warmup_steps: steps until rho is reached under "warmup".
        rho_floor: what the schedule starts from, or falls to, as a fraction of rho.
        measure_every: steps between those that measure `metrics` in full, where they have a perturbation
            (of an interval the first one); null never does.
        sync_perturbation: where several processes train together, perturb along the mean of their
            gradients, as one process with the whole batch would. If not, each perturbs along its own
            (m-sharpness, Foret et al. 2021, section 4.1), and a first pass waits for no other process.
        model: its buffers, as batch norm's statistics are, are held still in the second pass. Without it
            they move twice per step, which the first one warns of.
        base_settings: further settings of the base optimizer.

    Attributes:
        fraction_done: fraction of the run that is over, from 0 to 1.
        last_rho: length of the last step's perturbation, the largest of all groups and before the loss
            budget; 0 where there was none.
        metrics: of the last step, tensors () on the device. After a second pass `sharpness`,
            L(w + e) - L(w), which is negative under `maximize`; every `measure_every` steps also
            `perturbation_norm` and, along the gradient, `gradient_cosine`, between the gradients of the two
            passes (with `adaptive`, both relative to the weights).

    Raises:
        SettingError: when rho is negative or another number out of its range or not finite, when
            `perturb` or `norms_only` finds nothing, when the base evaluates the loss itself, as LBFGS
            does, or when axes contradict each other.
    """

    def __init__(
        self,
        params: Params,
        base: Base,
        *,
        rho: float = 0.05,
        direction: Direction | None = None,
        descent: Descent | None = None,
        per_layer: bool = False,
        adaptive: bool = False,
        loss_budget: float | None = None,
        perturb: Sequence[str] | None = None,
        norms_only: bool = False,
        interval: int = 1,
        start_fraction: float = 0.0,
        probability: float = 1.0,
        trigger: UnusualGradient | None = None,
        rho_schedule: RhoSchedule = "constant",
        rho_warmup_steps: int = 100,
        rho_floor: float = 0.0,
        measure_every: int | None = 10,
        sync_perturbation: bool = True,
        model: nn.Module | None = None,
        **base_settings: Any,
    ):
        if measure_every is not None:
            at_least("measure_every", measure_every, 1)
        self.lengths = Lengths(
            rho=rho,
            schedule=rho_schedule,
            warmup_steps=rho_warmup_steps,
            floor=rho_floor,
            loss_budget=loss_budget,
        )
        self.ascents = Ascents(
            interval=interval,
            start_fraction=start_fraction,
            probability=probability,
        )
        self.perturbation = Perturbation(per_layer=per_layer, adaptive=adaptive)

        super().__init__(params, {})
        self.direction = direction or Gradient()
        self.descent = descent or Descent()
        self.trigger = trigger
        self.measure_every = measure_every
        self.sync_perturbation = sync_perturbation
        self.ascends_alone = False
        self.model = model
        self.fraction_done = 0.0
        self.num_updates = 0
        self._num_before: int | None = None
        self.last_rho = 0.0
        self.metrics: dict[str, Tensor] = {}
        self._only = selected_params(model, norms_only=norms_only, perturb=perturb)
        self._loss_scale: Scale = 1.0
        self._has_looked_for_statistics = False
        self._has_run_passes = False
        self._has_warned_of_plain_step = False
        self._check_axes()

        self.base_optimizer = base(self.param_groups, **base_settings)
        require_plain_step(self.base_optimizer)
        self._share_base()
        for group in self.param_groups:
            check_group(group)
        self._check_choice(perturb)
        self._check_precision()

    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of the base optimizer.

        With a closure both passes run first; without one, `backward` has been called, or else the step is
        that of the base optimizer alone, which the first one warns of.
        """
        loss = None if closure is None else self.backward(closure)
        self._warn_of_plain_step()
        self.base_optimizer.step()
        return loss

    def backward(self, closure: Closure, *, loss_scale: Scale = 1.0) -> Tensor:
        """Run the passes: `.grad` ends as the gradient to apply, the weights end as they were.

        Args:
            loss_scale: the factor on the closure's gradients; a tensor () is not waited for.

        Returns:
            the loss of the first pass, at w.

        Raises:
            UserError: when the closure returns no tensor, or leaves sparse gradients or none at all.
        """
        # torch's schedulers ask whether the optimizer has begun; a GradScaler steps the base alone
        self._opt_called = True
        self._has_run_passes = True
        # an autocast around this call would keep low-precision copies of the weights before the last step
        torch.clear_autocast_cache()
        self.zero_grad()
        self.metrics = {}
        self._loss_scale = loss_scale

        if not self.ascents.has_begun(self.fraction_done):  # also again, in a budget that has grown
            self._num_before = None
        elif self._num_before is None:
            self._num_before = self.num_updates
        rho = self.lengths.largest(self.param_groups, step=self._steps_since_begun())
        first = self._num_before
        ascends = rho > 0 and first is not None and self.ascents.include(self.num_updates, first=first)
        self.last_rho = rho if ascends else 0.0
        if not ascends:
            loss = self._first_pass(closure)
            if rho > 0 and first is not None:
                self.descent.between(self._all_params())
        elif self.direction.needs_first_pass:
            loss = self._both_passes(closure)
        else:
            loss = self._one_pass(closure)

        self.direction.end_step(self._all_params())
        if self.trigger is not None:
            self.trigger.end_step(self._all_params())
        self.num_updates += 1
        return loss

    @torch.no_grad()
    def ascend(self, rho: float | None = None) -> Tensor:
        """Save the weights and move them to w + e. Returns the direction's norm, finite or not, ().

        Args:
            rho: in place of the current one.
        """
        perturbed = set(self.perturbed_params())
        rhos = self.lengths.signed(self.param_groups, perturbed, step=self._steps_since_begun(), rho=rho)
        directions = self.direction.vectors(
            list(rhos),
            base=self.base_optimizer,
            step=self.num_updates,
            loss_scale=self._loss_scale,
        )
        if not directions:  # there is none before the second step
            self.last_rho = 0.0
            return torch.zeros(())

        points_back = self.direction.points_back
        return self.perturbation.move(
            directions,
            [-abs(rhos[p]) if points_back else rhos[p] for p in directions],
            factor=self._budget_factor(),
            may_overwrite=self.direction.may_overwrite,
        )

    def descend(self) -> None:
        """Copy the saved weights back, exactly, whether or not they had a second gradient."""
        self.perturbation.undo()

    def num_passes(self, steps: int, *, total: int | None = None) -> int:
        """Forward passes of the first steps of a run of a total of so many; at most, with a `trigger`.

        Args:
            total: None where the run ends with these steps.
        """
        perturbs = any(self.lengths.of_group(group) > 0 for group in self.param_groups)
        if not perturbs or not self.direction.needs_first_pass:
            return steps
        return steps + self.ascents.count(steps, total=steps if total is None else total)

    @property
    def knows_its_passes(self) -> bool:
        """Whether `num_passes` is exact: a `trigger` decides only within a step."""
        return self.trigger is None

    @property
    def reuses_feature_gradient(self) -> bool:
        """Whether the second pass carries the first one's feature gradient back; see `Functional`."""
        return self.descent.reuses_feature_gradient

    @property
    def perturbs_alone(self) -> bool:
        """Whether each of several processes perturbs its own weights along its own gradient."""
        return not self.sync_perturbation

    @property
    def host_metrics(self) -> dict[str, float]:
        """The length of the last step's perturbation; see `PassOptimizer`."""
        return {"rho": self.last_rho}

    def perturbed_params(self) -> Iterator[Tensor]:
        """The parameters that take part in the perturbation."""
        for group in self.param_groups:
            if group.get("perturb", True) and group.get("rho") != 0:
                trained = (p for p in group["params"] if p.requires_grad)
                yield from (p for p in trained if self._only is None or p in self._only)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters, with the settings of the base optimizer where the group names none."""
        if "base_optimizer" not in vars(self):  # in the constructor, which makes the base of all groups
            super().add_param_group(param_group)
            return
        check_group(param_group)
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, and under "sam" what reaches from one step to the next."""
        return {**self.base_optimizer.state_dict(), "sam": self._own_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adopt a state; one of the base optimizer alone starts SAM's cycle anew."""
        base_state = dict(state_dict)
        own_state = base_state.pop("sam", {"num_updates": 0, "num_before": None})
        sizes = _sizes(base_state["param_groups"])
        self.base_optimizer.load_state_dict(base_state)
        self._share_base()
        if sizes != _sizes(self.param_groups):  # the base has translated it to another order
            own_state = {
                name: own_state[name] for name in ("num_updates", "num_before") if name in own_state
            }
        self._load_own_state(own_state)

    def __getstate__(self) -> dict[str, Any]:
        """All but hooks and working memory, so that a copy, with its model, goes on as the original."""
        return copied_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_base()

    def _check_axes(self) -> None:
        """Refuse axes that contradict each other."""
        budget = self.lengths.loss_budget
        if budget is not None and (self.perturbation.adaptive or self.perturbation.per_layer):
            allowed = "is a limit of the plain length: set adaptive and per_layer to false"
            raise SettingError("loss_budget", budget, allowed)

        has_use_for_mean = not self.direction.is_gradient or self.descent.needs_first_pass
        if not self.sync_perturbation and (has_use_for_mean or self.trigger is not None):
            allowed = (
                "leaves no mean gradient to direction, descent or trigger: take those of optimizer=sam"
            )
            raise SettingError("sync_perturbation", False, allowed)

        if not self.direction.needs_first_pass:
            kind = type(self.direction).__name__
            needs_one = {
                f"descent {type(self.descent).__name__}": self.descent.needs_first_pass,
                f"loss_budget={budget}": budget is not None,
                f"trigger {type(self.trigger).__name__}": self.trigger is not None,
            }
            for axis in (name for name, needs in needs_one.items() if needs):
                raise UserError(
                    f"SAM's direction {kind} has no first pass, whose gradient {axis} needs. Choose "
                    "optimizer/direction=gradient, or the other as it is in optimizer=sam."
                )

    def _check_choice(self, perturb: Sequence[str] | None) -> None:
        """Refuse a choice of parameters that are all in groups without a perturbation.

        Of several names each that adds nothing is told.
        """
        if self.model is None or self._only is None:
            return
        trained, perturbed = set(self._all_params()), set(self.perturbed_params())
        if self._only & trained and not perturbed:
            allowed = "is trained without a perturbation, as temperature and loss are; name something else"
            setting = "norms_only" if perturb is None else "perturb"
            raise SettingError(setting, True if perturb is None else list(perturb), allowed)

        of_later_groups = {p for p in self._only - trained if p.requires_grad}
        for name in perturb or ():
            named = self._only & named_params(self.model, [name])
            if named.isdisjoint(perturbed | of_later_groups):
                reason = (
                    "it is frozen, has no norm layer, or is trained without, as temperature and loss are"
                )
                warnings.warn(f"perturb={name}: nothing of it is perturbed; {reason}", stacklevel=4)

    def _check_precision(self) -> None:
        """Warn of weights whose rounding is coarser than a perturbation."""
        types = {p.dtype for p in self.perturbed_params()} & {torch.float16, torch.bfloat16}
        for dtype in types:
            warnings.warn(
                f"Weights are {dtype}, whose rounding is longer than a perturbation's part in each of many "
                "weights. Keep the weights in float32, and compute in autocast.",
                stacklevel=3,
            )

    def _warn_of_plain_step(self) -> None:
        """Warn once of gradients that are not of SAM's passes, as after `loss.backward()` alone."""
        if self._has_run_passes or self.lengths.rho == 0 or self._has_warned_of_plain_step:
            self._has_run_passes = False
            return
        # torch's checkpoints make the state of a new optimizer by a step along zeros
        if not any(p.grad is not None and p.grad.any() for p in self._all_params()):
            return
        self._has_warned_of_plain_step = True
        warnings.warn(
            "SAM.step() was called without a closure, and backward(closure) before it neither: nothing is "
            "perturbed, and the step is the base optimizer's. Call step(closure), with a closure that runs "
            "forward and backward and returns the loss.",
            stacklevel=4,
        )

    def _first_pass(self, closure: Closure) -> Tensor:
        """The pass that every step has; sparse gradients are refused before a perturbation meets them."""
        loss = run_pass(closure, 0)
        gradients = (p.grad for p in self._all_params() if p.grad is not None)
        if any(gradient.layout is not torch.strided for gradient in gradients):
            raise UserError("SAM needs dense gradients: make the embeddings with sparse=False.")
        return loss

    def _one_pass(self, closure: Closure) -> Tensor:
        """One pass at w + e, along a direction that is known before it."""
        try:
            self.ascend()
            return self._first_pass(closure)
        finally:
            self.descend()

    def _both_passes(self, closure: Closure) -> Tensor:
        randomness = Randomness(self._all_params())
        with self._gradients_of_perturbed_only(), self._alone_if_wanted():
            loss = self._first_pass(closure)
        self._check_gradients()
        if not self._is_worth_a_second_pass():
            self.last_rho = 0.0
            self.descent.between(self._all_params())
            return loss

        first = self._first_gradients() if self.descent.keeps_first_gradient else {}
        perturbed = dict.fromkeys(self.perturbed_params())
        self.descent.begin(list(perturbed), [p for p in self._all_params() if p not in perturbed])
        overflow = None if self.direction.is_gradient else self._first_norm()

        try:
            norm = self.ascend()
            self.zero_grad()
            randomness.restore()
            with self._held_statistics():
                perturbed_loss = run_pass(closure, 1)
            self.metrics["sharpness"] = perturbed_loss.detach() - loss.detach()
            if self._measures_now():
                along_gradient = self.direction.is_gradient
                self.metrics |= self.perturbation.measure(is_along_gradient=along_gradient)
        finally:
            self.descend()

        self.descent.combine(first)
        # a first pass that was not finite makes the second's gradient not finite, too
        first_norm = norm if overflow is None else overflow
        spoil_unless(first_norm.isfinite(), (p.grad for p in self._all_params()))
        return loss

    def _steps_since_begun(self) -> int:
        """Steps before this one, but those before perturbations begin."""
        return self.num_updates - (self._num_before or 0)

    def _is_worth_a_second_pass(self) -> bool:
        if self.trigger is None:
            return True
        norm = self._first_norm() / self._loss_scale
        return self.trigger.is_met(norm, fraction_done=self.fraction_done)

    def _first_norm(self) -> Tensor:
        """Norm of the perturbed parameters' gradients, as scaled as they are, ()."""
        return length_of(norms_of([p.grad for p in self.perturbed_params() if p.grad is not None]))

    def _budget_factor(self) -> Tensor | None:
        """What the loss budget leaves of every length, from 0 to 1, (); it is one of the metrics."""
        if self.lengths.loss_budget is None:
            return None
        factor = self.lengths.budget_factor(self.param_groups, self._first_norm() / self._loss_scale)
        self.metrics["budget_factor"] = factor
        return factor

    def _check_gradients(self) -> None:
        """Raise where the first pass left nothing to perturb along."""
        if all(p.grad is None for p in self.perturbed_params()):
            raise UserError(
                "No parameter that SAM may perturb has a gradient: the closure must call backward() on its "
                "loss."
            )

    def _held_statistics(self) -> AbstractContextManager[None]:
        """Context of the second pass; without the model its first one says what would have to be held."""
        if self.model is not None or self._has_looked_for_statistics:
            return frozen_statistics(self.model)
        self._has_looked_for_statistics = True
        return warning_of_moving_statistics()

    def _measures_now(self) -> bool:
        """Whether this is a step to measure, or the first one after it that an interval perturbs."""
        return (
            self.measure_every is not None and self.num_updates % self.measure_every < self.ascents.interval
        )

    def _first_gradients(self) -> dict[Tensor, Tensor]:
        pairs = ((p, p.grad) for p in self.perturbed_params())
        # the adaptive ascent overwrites them
        is_overwritten = self.perturbation.adaptive and self.direction.is_gradient
        # and the second pass those that DDP keeps in its buckets
        return {p: g.clone() if is_overwritten or g._is_view() else g for p, g in pairs if g is not None}

    def _own_state(self) -> dict[str, Any]:
        params = self._all_params()
        parts = {
            "ascents": self.ascents.state_dict(),
            "direction": self.direction.state_dict(params),
            "descent": self.descent.state_dict(params),
            "trigger": {} if self.trigger is None else self.trigger.state_dict(),
        }
        counts = {"num_updates": self.num_updates, "num_before": self._num_before}
        return {**counts, **{name: part for name, part in parts.items() if part}}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        params = self._all_params()
        self.num_updates = state["num_updates"]
        self._num_before = state.get("num_before", 0)
        self.ascents.load_state_dict(state.get("ascents", {}))
        self.direction.load_state_dict(state.get("direction", {}), params)
        # states of LookSAM before it was a descent hold what it kept beside the number of steps
        self.descent.load_state_dict(state.get("descent", state), params)
        if self.trigger is not None:
            self.trigger.load_state_dict(state.get("trigger", {}))

    @contextmanager
    def _gradients_of_perturbed_only(self) -> Iterator[None]:
        """Switch off the gradients that a first pass has no use for."""
        wanted = set(self.perturbed_params())
        idle = [p for p in self._all_params() if p.requires_grad and p not in wanted]
        # the few of other groups are not worth a second graph; without a second pass all are used
        if self._only is None or self.trigger is not None or self.reuses_feature_gradient:
            idle = []
        # whose forward pass waits for the gradients of all that were trained when it was made
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            idle = []
        for p in idle:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in idle:
                p.requires_grad_(True)

    @contextmanager
    def _alone_if_wanted(self) -> Iterator[None]:
        """Tell who runs the first pass whether its gradient is this process's own."""
        self.ascends_alone = self.perturbs_alone
        try:
            yield
        finally:
            self.ascends_alone = False

    def _share_base(self) -> None:
        """Groups, state and defaults are the base optimizer's: schedules and scalers see one optimizer."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = self.base_optimizer.defaults
        forget_skipped_state(self.base_optimizer)
        keep_memory_order(self.base_optimizer)

    def _all_params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _sizes(groups: Iterable[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]
