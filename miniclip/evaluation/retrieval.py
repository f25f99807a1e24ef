"""Image-text retrieval with any number of captions an image.

The protocol: every caption of an image is a positive. An image's rank is that of its best caption; a
caption's rank is that of its image. Ties, and scores that are no numbers, count against the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)
CHUNK = 1024


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
    metrics = {}
    for direction, ranks in (
        ("i2t", image_to_text_ranks(image_features, text_features, image_of_caption)),
        ("t2i", text_to_image_ranks(image_features, text_features, image_of_caption)),
    ):
        for k in RECALL_AT:
            metrics[f"{direction}_r{k}"] = 100 * (ranks < k).double().mean().item()
        metrics[f"{direction}_median_rank"] = ranks.double().quantile(0.5).item() + 1
    metrics["rsum"] = sum(metrics[f"{direction}_r{k}"] for direction in ("i2t", "t2i") for k in RECALL_AT)
    return metrics


def image_to_text_ranks(image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> Tensor:
    """For each image the number of other images' captions not below its best own one, (N,) int64."""
    ranks = []
    for start in range(0, len(image_features), CHUNK):
        scores = image_features[start : start + CHUNK] @ text_features.T
        images = torch.arange(start, start + len(scores), device=scores.device)
        own = image_of_caption[None, :] == images[:, None]
        best = scores.masked_fill(~own, -torch.inf).max(dim=1, keepdim=True).values
        # "not below" instead of "at least": a NaN on either side counts against the model
        ranks.append((~(scores < best) & ~own).sum(dim=1))
    return torch.cat(ranks)


def text_to_image_ranks(image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> Tensor:
    """For each caption the number of other images not below its own one, (M,) int64."""
    ranks = []
    for start in range(0, len(text_features), CHUNK):
        scores = text_features[start : start + CHUNK] @ image_features.T
        own_image = image_of_caption[start : start + CHUNK, None]
        own = scores.gather(1, own_image)
        not_below = ~(scores < own)
        ranks.append(not_below.sum(dim=1) - not_below.gather(1, own_image).squeeze(1).long())
    return torch.cat(ranks)


def protocol_name(split: str, num_images: int, num_captions: int) -> str:
    """How a printed number names what it was measured on."""
    return f"{split}: {num_images:,} images, {num_captions:,} captions"


def caption_owners(captions: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """All captions in one list, and for each the row of its image (M,) int64."""
    flat = [caption for own in captions for caption in own]
    counts = torch.tensor([len(own) for own in captions])
    return flat, torch.repeat_interleave(torch.arange(len(captions)), counts)
