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

    def gradient(self, batch: Batch) -> list[Tensor]:
        """Gradient of one batch's loss."""
        return list(torch.autograd.grad(self.batch_loss(batch), self.params, materialize_grads=True))

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
    def moved(self, step: Sequence[Tensor], at: Callable[[], Tensor | float]) -> float:
        """What `at` says when the weights are moved by a step; afterwards they are what they were."""
        saved = [p.detach().clone() for p in self.params]
        try:
            foreach.add_(self.params, list(step))
            return float(at())
        finally:
            foreach.copy_(self.params, saved)


def m_sharpness(surface: LossSurface, rho: float) -> float:
    """Mean over batches of L(w + e) - L(w), e of length rho along that batch's own gradient.

    The measure of Foret et al. 2021, section 4.2, with m the size of a batch.
    """
    rises = []
    for batch in surface.batches:
        gradient = surface.gradient(batch)
        step = list(foreach.mul(gradient, rho / _norm(gradient).clamp(min=1e-12).item()))
        with torch.no_grad():
            start = surface.batch_loss(batch).item()
        rises.append(surface.moved(step, lambda batch=batch: surface.batch_loss(batch)) - start)  # type: ignore[misc]
    return sum(rises) / len(rises)


def top_eigenvalue(
    surface: LossSurface, *, max_iterations: int = 30, tolerance: float = 0.01, seed: int = 0
) -> float:
    """The Hessian's eigenvalue of largest magnitude, by power iteration.

    Args:
        max_iterations: Hessian products at most.
        tolerance: relative change between two iterations that ends them.
        seed: of the start vector.
    """
    vector = _unit(_random_like(surface.params, seed))
    value = 0.0
    for _ in range(max_iterations):
        product = surface.hessian_product(vector)
        previous, value = value, _dot(product, vector).item()
        if abs(value - previous) <= tolerance * abs(value) or _norm(product) == 0:
            break
        vector = _unit(product)
    return value


def landscape(
    surface: LossSurface, *, radius: float, fraction: float = 0.5, points: int = 21, seed: int = 0
) -> Landscape:
    """The loss on two lines through w, from -radius to radius and from -fraction to fraction."""
    gradients = [surface.gradient(batch) for batch in surface.batches]
    uphill = _unit([torch.stack(parts).mean(dim=0) for parts in zip(*gradients, strict=True)])
    random = _random_like(surface.params, seed)
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


def _random_like(params: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # on the CPU, so that all devices draw the same
    return [torch.randn(p.shape, generator=generator).to(p.device) for p in params]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _norm(vector: Sequence[Tensor]) -> Tensor:
    return _dot(vector, vector).sqrt()


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    return list(foreach.div(list(vector), _norm(vector).item()))
