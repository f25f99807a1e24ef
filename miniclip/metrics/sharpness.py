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
from miniclip.models.modes import modes_kept
from miniclip.optim import Randomness, foreach, frozen_statistics, parameter_groups

DROPOUT_SEED = 0
"""The loss is a function of the weights only if its dropout masks and its depths stay the same."""


SHORTEST_DIRECTION = 1e-3
"""Of what is shorter, beside vectors of length 1, float32 knows the Hessian's product no longer."""


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
    """The Hessian's eigenvalue of largest magnitude, as far as the iteration has come.

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
        randomness = Randomness(self.model.parameters())
        torch.manual_seed(DROPOUT_SEED)
        try:
            with (
                modes_kept(self.model),
                frozen_statistics(self.model),
                sdpa_kernel(SDPBackend.MATH),  # which differentiates twice
            ):
                output = self.model.train()(*batch[:3])
                return self.loss(**output.loss_inputs(), positives=batch.positives)
        finally:
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
    surface: LossSurface, *, max_products: int = 30, tolerance: float = 0.01, seed: int = 0
) -> float:
    """The Hessian's eigenvalue of largest magnitude; see `top_eigenpair`."""
    return top_eigenpair(surface, max_products=max_products, tolerance=tolerance, seed=seed).value


def top_eigenpair(
    surface: LossSurface, *, max_products: int = 30, tolerance: float = 0.01, seed: int = 0
) -> Eigenpair:
    """The Hessian's eigenvalue of largest magnitude and its eigenvector.

    LOBPCG with one vector (Knyazev 2001): the next one is the best in the span of this one, of what is left
    of it, Hv - value v, and of the last step. Power iteration takes as many products, and may rest on
    another eigenvector long enough to be taken for converged.

    Args:
        max_products: Hessian products at most, one for each iteration.
        tolerance: `Eigenpair.residual` that ends them.
        seed: of the start vector.
    """
    vector = unit(random_like(surface.params, seed))
    directions = [_Direction(vector, surface.hessian_product(vector))]

    for num_products in range(1, max_products + 1):
        vector, product = directions[0]
        value = dot(product, vector).item()
        left = [hv - value * v for hv, v in zip(product, vector, strict=True)]
        residual = norm(left).item() / max(abs(value), 1e-30)
        if not residual > tolerance or num_products == max_products:  # NaN, too, ends it
            break

        step = unit(left)
        downhill = _Direction(step, surface.hessian_product(step))
        directions = _best_in_span([directions[0], downhill, *directions[1:]])

    return Eigenpair(value, vector, residual)


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


class _Direction(NamedTuple):
    """A vector, and the Hessian's product with it."""

    vector: list[Tensor]
    product: list[Tensor]


def _best_in_span(directions: Sequence[_Direction]) -> list[_Direction]:
    """The unit vector v of their span whose |<v, Hv>| is the largest, and the step to it from the first."""
    basis = _orthonormal(directions)
    rows = [[dot(a.vector, b.product).item() for b in basis] for a in basis]
    projected = torch.tensor(rows, dtype=torch.float64)
    values, vectors = torch.linalg.eigh((projected + projected.T) / 2)

    weights = vectors[:, values.abs().argmax()].tolist()
    best = _combined(basis, weights)
    return [best, _combined(basis[1:], weights[1:])] if len(basis) > 1 else [best]


def _orthonormal(directions: Sequence[_Direction]) -> list[_Direction]:
    """Each made orthogonal to those before it (Gram and Schmidt); what is nearly in their span goes."""
    basis: list[_Direction] = []
    for direction in directions:
        for _ in range(2):  # the second time takes away what rounding left
            shares = [-dot(direction.vector, other.vector).item() for other in basis]
            direction = _combined([direction, *basis], [1.0, *shares])

        length = norm(direction.vector).item()
        if length > SHORTEST_DIRECTION:
            basis.append(_combined([direction], [1 / length]))
    return basis


def _combined(directions: Sequence[_Direction], weights: Sequence[float]) -> _Direction:
    """The sum of directions, each times its weight, and of their products."""
    vector, product = (list(foreach.mul(part, weights[0])) for part in directions[0])
    for direction, weight in zip(directions[1:], weights[1:], strict=True):
        foreach.add_(vector, direction.vector, alpha=weight)
        foreach.add_(product, direction.product, alpha=weight)
    return _Direction(vector, product)


def _match_filters(direction: Tensor, p: Tensor) -> None:
    """Give each row of a direction the length of the weights' row; biases and norms do not move."""
    if p.ndim < 2:
        direction.zero_()
        return
    rows, weights = direction.flatten(1), p.detach().flatten(1)  # (filters, weights of one)
    scale = weights.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-12)
    direction.mul_(scale.view(-1, *[1] * (p.ndim - 1)))
