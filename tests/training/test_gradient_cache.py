"""Gradient caching: gradients, masks and statistics of one graph, with a micro-batch of it in memory."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.training import TrainingStep
from miniclip.training.forward_backward import Accumulation, BatchFeatures
from tests.training.test_step import batch, step, weights

SIZE = 3
"""Rows of a micro-batch at most: a batch of 8 has parts of 3, 3 and 2."""

NO_BATCH_NORM = "encoder.image.architecture=test_vit"
DROPOUT = "encoder.text.dropout=0.3"


class OneGraph(Accumulation):
    """The same micro-batches in one graph: what gradient caching has to agree with, whatever the model."""

    def _encode(self, batch: Batch) -> BatchFeatures:
        images, *texts = (
            part.tensor_split(3) for part in (batch.images, batch.token_ids, batch.attention_mask)
        )
        image_features = [self._under_autocast(self.model.encode_image, part) for part in images]
        text_features = [
            self._under_autocast(self.model.encode_text, *part) for part in zip(*texts, strict=True)
        ]
        return BatchFeatures(torch.cat(image_features), torch.cat(text_features))

    def _under_autocast(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        with self.precision.autocast():
            return encode(*inputs)


def cached(*overrides: str) -> TrainingStep:
    return step(f"trainer.micro_batch_size={SIZE}", *overrides)


def whole(update: TrainingStep) -> TrainingStep:
    """A copy of a step that takes every batch at once."""
    copied = deepcopy(update)
    copied.forward_backward.micro_batch_size = None
    return copied


def in_one_graph(update: TrainingStep) -> TrainingStep:
    """A copy of a step whose micro-batches are in one graph."""
    copied = deepcopy(update)
    passes: Any = copied.forward_backward
    copied.forward_backward = OneGraph(
        passes.model,
        passes.loss,
        passes.precision,
        reuses_feature_gradient=passes.reuses_feature_gradient,
    )
    return copied


def assert_same_step(ours: TrainingStep, theirs: TrainingStep, *batches: Batch, rtol: float) -> None:
    """Hold gradients, losses, statistics and random numbers of a step against each other."""
    results, states = [], []
    for update in (ours, theirs):
        torch.manual_seed(1)
        results.append(update(batches))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)

    found, expected = results
    assert found.metrics.keys() == expected.metrics.keys()
    torch.testing.assert_close(found.loss, expected.loss, rtol=rtol, atol=0)
    torch.testing.assert_close(found.logit_scale, expected.logit_scale, rtol=rtol, atol=0)
    for name, value in found.metrics.items():
        torch.testing.assert_close(value, expected.metrics[name], rtol=10 * rtol, atol=rtol)

    gradients = [[p.grad for p in update.model.parameters()] for update in (ours, theirs)]
    assert [g is None for g in gradients[0]] == [g is None for g in gradients[1]]
    flat = [torch.cat([g.flatten() for g in each if g is not None]) for each in gradients]
    assert (flat[0] - flat[1]).norm() <= rtol * flat[1].norm() > 0
    for name, buffer in theirs.model.named_buffers():
        torch.testing.assert_close(ours.model.get_buffer(name), buffer, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("optimizer", ["adamw", "sam", "functional_sam", "gsam", "muon"])
def test_without_batch_norm_the_step_is_that_of_the_whole_batch(optimizer: str) -> None:
    update = cached(f"optimizer={optimizer}", "encoder.image.architecture=test_vit")
    assert_same_step(update, whole(update), batch(), rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer=sam", "temperature.sam=reuse"],
        ["optimizer=sam_text_tower"],
        ["optimizer=functional_sam", "encoder.image.trainable=last_stage", "projection=none"],
        ["optimizer=msam", "loss=siglip", "temperature=learned"],
    ],
    ids=" ".join,
)
def test_masks_and_statistics_are_those_of_one_graph(settings: list[str]) -> None:
    """Of two batches; batch norm over few rows turns a last bit into the fourth digit of SAM's gradient."""
    update = cached(DROPOUT, *settings)
    assert_same_step(update, in_one_graph(update), batch(0), batch(1), rtol=5e-4)


