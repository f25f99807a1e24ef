"""Wrong captions on purpose: a fraction of the training images exchange theirs among one another."""

import logging
import random

import numpy as np

from miniclip.data.split import Split
from miniclip.errors import SettingError, counted

log = logging.getLogger(__name__)


def num_exchanged(num_images: int, fraction: float) -> int:
    """How many of so many images exchange their captions."""
    return round(num_images * fraction)


def exchanged_captions(split: Split, *, fraction: float, seed: int) -> Split:
    """The split with the captions of a fraction of its images exchanged; it is told once in the log.

    Of the chosen images each gets all captions of another one, and none keeps its own. The images of a
    smaller fraction are among those of a larger one, so that two fractions compare. Captions move whatever
    they say: where two images have equal ones, as those of one class do, an exchange between them changes
    nothing, and the log counts these.

    Args:
        fraction: of the images; 0 leaves the split as it is.
        seed: of the choice, and of who gets whose.

    Raises:
        SettingError: when the fraction is of fewer than two images, which have nobody to exchange with.
    """
    if fraction == 0 or len(split) == 0:  # where everything is measured, nothing trains
        return split

    count = num_exchanged(len(split), fraction)
    if count < 2:
        raise SettingError("caption_noise", fraction, _too_few(count, len(split)))

    # a text as the seed, so that the order is not that in which a part was set apart by the same number
    rows = list(range(len(split)))
    random.Random(f"caption noise {seed}").shuffle(rows)
    chosen = np.asarray(rows[:count], dtype=np.int64)

    # each gets those of the next one, the last those of the first
    sources = np.arange(len(split))
    sources[chosen] = np.roll(chosen, -1)
    noisy = Split(split.name, split.ids, split.images, split.captions.select(sources), split.labels)

    _tell(split, noisy, chosen)
    return noisy


def _tell(split: Split, noisy: Split, chosen: np.ndarray) -> None:
    """Log how many images have another image's captions, and of how many these read the same."""
    num_equal = sum(list(split.captions[row]) == list(noisy.captions[row]) for row in chosen.tolist())
    log.info(
        "%s of %s have another image's captions%s.",
        f"{len(chosen):,}",
        counted(len(split), "training image"),
        f", of which {num_equal:,} read as their own" if num_equal else "",
    )


def _too_few(count: int, num_images: int) -> str:
    """What is wrong with a fraction of no image or of one."""
    images = counted(num_images, "training image")
    if num_images < 2:
        return f"cannot be exchanged among {images}; give 0"
    return (
        f"is {count} of {images}, which has nobody to exchange captions with; give 0, or at least "
        f"{2 / num_images:.3g}"
    )
