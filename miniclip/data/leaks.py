"""Images that two parts of a data set share, found without decoding any."""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from miniclip.data.images import Images
from miniclip.data.split import Split
from miniclip.errors import BrokenImage, UserError, counted

log = logging.getLogger(__name__)

Trait = Callable[[Images, int], Hashable | None]

TRAITS: tuple[Trait, ...] = (
    lambda images, row: images.size(row),
    lambda images, row: images.sample(row),
    lambda images, row: images.digest(row),
)
"""What equal images have in common, from what costs least to read."""


class Place(NamedTuple):
    """One image of one part.

    Attributes:
        part: number of the part.
        id: name of the image in it.
        images: the sequence that reads it.
        row: where it lies there.
    """

    part: int
    id: str
    images: Images
    row: int


def check_leaks(*readings: Sequence[Split]) -> None:
    """Warn of images that lie in two parts, with one line for each pair of parts.

    Args:
        readings: the parts, read in one or more ways: from their files and from a cache, say.

    Raises:
        UserError: when all images of one part lie in another, too.
    """
    parts = readings[0]
    groups = [group for splits in readings for group in find_leaks(splits)]

    for first, second in combinations(range(len(parts)), 2):
        shared = _shared(groups, first, second)
        if not shared:
            continue

        # the same name in both parts is said once
        names = parts[first].name, parts[second].name
        pairs = list(shared.items())[:3]
        examples = ", ".join(one if one == other else f"{other} = {one}" for one, other in pairs)

        if len(shared) == len(parts[second]):
            raise UserError(
                f"The {names[0]} part holds all of the {names[1]} part as well, "
                f"{counted(len(shared), 'image')} ({examples}). Name another table or folder for one of "
                "them, or let a seeded fraction of the training images validate (data.val_fraction)."
            )
        log.warning(
            "The %s part holds %d of %s of the %s part as well (%s): results on it are too good. Take them "
            "out of one part; miniclip doctor shows more.",
            names[0],
            len(shared),
            counted(len(parts[second]), "image"),
            names[1],
            examples,
        )


def find_leaks(splits: Sequence[Split]) -> list[list[Place]]:
    """Groups of equal images that lie in more than one of the splits.

    Files are equal byte for byte, decoded images pixel for pixel. Only what has an equal in size is
    read, and whole only what has equal last bytes (equal sampled pixels), too. Sequences of other kinds
    are passed over.
    """
    groups: Iterable[list[Place]] = [list(_places(splits))]
    for trait in TRAITS:
        groups = [part for group in groups for part in _divided(group, trait)]
    return list(groups)


def _shared(groups: Iterable[list[Place]], first: int, second: int) -> dict[str, str]:
    """Names of the second part's images that lie in the first, and what they are called there."""
    shared: dict[str, str] = {}
    for group in groups:
        others = [place.id for place in group if place.part == first]
        if others:
            shared |= {place.id: others[0] for place in group if place.part == second}
    return shared


def _places(splits: Sequence[Split]) -> Iterator[Place]:
    for part, split in enumerate(splits):
        for row, image_id in enumerate(split.ids):
            yield Place(part, image_id, split.images, row)


def _divided(group: list[Place], trait: Trait) -> list[list[Place]]:
    """Those of a group that have one trait in common and are of several parts."""
    by_trait: dict[Hashable, list[Place]] = defaultdict(list)
    for place in group:
        try:
            value = trait(place.images, place.row)
        except (OSError, ValueError, BrokenImage):
            continue  # what cannot be read is told by whoever needs it
        if value is not None:
            by_trait[value].append(place)
    return [places for places in by_trait.values() if len({place.part for place in places}) > 1]
