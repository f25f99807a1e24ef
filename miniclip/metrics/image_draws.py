"""How recalls vary with the images that were measured: images are drawn with replacement (Efron 1979)."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from miniclip.metrics.recall_table import RECALL_AT, recall_keys
from miniclip.metrics.retrieval import Ranks


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class ImageHits(NamedTuple):
    """What each of N images contributes to the six recalls, those of images to texts first.

    Attributes:
        hits: (N, 6).
        trials: (N, 6), what they are out of: one image, or its captions.
    """

    hits: np.ndarray
    trials: np.ndarray


def bootstrap(
    ranks: Ranks, image_of_caption: Tensor, *, draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of recalls and rsum over which images, with their captions, were measured.

    What the drawn images were ranked among stays the same.

    Args:
        draws: number of samples.
        seed: of the samples.
    """
    hits, trials = hits_of_images(ranks, image_of_caption.cpu().numpy())
    recalls = recalls_of_draws(hits, trials, draws=draws, seed=seed)  # (draws, 6)
    rsum = recalls.sum(axis=1, keepdims=True)  # (draws, 1)

    names = [*recall_keys(), "rsum"]
    low, high = np.quantile(np.hstack([recalls, rsum]), (0.025, 0.975), axis=0)  # (7,) each
    return {name: Interval(float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def hits_of_images(ranks: Ranks, image_of_caption: np.ndarray) -> ImageHits:
    """Hits of each image, those of its captions counted for it.

    Args:
        image_of_caption: (M,), for each caption the row of its image.
    """
    num_images = len(ranks.image_to_text)
    num_captions = np.bincount(image_of_caption, minlength=num_images)  # (N,)

    columns = [(ranks.image_to_text < k).cpu().numpy().astype(float) for k in RECALL_AT]
    for k in RECALL_AT:
        is_hit = (ranks.text_to_image < k).cpu().numpy()  # (M,)
        columns.append(np.bincount(image_of_caption, is_hit, num_images))

    trials = [np.ones(num_images)] * len(RECALL_AT) + [num_captions] * len(RECALL_AT)
    return ImageHits(np.stack(columns, axis=1), np.stack(trials, axis=1))


def recalls_of_draws(hits: np.ndarray, trials: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """The six recalls in percent of each sample of images, (draws, 6).

    Args:
        hits: (N, 6), as of `ImageHits`; of differences of hits they are the differences of recalls.
        trials: (N, 6).
        draws: number of samples, each of N images.
        seed: of the samples; with the same one the same images are drawn.
    """
    num_images = len(hits)
    generator = np.random.default_rng(seed)

    recalls = np.empty((draws, hits.shape[1]))
    for draw in range(draws):
        # (N,), how often each image was drawn
        weights = np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
        recalls[draw] = 100 * (weights @ hits) / (weights @ trials)
    return recalls
