"""Image-text retrieval with any number of captions per image.

The protocol: every caption of an image is a positive. An image's rank is that of its best caption; a
caption's rank is that of its image. Ties, and scores that are no numbers, count against the model.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.errors import UserError, counted
from miniclip.metrics.recall_table import DIRECTIONS, RECALL_AT, recall_keys
from miniclip.optim.norms import precise

IMAGES_AT_ONCE = 1024
CAPTIONS_AT_ONCE = 16384
"""Scores of so many pairs are held at a time: 64 MiB, whatever the size of the data set."""

TIE = 1e-6
"""Scores closer than this are equal: the rounding of one product depends on its position in a matrix."""


class Ranks(NamedTuple):
    """How many stand before the first right answer; 0 is a hit at 1.

    Attributes:
        image_to_text: (N,) int64, for each image the other images' captions not below its best own one.
        text_to_image: (M,) int64, for each caption the other images not below its own one.
    """

    image_to_text: Tensor
    text_to_image: Tensor


def retrieval_metrics(
    image_features: Tensor, text_features: Tensor, image_of_caption: Tensor
) -> dict[str, float]:
    """Recalls in percent, median ranks and rsum, the sum of the six recalls.

    Args:
        image_features: (N, D), of length 1.
        text_features: (M, D), of length 1.
        image_of_caption: (M,) int64, for each caption the row of its image; each image has at least one.

    Returns:
        i2t_r1, i2t_r5, i2t_r10, i2t_median_rank, the same for t2i, and rsum. Ranks start at 1.
    """
    return metrics_of_ranks(retrieval_ranks(image_features, text_features, image_of_caption))


def metrics_of_ranks(ranks: Ranks) -> dict[str, float]:
    """See `retrieval_metrics`."""
    metrics = {}
    for direction, misses in zip(DIRECTIONS, ranks, strict=True):
        for k in RECALL_AT:
            metrics[f"{direction}_r{k}"] = 100 * (misses < k).double().mean().item()
        # torch's quantile stops at 16 M values
        metrics[f"{direction}_median_rank"] = float(np.median(misses.cpu().numpy())) + 1
    metrics["rsum"] = sum(metrics[key] for key in recall_keys())
    return metrics


def retrieval_ranks(
    image_features: Tensor,
    text_features: Tensor,
    image_of_caption: Tensor,
    *,
    device: torch.device | None = None,
) -> Ranks:
    """Ranks by all pairs' scores, a block at a time. Arguments as of `retrieval_metrics`.

    Args:
        device: where the products are computed; None is where the features lie. Features of a million
            images need not fit it.

    Raises:
        UserError: when an image has no caption.
    """
    device = image_features.device if device is None else device
    # an autocast around this call would round the products in a matrix and not those alone
    with torch.autocast(device.type, enabled=False):
        return _ranks(image_features, text_features, image_of_caption, device)


def _ranks(
    image_features: Tensor, text_features: Tensor, image_of_caption: Tensor, device: torch.device
) -> Ranks:
    """See `retrieval_ranks`; features of low precision are multiplied in float32."""
    num_images, num_captions = len(image_features), len(text_features)

    def on_device(features: Tensor) -> Tensor:
        return precise(features.to(device))

    # of each caption with its image, (M,), and of each image with its best caption, (N,)
    own_score = torch.cat(
        [
            (on_device(text_features[part]) * on_device(image_features[image_of_caption[part]])).sum(dim=1)
            for part in _parts(num_captions, CAPTIONS_AT_ONCE)
        ]
    )
    owners = image_of_caption.to(device)
    num_without = num_images - len(owners.unique())
    if num_without:  # it could not be found, and every recall would be too low
        raise UserError(
            f"{counted(num_without, 'image')} of {num_images:,} without a caption: leave out what "
            "image_of_caption does not name."
        )
    best_own = torch.full((num_images,), -torch.inf, device=device, dtype=own_score.dtype)
    best_own = best_own.scatter_reduce(0, owners, own_score, "amax")

    image_to_text = torch.zeros(num_images, dtype=torch.int64, device=device)
    text_to_image = torch.zeros(num_captions, dtype=torch.int64, device=device)
    for rows in _parts(num_images, IMAGES_AT_ONCE):
        images = on_device(image_features[rows])  # (I, D)
        numbers = torch.arange(rows.start, rows.stop, device=device)[:, None]  # (I, 1)
        for columns in _parts(num_captions, CAPTIONS_AT_ONCE):
            scores = images @ on_device(text_features[columns]).T  # (I, C)
            others = owners[columns] != numbers  # (I, C)
            # "not below" instead of "at least": a NaN on either side counts against the model
            image_to_text[rows] += (~(scores < best_own[rows, None] - TIE) & others).sum(dim=1)
            text_to_image[columns] += (~(scores < own_score[columns] - TIE) & others).sum(dim=0)
    return Ranks(image_to_text, text_to_image)


def fold_metrics(
    image_features: Tensor, text_features: Tensor, image_of_caption: Tensor, *, fold_size: int
) -> tuple[dict[str, float], int]:
    """Mean metrics over folds of `fold_size` images in their order, as papers on COCO report 1K.

    Returns:
        the means, and the number of folds; images beyond the last whole fold are left out.
    """
    folds = []
    for start in range(0, len(image_features) - fold_size + 1, fold_size):
        # captions of the fold's images, (M,) bool
        inside = (image_of_caption >= start) & (image_of_caption < start + fold_size)
        folds.append(
            retrieval_metrics(
                image_features[start : start + fold_size],
                text_features[inside],
                image_of_caption[inside] - start,
            )
        )

    return {name: float(np.mean([fold[name] for fold in folds])) for name in folds[0]}, len(folds)


def chance_metrics(image_of_caption: Tensor) -> dict[str, float]:
    """What `retrieval_metrics` gives on average where all orders are equally likely."""
    counts = image_of_caption.bincount().double()
    num_images, num_captions = len(counts), len(image_of_caption)
    to_text, to_image = DIRECTIONS

    metrics = {}
    for k in RECALL_AT:
        # chance that none of an image's captions is among the first k, (N,)
        missed = torch.ones_like(counts)
        for draw in range(min(k, num_captions)):  # one more wrong caption drawn without return
            missed *= (num_captions - counts - draw).clamp(min=0) / (num_captions - draw)
        metrics[f"{to_text}_r{k}"] = 100 * (1 - missed).mean().item()
        metrics[f"{to_image}_r{k}"] = 100 * min(1.0, k / num_images)
    return metrics | {"rsum": sum(metrics.values())}


def protocol_name(split: str, num_images: int, num_captions: int) -> str:
    """How a printed number names what it was measured on."""
    return f"{split}: {counted(num_images, 'image')}, {counted(num_captions, 'caption')}"


def caption_owners(captions: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """All captions in one list, and for each the row of its image (M,) int64."""
    flat = [caption for captions_of_image in captions for caption in captions_of_image]
    counts = torch.tensor([len(captions_of_image) for captions_of_image in captions])
    return flat, torch.repeat_interleave(torch.arange(len(captions)), counts)


def _parts(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