@pytest.mark.parametrize(("precision", "optimizer"), [("bf16", "sam"), ("fp16", "functional_sam")])
def test_in_low_precision(precision: str, optimizer: str) -> None:
    update = cached(DROPOUT, f"precision={precision}", f"optimizer={optimizer}")
    if update.precision.scaler is not None:
        update.precision.load_state_dict(update.precision.state_dict() | {"scale": 256.0})
    assert_same_step(update, in_one_graph(update), batch(), rtol=0.02)


def test_a_batch_that_fits_goes_the_plain_way() -> None:
    update = step(DROPOUT, "optimizer=sam", "trainer.micro_batch_size=8")
    finals = []
    for each in (update, whole(update)):
        torch.manual_seed(1)
        each([batch()])
        finals.append(weights(each))
    assert torch.equal(*finals)


def test_statistics_move_once_per_micro_batch_and_not_in_a_step_that_is_skipped() -> None:
    update = cached("optimizer=sam")
    update([batch(0), batch(1)])
    backbone: Any = update.model.image_encoder.backbone
    assert backbone.bn1.num_batches_tracked == 6
    assert update.model.temperature.num_batches_tracked == 2

    before = {name: value.clone() for name, value in update.model.state_dict().items()}
    bad = batch()
    bad.images[7, 0, 0, 0] = torch.nan
    update([bad])
    assert all(torch.equal(value, before[name]) for name, value in update.model.state_dict().items())


def test_a_tower_without_a_gradient_goes_forward_once() -> None:
    update = cached("projection=none", "optimizer=adamw")
    update.model.image_encoder.requires_grad_(False)
    calls = {"image": 0, "text": 0}

    def count(tower: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[tower] += 1

        return hook

    update.model.image_encoder.register_forward_hook(count("image"))
    update.model.text_encoder.register_forward_hook(count("text"))
    update([batch()])
    assert calls == {"image": 3, "text": 6}


@contextmanager
def bytes_saved_for_backward() -> Iterator[list[int]]:
    """How much autograd keeps besides weights, at each time that it keeps something more."""
    now, told = [0], [0]

    class Kept:
        def __init__(self, tensor: Tensor):
            self.tensor = tensor
            num_bytes = 0 if tensor.is_leaf and tensor.requires_grad else tensor.nbytes
            now[0] += num_bytes
            told.append(now[0])
            weakref.finalize(self, forget, num_bytes)

    def forget(num_bytes: int) -> None:
        now[0] -= num_bytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield told


@pytest.mark.parametrize("optimizer", ["sam", "functional_sam"])
def test_one_micro_batch_is_alive_at_a_time(optimizer: str) -> None:
    update = cached(f"optimizer={optimizer}")
    full = batch()
    small = Batch(full.images[:SIZE], full.token_ids[:SIZE], full.attention_mask[:SIZE])

    def most_bytes(of_step: TrainingStep, *batches: Batch) -> int:
        with bytes_saved_for_backward() as told:
            of_step(batches)
        return max(told)

    in_micro_batches = most_bytes(update, batch(0), batch(1))
    assert in_micro_batches <= most_bytes(whole(update), small)
    assert in_micro_batches < most_bytes(whole(update), full) / 2


def test_backward_is_not_under_autocast_and_forward_is() -> None:
    update = cached("precision=bf16", NO_BATCH_NORM)
    on: dict[str, set[bool]] = {"forward": set(), "backward": set()}

    def watch(kind: str) -> Callable[..., None]:
        return lambda *_: on[kind].add(torch.is_autocast_enabled("cpu"))

    update.model.projection.register_forward_hook(watch("forward"))
    update.model.projection.register_full_backward_hook(watch("backward"))
    update([batch()])
    assert on == {"forward": {True}, "backward": {False}}
