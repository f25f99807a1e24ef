"""Batches: what a model and its loss read at once, and how items are stacked into one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate

from miniclip.data.dataset import Item
from miniclip.data.transforms import crop_and_resize
from miniclip.errors import BrokenImage
from miniclip.positives import PositivePairs


class Batch(NamedTuple):
    """Images with one caption each, complete and on the model's device.

    Attributes:
        images: (B, 3, H, W) float32, normalized, in channels_last memory; uint8 and not normalized where
            the loader keeps pixels; where frozen towers' features are cached, those of the images,
            (B, width).
        token_ids: (B, L) int64; L is 0 where the loader has no tokenizer. Or features of the captions.
        attention_mask: (B, L) bool.
        positives: which captions are right for which images; None is the diagonal.
        num_false_negatives: right pairs off the diagonal, which a loss of one positive takes for wrong.
        image_ids: (B,) int64 on the host, index of each image in its split; empty where there is none.
        captions: B of them, as they were written.
        problems: why images could not be read for which others stand in.
    """

    images: Tensor
    token_ids: Tensor
    attention_mask: Tensor
    positives: PositivePairs | None = None
    num_false_negatives: int = 0
    image_ids: Tensor = torch.empty(0, dtype=torch.int64)
    captions: Sequence[str] = ()
    problems: Sequence[BrokenImage] = ()


class CollatedBatch(NamedTuple):
    """Items stacked on the host: what a worker process hands over.

    Attributes:
        images: (B, 3, H, W) uint8 in channels_last memory, or features (B, width) float32.
        boxes: (B, 5) int64, the parts of the images still to be cut out; None where that is done.
        image_ids, captions, problems: see `Batch`.
    """

    images: Tensor
    boxes: Tensor | None
    image_ids: Tensor
    captions: list[str]
    problems: list[BrokenImage]


def collate(
    items: Sequence[Item], *, image_size: int | None, take: Callable[..., Tensor] | None = None
) -> CollatedBatch:
    """Stack what the model sees of the images; with `image_size` None the whole images, padded.

    Args:
        take: gives the memory to write into, for a shape; None takes new memory, in a worker process such
            as the main process shares.
    """
    if image_size is None:
        heights, widths = zip(*(item.image.shape[1:] for item in items), strict=True)
        parts = [_padded(item.image, max(heights), max(widths)) for item in items]
    else:
        parts = [crop_and_resize(item.image, item.box, image_size) for item in items]

    by_pixel = [part.permute(1, 2, 0) for part in parts]  # each (H, W, 3)
    if take is None:
        images = default_collate(by_pixel).permute(0, 3, 1, 2)  # (B, 3, H, W)
    else:
        images = take((len(items), *parts[0].shape))
        torch.stack(by_pixel, out=images.permute(0, 2, 3, 1))

    return collate_boxes(items, images) if image_size is None else _with_images(items, images, boxes=None)


def collate_boxes(items: Sequence[Item], images: Tensor) -> CollatedBatch:
    """Stack all but the images, which are whole, padded and stacked already: (B, 3, H, W) uint8."""
    return _with_images(items, images, boxes=torch.tensor([item.box for item in items]))


def collate_features(items: Sequence[Item]) -> CollatedBatch:
    """Stack items of a `FeatureDataset`."""
    return _with_images(items, torch.stack([item.image for item in items]), boxes=None)


def _with_images(items: Sequence[Item], images: Tensor, *, boxes: Tensor | None) -> CollatedBatch:
    return CollatedBatch(
        images=images,
        boxes=boxes,
        image_ids=torch.tensor([item.index for item in items]),
        captions=[item.caption for item in items],
        problems=[item.problem for item in items if item.problem is not None],
    )


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
