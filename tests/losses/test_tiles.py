"""Losses in tiles against the same losses with all similarities in memory."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from miniclip.errors import SettingError
from miniclip.losses import ClipLoss, Loss, SigLipLoss, fused_cross_entropy
from miniclip.positives import PositivePairs

BATCH_SIZE, WIDTH = 12, 8

Make = Callable[..., Loss]

LOSSES: dict[str, Make] = {
    "clip": lambda **settings: ClipLoss(**settings),
    "clip, by kernels": lambda **settings: ClipLoss(compile_tiles=True, **settings),
    "clip, smoothed": lambda **settings: ClipLoss(label_smoothing=0.1, **settings),
    "siglip": lambda **settings: SigLipLoss(initial_bias=-3.0, **settings),
}

SEVERAL = PositivePairs(torch.arange(BATCH_SIZE) // 2 % 4, torch.arange(BATCH_SIZE) * 5 % 9)
"""Rows with two positives up to five."""

every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
one_or_several = pytest.mark.parametrize("multi_positive", [False, True])


class Features:
    """A batch that can be differentiated by.

    Args:
        images: (B, D).
        texts: (B, D).
    """

    def __init__(self, images: Tensor, texts: Tensor, scale: float):
        self.images = images.clone().requires_grad_()
        self.texts = texts.clone().requires_grad_()
        self.scale = torch.tensor(scale, requires_grad=True)

    def differentiate(
        self, loss: Loss, positives: PositivePairs | None = SEVERAL, rows: slice | None = None
    ) -> list[Tensor]:
        """The loss, and its gradients by the features, the scale and what it learns."""
        value = loss(self.images, self.texts, self.scale, positives, rows=rows)
        return [value, *torch.autograd.grad(value, self.inputs(loss))]

    def inputs(self, loss: Loss) -> list[Tensor]:
        return [self.images, self.texts, self.scale, *loss.parameters()]


COMPILED = fused_cross_entropy.compiled


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as they are written: to compile them for each shape here takes minutes."""
    monkeypatch.setattr(fused_cross_entropy, "compiled", lambda kernel: kernel)


@pytest.fixture
def batch() -> Features:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.nn.functional.normalize(
        torch.randn(2, BATCH_SIZE, WIDTH, generator=generator), dim=2
    )
    return Features(images, texts, scale=14.0)


def assert_near(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The same to float32's last digits, by the size of the whole tensor."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype is other.dtype and one.isfinite().all()
        assert (one - other).norm() <= 2e-6 * other.norm() + 1e-9


@every_loss
@one_or_several
@pytest.mark.parametrize("rows", [None, slice(0, 6), slice(3, 8)])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 11])
def test_tiles_are_the_whole_in_value_and_gradient(
    make: Make, multi_positive: bool, rows: slice | None, chunk_size: int, batch: Features
) -> None:
    whole = batch.differentiate(make(multi_positive=multi_positive), rows=rows)
    tiled = batch.differentiate(make(multi_positive=multi_positive, chunk_size=chunk_size), rows=rows)
    assert_near(tiled, whole)


