"""Images that two parts of a data set share, found without decoding any."""

import hashlib
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from miniclip.data.cache import CachedImages
from miniclip.data.images import ImageBytes, ImageFiles, Images
from miniclip.data.split import Split
from miniclip.errors import BrokenImage, UserError, counted

log = logging.getLogger(__name__)

TAIL_BYTES = 4096
"""Files of equal size are told apart by so many of their last bytes, before they are read whole."""

SAMPLE_STRIDE = 16
"""Of decoded images every so many-th pixel is compared first."""


class Place(NamedTuple):
    """One image of one part.

    Attributes:
        part: number of the part.
        id: name of the image in it.
        images: the sequence that reads it, no subset of another.
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
    for trait in (_size, _sample, _content):
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
            yield Place(part, image_id, *split.images.origin(row))


def _divided(group: list[Place], trait: Any) -> list[list[Place]]:
    """Those of a group that have one trait in common and are of several parts."""
    if trait is _content and len({_file(place) for place in group}) == 1 and _file(group[0]) is not None:
        return [group]  # one file need not be compared with itself
    by_trait: dict[Hashable, list[Place]] = defaultdict(list)
    for place in group:
        value = trait(place)
        if value is not None:
            by_trait[value].append(place)
    return [places for places in by_trait.values() if len({place.part for place in places}) > 1]


def _file(place: Place) -> str | None:
    """The path of an image's file."""
    if isinstance(place.images, ImageFiles):
        return os.path.join(place.images.root, place.images.names[place.row])
    return None


def _size(place: Place) -> Hashable | None:
    """Bytes of the file, or shape of the decoded image; None where there is nothing to compare."""
    path = _file(place)
    try:
        if path is not None:
            found = os.stat(path)
            return found.st_size if stat.S_ISREG(found.st_mode) and found.st_size else None

        if isinstance(place.images, ImageBytes):
            return place.images.num_bytes(place.row) or None
        if isinstance(place.images, CachedImages):
            return place.images.digests[place.row] or None
        if place.images.is_decoded:
            return tuple(place.images[place.row].shape)
    except (OSError, ValueError, BrokenImage):
        pass  # what cannot be read is told by whoever needs it
    return None


def _sample(place: Place) -> Hashable | None:
    """A little of the content."""
    path = _file(place)
    if path is not None:
        return _read(path, tail=TAIL_BYTES)
    if isinstance(place.images, ImageBytes):
        return bytes(_buffer(place)[-TAIL_BYTES:])
    if isinstance(place.images, CachedImages):  # of the image as it was decoded
        return place.images.digests[place.row]
    return place.images[place.row][:, ::SAMPLE_STRIDE, ::SAMPLE_STRIDE].numpy().tobytes()


def _content(place: Place) -> Hashable | None:
    """A hash of the whole content."""
    path = _file(place)
    if path is not None:
        content: Any = _read(path)
    elif isinstance(place.images, ImageBytes):
        content = _buffer(place)
    elif isinstance(place.images, CachedImages):
        return place.images.digests[place.row]
    else:
        content = place.images[place.row].permute(1, 2, 0).contiguous().numpy()
    return None if content is None else hashlib.blake2b(content, digest_size=16).digest()


def _read(path: str, *, tail: int | None = None) -> bytes | None:
    """A file's content, or its last bytes; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if tail is not None:
                file.seek(-min(tail, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read()
    except (OSError, ValueError):
        return None


def _buffer(place: Place) -> memoryview:
    """The encoded image, without a copy where it lies in an Arrow table."""
    assert isinstance(place.images, ImageBytes)
    content: Any = place.images.encoded[place.row]
    if hasattr(content, "as_buffer"):
        content = content.as_buffer()
    return memoryview(b"" if content is None else content)
