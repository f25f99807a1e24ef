"""Gradients that SAM descends along, made of those of both passes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from miniclip.errors import UserError, at_least, in_range
from miniclip.optim.directions import by_parameter, in_order
from miniclip.optim.norms import inner_product, is_on_host, length_of, norms_of

Gradients = dict[Tensor, Tensor]
"""Gradient of each parameter that has one."""


class Descent:
    """The gradient of the second pass as it is, g_p = grad L(w + e): SAM.

    Attributes:
        needs_first_pass: whether it uses what the first pass left.
        keeps_first_gradient: whether `combine` needs that gradient: one more copy of the weights.
        reuses_feature_gradient: whether the second pass carries the loss's gradient at the features of
            the first one back, and computes no loss.
    """

    needs_first_pass: ClassVar[bool] = False
    keeps_first_gradient: ClassVar[bool] = False
    reuses_feature_gradient: ClassVar[bool] = False

    def begin(self, perturbed: Sequence[Tensor], unperturbed: Sequence[Tensor]) -> None:
        """See the first pass's gradients, in `.grad`."""

    def combine(self, first: Gradients) -> None:
        """Change the gradients of w + e, in `.grad`, in place.

        Args:
            first: gradients at w of the perturbed parameters, if `keeps_first_gradient`.
        """

    def between(self, params: Sequence[Tensor]) -> None:
        """Change the gradients of a step without a perturbation, in place."""

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """What reaches from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None: ...


class SurrogateGap(Descent):
    """Lowers the gap L(w + e) - L(w) as well: GSAM (Zhuang et al. 2022, arXiv 2203.08065, algorithm 1).

    The part of g = grad L(w) that is orthogonal to g_p is climbed,

        g_p - alpha * (g - <g, g_p> / ||g_p||^2 * g_p)

    Args:
        alpha: weight of the orthogonal part; 0 is SAM.
    """

    needs_first_pass: ClassVar[bool] = True
    keeps_first_gradient: ClassVar[bool] = True

    def __init__(self, *, alpha: float):
        at_least("alpha", alpha, 0, hint=" and finite")
        self.alpha = alpha

    @torch.no_grad()
    def combine(self, first: Gradients) -> None:
        pairs = _pairs(first)
        component = _component(pairs, of=[g_p for _, g_p in pairs])  # <g, g_p> / ||g_p||^2, ()
        for g, g_p in pairs:
            g_p.mul_(1 + self.alpha * component.to(g.dtype)).sub_(g, alpha=self.alpha)


class ReusedAscent(Descent):
    """Reuses an ascent in the steps after it: LookSAM (Liu et al. 2022, arXiv 2203.02714, algorithm 1).

    The part of g_p that is orthogonal to the plain gradient changes slowly. It is kept, and in the steps
    without a perturbation it is added to the plain gradient g at alpha times its length:

        g + alpha * ||g|| / ||g_v|| * g_v

    Where every step has its perturbation it is SAM. Gradients that overflow leave the kept part as it was.

    Args:
        alpha: length of the added part over that of the plain gradient.
    """

    needs_first_pass: ClassVar[bool] = True
    keeps_first_gradient: ClassVar[bool] = True

    def __init__(self, *, alpha: float):
        at_least("alpha", alpha, 0, hint=" and finite")
        self.alpha = alpha
        self._kept: Gradients = {}

    @torch.no_grad()
    def combine(self, first: Gradients) -> None:
        pairs = _pairs(first)
        component = _component(pairs, of=[g for g, _ in pairs])  # <g, g_s> / ||g||^2, ()
        # it is finite only if both gradients are, in each of their elements
        is_finite = component.isfinite()
        asked = is_on_host(component)
        if asked and not is_finite:
            return

        # what is frozen since has no part in the length of what is kept
        params = _with_both(first)
        self._kept = {p: self._kept[p].to(p) if p in self._kept else torch.zeros_like(p) for p in params}
        for (g, g_s), p in zip(pairs, params, strict=True):
            minus_component = -component.to(g.dtype)
            if asked:
                torch.addcmul(g_s, g, minus_component, out=self._kept[p])
            else:  # the same choice without asking the device
                kept = torch.where(is_finite, torch.addcmul(g_s, g, minus_component), self._kept[p])
                self._kept[p].copy_(kept)

        self._kept_length = length_of(norms_of(list(self._kept.values())))

    @torch.no_grad()
    def between(self, params: Sequence[Tensor]) -> None:
        pairs = [(p.grad, kept.to(p)) for p, kept in self._kept.items() if p.grad is not None]
        if not pairs:
            return

        length = length_of(norms_of([g for g, _ in pairs]))
        ratio = self.alpha * length / self._kept_length.clamp(min=1e-30)
        for g, kept in pairs:
            g.addcmul_(kept, ratio.to(g.dtype))

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        return {"kept": in_order(self._kept, params)}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        self._kept = by_parameter(state.get("kept", []), params)
        if self._kept:
            self._kept_length = length_of(norms_of(list(self._kept.values())))


class Renormalized(Descent):
    """g_p at the length of the plain gradient, g_p * ||g|| / ||g_p||: SSAM (arXiv 2401.07250).

    Both lengths are those of the perturbed parameters, which alone are scaled. A base optimizer that
    divides by the gradient's size, as AdamW does, feels nothing of it but in clipping and in its averages.
    """

    needs_first_pass: ClassVar[bool] = True
    keeps_first_gradient: ClassVar[bool] = True

    @torch.no_grad()
    def combine(self, first: Gradients) -> None:
        pairs = _pairs(first)
        first_length = length_of(norms_of([g for g, _ in pairs]))
        second_length = length_of(norms_of([g_p for _, g_p in pairs]))
        ratio = first_length / second_length.clamp(min=1e-30)
        for _, g_p in pairs:
            g_p.mul_(ratio.to(g_p.dtype))


class WeightedGap(Descent):
    """The plain gradient and a weighted gap: WSAM (Yue et al. 2023, arXiv 2305.15817, eq. 6).

        g + gamma / (1 - gamma) * (g_p - g)

    What differs: the gap goes through the base optimizer with the gradient, as with `decouple=False` in
    the authors' code.

    Args:
        gamma: 0 is the base optimizer, 0.5 is SAM, beyond that the gap weighs more. What is not perturbed
            has SAM's gradient with any.
    """

    needs_first_pass: ClassVar[bool] = True
    keeps_first_gradient: ClassVar[bool] = True

    def __init__(self, *, gamma: float):
        in_range("gamma", gamma, 0, 1, includes_high=False)
        self.gamma = gamma

    @torch.no_grad()
    def combine(self, first: Gradients) -> None:
        weight = self.gamma / (1 - self.gamma)
        for g, g_p in _pairs(first):
            g_p.mul_(weight).add_(g, alpha=1 - weight)


class Functional(Descent):
    """The feature gradient of the first pass through the Jacobian of the second one (arXiv 2502.02407).

        J(w + e)^T dL/df(w)

    f are the features of both towers, so that the second pass computes no loss and no B x B similarities.
    What learns behind the features, temperature and loss, keeps its gradient of the first pass. The
    closure has to take part: of pass 1 it carries pass 0's gradient at the features back; MiniCLIP's
    training does.

    Raises (in a step):
        UserError: when something behind the features is perturbed, which the second pass does not reach.
    """

    needs_first_pass: ClassVar[bool] = True
    reuses_feature_gradient: ClassVar[bool] = True

    def __init__(self) -> None:
        self._of_first_pass: Gradients = {}
        self._reached: list[Tensor] = []

    def begin(self, perturbed: Sequence[Tensor], unperturbed: Sequence[Tensor]) -> None:
        self._of_first_pass = {p: p.grad for p in unperturbed if p.grad is not None}
        self._reached = [p for p in perturbed if p.grad is not None]

    def combine(self, first: Gradients) -> None:
        if any(p.grad is None for p in self._reached):
            raise UserError(
                "optimizer/descent=functional cannot train what lies behind the features and is perturbed: "
                "give its group perturb=False."
            )
        for p, gradient in self._of_first_pass.items():
            if p.grad is None:
                p.grad = gradient
        self._of_first_pass = {}


def _with_both(first: Gradients) -> list[Tensor]:
    return [p for p in first if p.grad is not None]


def _pairs(first: Gradients) -> list[tuple[Tensor, Tensor]]:
    """First and second gradient of each parameter that has both."""
    return [(first[p], p.grad) for p in _with_both(first)]  # type: ignore[misc]


def _component(pairs: list[tuple[Tensor, Tensor]], *, of: list[Tensor]) -> Tensor:
    """<a, b> over ||of||^2, all tensors together, (): how much of one vector lies along the other."""
    product = torch.stack([inner_product(a, b) for a, b in pairs]).sum()
    return product / length_of(norms_of(of)).square().clamp(min=1e-30)
