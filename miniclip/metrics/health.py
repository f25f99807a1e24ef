"""Health of the joint space: does it spread, do both towers share it, has it collapsed?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.metrics.cosines import cosines_of
from miniclip.metrics.features import Features

MOST_PAIRS = 2048
"""Pairs that are looked at, evenly over the split: all of it costs the square of their number."""

COLLAPSED_RANK = 1.5
"""Features of a smaller effective rank lie on a line; two classes, each at a point of its own, have two."""

COLLAPSED_UNIFORMITY = -0.1
"""Features closer to 0 than this lie at one point, however round their cloud is; trained ones have -2."""

FEWEST_IMAGES = 8
"""Of fewer, all may well be of one class, at one point: half of the sets of two images of two classes are,
and 1 in 128 of eight."""


class Health(NamedTuple):
    """Measures of image and caption features, all on the unit sphere.

    Attributes:
        alignment: mean squared distance of an image and its caption (Wang and Isola 2020, arXiv
            2005.10242); 0 is best.
        image_uniformity, text_uniformity: log of the mean of exp(-2 d^2) over pairs of one tower (ibid.);
            0 is collapse, about -4 an even spread. NaN of fewer than `FEWEST_IMAGES`.
        modality_gap: distance between the towers' means (Liang et al. 2022, arXiv 2203.02053).
        image_rank, text_rank: effective rank, exp of the entropy of the normalized singular values (Roy and
            Vetterli 2007); at most embed_dim.
        positive_cosine, negative_cosine: means over right and wrong pairs.
    """

    alignment: float
    image_uniformity: float
    text_uniformity: float
    modality_gap: float
    image_rank: float
    text_rank: float
    positive_cosine: float
    negative_cosine: float

    @property
    def has_collapsed(self) -> bool:
        """Whether a tower answers nearly the same to everything, or no numbers; few images cannot tell."""
        ranks = (self.image_rank, self.text_rank)
        uniformity = max(self.image_uniformity, self.text_uniformity)
        if math.isnan(uniformity) and not any(map(math.isnan, ranks)):
            return False
        return not all(rank >= COLLAPSED_RANK for rank in ranks) or uniformity > COLLAPSED_UNIFORMITY


def health(features: Features) -> Health:
    """Measure a split's features, each image with its first caption."""
    images, texts = some_pairs(features)
    cosines = cosines_of(images, texts)  # (P, P)
    right = cosines.diagonal()
    wrong = ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)

    return Health(
        alignment=(2 - 2 * right).mean().item(),
        image_uniformity=_uniformity(images),
        text_uniformity=_uniformity(texts),
        modality_gap=(images.mean(dim=0) - texts.mean(dim=0)).norm().item(),
        image_rank=effective_rank(images),
        text_rank=effective_rank(texts),
        positive_cosine=right.mean().item(),
        negative_cosine=cosines[wrong].mean().item() if len(cosines) > 1 else math.nan,
    )


def cosine_counts(features: Features, *, num_bins: int = 50) -> dict[str, list[int]]:
    """How often which cosine occurs, in bins of equal width from -1 to 1, of right and of wrong pairs."""
    images, texts = some_pairs(features)
    cosines = cosines_of(images, texts).clamp(-1, 1).cpu()  # (P, P)
    wrong = ~torch.eye(len(cosines), dtype=torch.bool)
    return {
        name: torch.histc(values, num_bins, -1, 1).long().tolist()
        for name, values in (("positive", cosines.diagonal()), ("negative", cosines[wrong]))
    }


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values of (N, D), their sum set to one; NaN where one is."""
    if not features.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(features.double())
    fractions = values / values.sum()  # (min(N, D),)
    return torch.exp(-torch.xlogy(fractions, fractions).sum()).item()


def some_pairs(features: Features, most: int = MOST_PAIRS) -> tuple[Tensor, Tensor]:
    """Images and their first captions, evenly over the split, at most so many."""
    indices = torch.linspace(0, len(features.images) - 1, min(most, len(features.images))).round().long()
    indices = indices.to(features.images.device)
    return features.images[indices], features.first_captions[indices]


def _uniformity(features: Tensor) -> float:
    if len(features) < FEWEST_IMAGES:
        return math.nan

    cosines = cosines_of(features, features)  # (P, P)
    others = ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    return torch.exp(-2 * (2 - 2 * cosines[others])).mean().log().item()