@pytest.mark.parametrize(
    ("settings", "dtype", "expected"),
    [
        ({}, torch.float32, True),
        ({"compile_tiles": False}, torch.float32, False),
        ({"multi_positive": True}, torch.float32, False),
        ({"label_smoothing": 0.1}, torch.float32, False),
        ({}, torch.bfloat16, False),  # whose products are a GPU's
    ],
)
def test_where_kernels_are_taken(
    settings: dict[str, Any],
    dtype: torch.dtype,
    expected: bool,
    batch: Features,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    monkeypatch.setattr(fused_cross_entropy, "compiled", lambda kernel: made.append(kernel) or kernel)
    given = Features(batch.images.detach().to(dtype), batch.texts.detach().to(dtype), scale=14.0)
    given.differentiate(ClipLoss(**{"chunk_size": 7, "compile_tiles": True} | settings))
    assert bool(made) == expected


def test_compiled_kernels_compute_the_same(batch: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_cross_entropy, "compiled", COMPILED)
    whole = batch.differentiate(ClipLoss())
    assert_near(batch.differentiate(ClipLoss(chunk_size=7, compile_tiles=True)), whole)


@every_loss
@one_or_several
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_the_mean_over_parts_of_the_rows_is_the_whole(
    make: Make, multi_positive: bool, chunk_size: int | None, batch: Features
) -> None:
    whole = batch.differentiate(make(multi_positive=multi_positive))
    loss = make(multi_positive=multi_positive, chunk_size=chunk_size)
    assert loss.takes_rows and not Loss().takes_rows
    parts = [batch.differentiate(loss, rows=slice(start, start + 4)) for start in (0, 4, 8)]
    assert_near([torch.stack(values).mean(dim=0) for values in zip(*parts, strict=True)], whole)


def test_rows_by_hand() -> None:
    """Row 0 of the table and column 0 of it, which is row 0 of the captions."""
    images, texts = torch.eye(2), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    of_image = math.log(math.exp(0.8) + math.exp(0.0)) - 0.8
    of_text = math.log(math.exp(0.8) + math.exp(0.6)) - 0.8
    for chunk_size in (None, 1):
        loss = ClipLoss(chunk_size=chunk_size)(images, texts, torch.tensor(1.0), rows=slice(0, 1))
        assert loss.item() == pytest.approx((of_image + of_text) / 2, abs=1e-6)

    of_pairs = math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(0.0))
    for chunk_size in (None, 1):
        sigmoid = SigLipLoss(initial_bias=0.0, chunk_size=chunk_size)
        assert sigmoid(images, texts, torch.tensor(1.0), rows=slice(0, 1)).item() == pytest.approx(of_pairs)


@every_loss
@one_or_several
def test_a_tile_larger_than_the_batch_is_the_whole_to_the_bit(
    make: Make, multi_positive: bool, batch: Features
) -> None:
    whole = batch.differentiate(make(multi_positive=multi_positive))
    large = batch.differentiate(make(multi_positive=multi_positive, chunk_size=BATCH_SIZE))
    assert all(torch.equal(one, other) for one, other in zip(large, whole, strict=True))


OPPOSITE = torch.tensor([[1.0], [-1.0]]).repeat(3, 1)
EXTREMES = {
    "all features equal": (torch.ones(6, 4) / 2, torch.ones(6, 4) / 2),
    "all pairs perfect": (torch.eye(6), torch.eye(6)),
    "all pairs opposite": (torch.eye(6), -torch.eye(6)),
    # their largest logits are 200 apart: one shift could not serve two of them
    "images opposite to each other": (torch.ones(6, 4) / 2 * OPPOSITE, torch.ones(6, 4) / 2),
}


@every_loss
@pytest.mark.parametrize("features", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("image_ids", [torch.arange(6), torch.zeros(6), torch.tensor([0, 1, 1, 2, 3, 4])])
def test_extremes_at_the_largest_scale(
    make: Make, features: tuple[Tensor, Tensor], image_ids: Tensor
) -> None:
    """One positive a row, all of them, and some."""
    extreme = Features(*features, scale=100.0)
    positives = PositivePairs(image_ids, torch.arange(6))
    whole = extreme.differentiate(make(multi_positive=True), positives)
    tiled = extreme.differentiate(make(multi_positive=True, chunk_size=4), positives)
    for one, other in zip(tiled, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@every_loss
@one_or_several
def test_tiles_are_differentiated_twice(make: Make, multi_positive: bool, batch: Features) -> None:
    def product(loss: Loss) -> list[Tensor]:
        """Gradient of the gradient's squared length."""
        value = loss(batch.images, batch.texts, batch.scale, SEVERAL)
        first = torch.autograd.grad(value, batch.inputs(loss), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), batch.inputs(loss)))

    whole = product(make(multi_positive=multi_positive))
    assert_near(product(make(multi_positive=multi_positive, chunk_size=7)), whole)


@every_loss
def test_a_scaled_loss_has_scaled_gradients_as_often_as_wanted(make: Make, batch: Features) -> None:
    loss = make(chunk_size=7)
    _, *expected = batch.differentiate(loss)
    scaled = 1024 * loss(batch.images, batch.texts, batch.scale)
    for _ in range(2):
        gradients = torch.autograd.grad(scaled, batch.inputs(loss), retain_graph=True)
        assert all(torch.equal(g, 1024 * e) for g, e in zip(gradients, expected, strict=True))


