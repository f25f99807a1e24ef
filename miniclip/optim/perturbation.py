"""Moving weights to a point near them, and back to the last bit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from miniclip.optim import foreach
from miniclip.optim.norms import inner_product, is_on_host, length_of, norms_of, precise, quotients


class Perturbation:
    """Moves weights w to w + e, with e of a given length along given directions, and copies them back.

    Args:
        per_layer: the length is that of each tensor's part of e, not of all together.
        adaptive: the length is relative to the weights: e = rho * w^2 d / ||w d||.
    """

    def __init__(self, *, per_layer: bool, adaptive: bool):
        self.per_layer = per_layer
        self.adaptive = adaptive
        self._saved: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies of weights, which are made anew for each step."""
        return {**vars(self), "_saved": {}, "_moved": []}

    @torch.no_grad()
    def move(
        self,
        directions: dict[Tensor, Tensor],
        rhos: Sequence[float],
        *,
        factor: Tensor | None = None,
        may_overwrite: bool = False,
    ) -> Tensor:
        """Save the weights and move them, unless the directions are not finite.

        Args:
            directions: for each weight d, of its shape.
            rhos: for each weight the length of e if all had this one; negative moves against d.
            factor: () on the device, by which all lengths are multiplied.
            may_overwrite: whether the directions may be worked on in place.

        Returns:
            the directions' norm, relative to the weights if `adaptive`; finite or not, ().
        """
        params, vectors = list(directions), list(directions.values())
        saved = [self._copy_for(p) for p in params]

        if self.adaptive:  # w d is as long as |w| d
            if not may_overwrite:
                vectors = [vector.clone() for vector in vectors]
            foreach.mul_(vectors, params)
        norms = torch.stack(norms_of(vectors))  # (n,)
        norm = torch.linalg.vector_norm(norms)  # ()
        self._lengths = norms if self.per_layer else norm.expand_as(norms)
        self._norm, self._rhos, self._factor = norm, rhos, factor

        is_finite = norm.isfinite()
        asked = is_on_host(norm)
        if asked and not is_finite:
            return norm  # the second pass runs at w, its step will be skipped

        if self.adaptive:
            foreach.mul_(vectors, params)
        # an autocast around both passes would go on with low-precision copies of the weights before
        torch.clear_autocast_cache()

        scales = quotients(list(rhos), self._lengths.clamp(min=1e-12))  # (n,)
        if factor is not None:
            scales = scales * factor
        if asked:  # tensor by tensor, while it is in the cache
            for p, copy, vector, scale in zip(params, saved, vectors, scales.tolist(), strict=True):
                copy.copy_(p)
                self._moved.append(p)
                p.add_(precise(vector), alpha=scale)  # a scale by a short gradient is no number of float16
            return norm

        foreach.copy_(saved, params)
        self._moved = params
        # the same choice without asking the device; 0 * inf would be NaN
        steps = [torch.where(is_finite, precise(vector), 0) for vector in vectors]
        foreach.mul_(steps, list(scales))
        foreach.add_(params, steps)
        return norm

    @torch.no_grad()
    def undo(self) -> None:
        """Copy the saved weights back, exactly."""
        if self._moved:
            foreach.copy_(self._moved, [self._saved[p] for p in self._moved])
        self._moved = []
        torch.clear_autocast_cache()

    @torch.no_grad()
    def measure(self, *, is_along_gradient: bool) -> dict[str, Tensor]:
        """Length of e, and the cosine of both passes' gradients if e is along the first one's, each ().

        Nothing where the weights were not moved. With `adaptive` the cosine is of both gradients relative
        to the weights.
        """
        if not self._moved:
            return {}

        lengths, products, seconds = [], [], []
        for p, length, rho in zip(self._moved, self._lengths, self._rhos, strict=True):
            e = precise(p) - precise(self._saved[p])
            lengths.append(e.norm())

            if p.grad is not None and rho != 0:
                second = precise(p.grad)
                # <T g, T g'> = <T^2 g, g'>, and e = rho T^2 g / length
                products.append(inner_product(e, second) * length / rho)
                if self.adaptive:
                    second = second * precise(self._saved[p])
                seconds.append(second.norm())

        measures = {"perturbation_norm": length_of(lengths)}
        if products and is_along_gradient:
            product = torch.stack(products).sum()
            if self._factor is not None:
                product = product / self._factor
            both_norms = self._norm * length_of(seconds)  # ()
            measures["gradient_cosine"] = product / both_norms.clamp(min=1e-30)
        return measures

    def _copy_for(self, p: Tensor) -> Tensor:
        copy = self._saved.get(p)
        if copy is None or (copy.dtype, copy.device) != (p.dtype, p.device):
            copy = self._saved[p] = torch.empty_like(p)
        return copy
