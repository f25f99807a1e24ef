"""From a tar file to its index: the members of each sample, and the texts in them."""

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.index import ShardIndex
from miniclip.data.shards.tar import Member, has_end_mark, members
from miniclip.data.sources.walk import is_visible, readable_endings
from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.errors import UserError

log = logging.getLogger(__name__)

MOST_TEXT_BYTES = 2**22
"""Of a .txt or .json; a longer one is no caption."""

NO_CAPTION = "without a caption"
NO_IMAGE = "without an image"
REPEATED = "with a key that another one has, too"
DOTTED = "with a dot in its name, where a key ends at the first dot"
LEADS_OUT = "with a name that leads out of the shard"
BAD_CAPTION = "whose caption cannot be read"


def index_tar(path: Path, reading: CaptionReading) -> ShardIndex:
    """Index a tar file: headers are read, and texts, but no image.

    Raises:
        BadShard: see `members`.
        OSError: when it cannot be read.
    """
    left_out: dict[str, tuple[int, str]] = {}
    samples = _samples(path, left_out)

    keys: list[str] = []
    places: list[tuple[int, int]] = []
    captions: list[list[str]] = []
    labels: list[str] = []
    with open(path, "rb", buffering=0) as file:
        for key, sample in samples.items():
            if sample.image is None:
                _leave_out(left_out, NO_IMAGE, key)
                continue
            own, label = _texts(file, sample, reading, key, left_out)
            if own:
                labels.append(label)
                keys.append(key)
                places.append((sample.image.offset, sample.image.size))
                captions.append(own)

    offsets, sizes = np.array(places, dtype=np.int64).reshape(-1, 2).T
    texts = StringArray.of(keys), offsets, sizes, StringListArray.of(captions), StringArray.of(labels)
    return ShardIndex(*texts, left_out)


class _Sample(NamedTuple):
    image: Member | None = None
    text: Member | None = None
    document: Member | None = None
    label: Member | None = None


def _samples(path: Path, left_out: dict[str, tuple[int, str]]) -> dict[str, _Sample]:
    """The members of each key, in the order of its first one; none of a key that is of several samples."""
    endings = readable_endings()
    samples: dict[str, _Sample] = {}
    repeated: dict[str, Counter[str]] = defaultdict(Counter)
    dotted: dict[str, list[str]] = defaultdict(list)
    last = None

    for member in members(path):
        last = member
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not member.is_file or not is_visible(base):
            continue
        if member.leads_out:
            _leave_out(left_out, LEADS_OUT, member.name)
            continue

        key = f"{folder}/{stem}" if folder else stem
        part = _part_of(ending.lower(), endings)
        if part is None:
            if _part_of(ending.lower().rpartition(".")[2], endings) == "image":
                dotted[key].append(member.name)
            continue

        sample = samples.get(key, _Sample())
        if getattr(sample, part) is None:
            samples[key] = sample._replace(**{part: member})
        else:
            repeated[key][part] += 1

    for key, parts in repeated.items():  # which caption is of which image, nothing tells
        del samples[key]
        for _ in range(1 + max(parts.values())):
            _leave_out(left_out, REPEATED, key)
    for key, names in dotted.items():
        # beside an image of the key it is one more file of that sample, a mask say
        for name in names if samples.get(key, _Sample()).image is None else ():
            _leave_out(left_out, DOTTED, name)

    if last is not None and not has_end_mark(path, last):
        log.warning("The shard %s has no end mark behind %s; it may be cut off there.", path, last.name)
    return samples


def _part_of(ending: str, image_endings: frozenset[str]) -> str | None:
    """What of a sample a member is, by its ending."""
    if ending == "txt":
        return "text"
    if ending == "json":
        return "document"
    if ending == "cls":
        return "label"
    return "image" if f".{ending}" in image_endings else None


def _texts(
    file: BinaryIO,
    sample: _Sample,
    reading: CaptionReading,
    key: str,
    left_out: dict[str, tuple[int, str]],
) -> tuple[list[str], str]:
    """The captions of a sample and its class; it is entered in `left_out` where it has no captions."""
    if sample.text is None and sample.document is None and sample.label is None:
        _leave_out(left_out, NO_CAPTION, key)
        return [], ""
    try:
        text, document, class_text = (
            _content(file, part) for part in (sample.text, sample.document, sample.label)
        )
        label = reading.label_of(class_text, document)
        captions = reading.captions(text, document, label)
    except UserError as error:
        _leave_out(left_out, BAD_CAPTION, f"{key}: {str(error).rstrip('.')}")
        return [], ""
    if not captions:
        _leave_out(left_out, NO_CAPTION, key)
    return captions, label


def _content(file: BinaryIO, member: Member | None) -> bytes | None:
    if member is None:
        return None
    if member.size > MOST_TEXT_BYTES:
        raise UserError(f"{member.name} has {member.size:,} bytes")
    file.seek(member.offset)
    return file.read(member.size)


def _leave_out(left_out: dict[str, tuple[int, str]], reason: str, example: str) -> None:
    count, first = left_out.get(reason, (0, example))
    left_out[reason] = count + 1, first