@every_loss
@pytest.mark.parametrize("frozen", ["images", "texts", "scale"])
def test_what_needs_no_gradient_gets_none(make: Make, frozen: str, batch: Features) -> None:
    whole, tiled = make(multi_positive=True), make(multi_positive=True, chunk_size=7)
    getattr(batch, frozen).requires_grad_(False)
    for loss in (whole, tiled):
        loss.zero_grad()
    gradients = []
    for loss in (whole, tiled):
        inputs = [tensor for tensor in batch.inputs(loss) if tensor.requires_grad]
        value = loss(batch.images, batch.texts, batch.scale, SEVERAL)
        gradients.append(torch.autograd.grad(value, inputs))
    assert_near(gradients[1], gradients[0])
    assert getattr(batch, frozen).grad is None


@every_loss
def test_tiles_are_float32_under_autocast_and_without_a_graph_in_validation(
    make: Make, batch: Features
) -> None:
    loss = make(chunk_size=7)
    exact = loss(batch.images, batch.texts, batch.scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = batch.differentiate(loss)
    assert_near(mixed, batch.differentiate(loss))
    with torch.inference_mode():
        validated = loss(batch.images, batch.texts, batch.scale)
    assert torch.equal(mixed[0], exact) and torch.equal(validated, exact)
    assert not validated.requires_grad


@every_loss
@one_or_several
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_low_precision_are_computed_with_in_float32(
    make: Make, multi_positive: bool, dtype: torch.dtype, batch: Features
) -> None:
    low = Features(batch.images.detach().to(dtype), batch.texts.detach().to(dtype), scale=14.0)
    exact = Features(low.images.detach().float(), low.texts.detach().float(), scale=14.0)
    value, *tiled = low.differentiate(make(multi_positive=multi_positive, chunk_size=4))
    expected, *gradients = exact.differentiate(make(multi_positive=multi_positive))
    torch.testing.assert_close(value, expected, atol=0, rtol=2e-6)

    assert [gradient.dtype for gradient in tiled[:2]] == [dtype, dtype]
    for gradient, of_float32 in zip(tiled, gradients, strict=True):
        step = torch.finfo(gradient.dtype).eps  # rounded once, in the end
        torch.testing.assert_close(gradient.float(), of_float32, atol=1e-7, rtol=max(step, 1e-5))


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor of a type that any operation returns; None is every type."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        tensors = [tensor for tensor in tensors if self.dtype in (None, tensor.dtype)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors)])
        return result


def largest_tensor(loss: Loss, rows: slice | None) -> int:
    """Elements of the largest tensor in forward and backward of 96 pairs with width 4."""
    features = torch.nn.functional.normalize(torch.randn(96, 4), dim=1)
    ids = torch.arange(96) // 2
    with LargestTensor() as largest:
        Features(features, features.flip(0), 10.0).differentiate(loss, PositivePairs(ids, ids), rows)
    return largest.numel


@every_loss
@one_or_several
@pytest.mark.parametrize("rows", [None, slice(24, 60)])
def test_no_table_of_all_pairs_is_ever_in_memory(
    make: Make, multi_positive: bool, rows: slice | None
) -> None:
    features, two_tiles = 96 * 4, 2 * 12 * 12
    tiled = largest_tensor(make(multi_positive=multi_positive, chunk_size=12), rows)
    assert tiled <= max(features, two_tiles)
    assert largest_tensor(make(multi_positive=multi_positive), rows) >= 36 * 96


@every_loss
def test_features_of_low_precision_are_not_copied_whole(make: Make) -> None:
    features = torch.nn.functional.normalize(torch.randn(96, 64), dim=1).bfloat16()
    with LargestTensor(torch.float32) as largest:
        make(chunk_size=12)(features, features.flip(0), torch.tensor(10.0))
    assert largest.numel <= 3 * 12 * 64  # of a tile: rows, scaled rows and columns


@every_loss
@pytest.mark.parametrize("chunk_size", [0, -8])
def test_a_tile_without_rows_is_refused(make: Make, chunk_size: int) -> None:
    with pytest.raises(SettingError, match=f"chunk_size={chunk_size}: must be at least 1; null"):
        make(chunk_size=chunk_size)
