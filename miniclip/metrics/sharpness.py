"""Sharpness of the minimum that a training run found: did SAM do what it promises?

All of it looks at the training loss on fixed batches as a function of the weights, in float32, with
batch statistics as in training, one draw of dropout, and running statistics held still. The temperature
stays where it is, as it does under SAM.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniclip.data.batch import Batch
from miniclip.metrics.vectors import dot, norm, random_like, scaled, unit
from miniclip.models import CLIP
from miniclip.optim import Randomness, foreach, frozen_statistics, parameter_groups

DROPOUT_SEED = 0
"""The loss is a function of the weights only if its dropout masks and its depths stay the same."""


class Landscape(NamedTuple):
    """The loss along two lines through the weights w.

    Attributes:
        distances: Euclidean distances from w along the gradient, negative ones downhill.
        gradient: loss at these.
        fractions: steps along a random direction whose filters are as long as those of w (Li et al. 2018,
            arXiv 1712.09913, section 4); 1 is as far as the weights are long.
        random: loss at these.
    """

    distances: list[float]
    gradient: list[float]
    fractions: list[float]
    random: list[float]


class Eigenpair(NamedTuple):
    """The Hessian's eigenvalue of largest magnitude, as far as power iteration has come.

    Attributes:
        value: of this eigenvalue.
        vector: of length 1, one tensor for each of the surface's.
        residual: ||Hv - value v|| / |value|; 0 where `vector` is exact. The value converges first.
    """

    value: float
    vector: list[Tensor]
    residual: float


class LossSurface:
    """The mean training loss over fixed batches, as a function of the weights that SAM perturbs.

    Args:
        model: left as it was after each call.
        loss: called by name with `CLIPOutput.loss_inputs` and `positives` -> ().
        batches: each with its own negatives.
    """

    def __init__(self, model: CLIP, loss: Callable[..., Tensor], batches: Sequence[Batch]):
        self.model = model
        self.loss = loss
        self.batches = batches
        groups = parameter_groups(model)
        self.params: list[Tensor] = [
            p for group in groups if group.get("perturb", True) for p in group["params"]
        ]

    def batch_loss(self, batch: Batch) -> Tensor:
        """Loss of one batch, (), with the same dropout in every call."""
        training = self.model.training
        randomness = Randomness(self.model.parameters())
        torch.manual_seed(DROPOUT_SEED)
        self.model.train()
        try:
            with frozen_statistics(self.model), sdpa_kernel(SDPBackend.MATH):  # which differentiates twice
                output = self.model(*batch[:3])
                return self.loss(**output.loss_inputs(), positives=batch.positives)
        finally:
            self.model.train(training)
            randomness.restore()

    @torch.no_grad()
    def mean_loss(self) -> float:
        """Loss at the weights as they are."""
        return torch.stack([self.batch_loss(batch) for batch in self.batches]).mean().item()

    @torch.no_grad()
    def loss_at_rest(self, batch: Batch) -> float:
        """Loss of one batch at the weights as they are."""
        return self.batch_loss(batch).item()

    def gradient(self, batch: Batch) -> list[Tensor]:
        """Gradient of one batch's loss."""
        return list(torch.autograd.grad(self.batch_loss(batch), self.params, materialize_grads=True))

    def mean_gradient(self) -> list[Tensor]:
        """Gradient of the mean loss."""
        gradients = [self.gradient(batch) for batch in self.batches]
        return [torch.stack(parts).mean(dim=0) for parts in zip(*gradients, strict=True)]

    def hessian_product(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian of the mean loss times a vector, by differentiating twice (Pearlmutter 1994)."""
        product = [torch.zeros_like(v) for v in vector]
        for batch in self.batches:
            gradients = torch.autograd.grad(
                self.batch_loss(batch), self.params, create_graph=True, materialize_grads=True
            )
            # the gradient along the vector, (), whose own gradient is the product
            slope = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
            foreach.add_(product, torch.autograd.grad(slope, self.params, materialize_grads=True))
        foreach.div_(product, len(self.batches))
        return product

    @torch.no_grad()
    def moved(
        self,
        step: Sequence[Tensor],
        at: Callable[[], Tensor | float],
        params: Sequence[Tensor] | None = None,
    ) -> float:
        """What `at` says when the weights are moved by a step; afterwards they are what they were.

        Args:
            params: those of the weights that the step is for; None is all of them.
        """
        moving = self.params if params is None else list(params)
        saved = [p.detach().clone() for p in moving]
        try:
            foreach.add_(moving, list(step))
            return float(at())
        finally:
            foreach.copy_(moving, saved)

    def moved_batch_loss(
        self, batch: Batch, step: Sequence[Tensor], params: Sequence[Tensor] | None = None
    ) -> float:
        """Loss of one batch when the weights are moved by a step; see `moved`."""
        return self.moved(step, lambda: self.batch_loss(batch), params)


def m_sharpness(surface: LossSurface, rho: float) -> float:
    """Mean over batches of L(w + e) - L(w), e of length rho along that batch's own gradient.

    The measure of Foret et al. 2021, section 4.2, with m the size of a batch.
    """
    rises = []
    for batch in surface.batches:
        step = scaled(surface.gradient(batch), rho)
        rises.append(surface.moved_batch_loss(batch, step) - surface.loss_at_rest(batch))
    return sum(rises) / len(rises)


def top_eigenvalue(
    surface: LossSurface, *, max_iterations: int = 30, tolerance: float = 0.01, seed: int = 0
) -> float:
    """The Hessian's eigenvalue of largest magnitude; see `top_eigenpair`."""
    return top_eigenpair(surface, max_iterations=max_iterations, tolerance=tolerance, seed=seed).value


def top_eigenpair(
    surface: LossSurface, *, max_iterations: int = 30, tolerance: float = 0.01, seed: int = 0
) -> Eigenpair:
    """The Hessian's eigenvalue of largest magnitude and its eigenvector, by power iteration.

    Args:
        max_iterations: Hessian products at most.
        tolerance: relative change between two iterations that ends them.
        seed: of the start vector.
    """
    following = unit(random_like(surface.params, seed))
    value = 0.0
    for _ in range(max_iterations):
        vector = following
        product = surface.hessian_product(vector)
        previous, value = value, dot(product, vector).item()
        if abs(value - previous) <= tolerance * abs(value) or norm(product) == 0:
            break
        following = unit(product)

    left = norm([hv - value * v for hv, v in zip(product, vector, strict=True)]).item()
    return Eigenpair(value, vector, residual=left / abs(value) if value else 0.0)


def landscape(
    surface: LossSurface, *, radius: float, fraction: float = 0.5, points: int = 21, seed: int = 0
) -> Landscape:
    """The loss on two lines through w, from -radius to radius and from -fraction to fraction."""
    uphill = unit(surface.mean_gradient())
    random = random_like(surface.params, seed)
    for direction, p in zip(random, surface.params, strict=True):
        _match_filters(direction, p)

    def losses(line: list[Tensor], steps: list[float]) -> list[float]:
        return [surface.moved(foreach.mul(line, step), surface.mean_loss) for step in steps]

    distances = torch.linspace(-radius, radius, points).tolist()
    fractions = torch.linspace(-fraction, fraction, points).tolist()
    return Landscape(
        distances=distances,
        gradient=losses(uphill, distances),
        fractions=fractions,
        random=losses(random, fractions),
    )


def _match_filters(direction: Tensor, p: Tensor) -> None:
    """Give each row of a direction the length of the weights' row; biases and norms do not move."""
    if p.ndim < 2:
        direction.zero_()
        return
    rows, weights = direction.flatten(1), p.detach().flatten(1)  # (filters, weights of one)
    scale = weights.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-12)
    direction.mul_(scale.view(-1, *[1] * (p.ndim - 1)))
