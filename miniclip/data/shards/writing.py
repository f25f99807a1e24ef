"""Images and captions of any source, written into shards: each appears whole or not at all."""

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from miniclip.data.image_content import format_of
from miniclip.data.images import Images
from miniclip.data.shards.captions import EVERY, CaptionReading
from miniclip.data.shards.index import write_index
from miniclip.data.shards.opening import beside, fitting_index, make_index, stamp_of
from miniclip.data.shards.tar import BLOCK
from miniclip.data.sources.base import DataSource
from miniclip.data.split import Split, concatenated, seeded_rows
from miniclip.errors import BrokenImage, UserError
from miniclip.files import read_json, replacing, write_json
from miniclip.stop_signals import leave_to_main_process

log = logging.getLogger(__name__)

PLAN = "shards.json"
"""Says of which set the shards in a folder are, so that a killed command goes on with these alone."""

USUAL_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}

READING = CaptionReading()


class Part(NamedTuple):
    """A part of a data set, as its shards are called."""

    word: str
    split: Split


class Job(NamedTuple):
    """One shard: some rows of a part, one behind the other."""

    name: str
    part: int
    start: int
    end: int


class Written(NamedTuple):
    """What is in one shard, and why images are not."""

    num_images: int
    problems: list[str]


class ShardWriter(NamedTuple):
    """Writes the shards of several parts into a folder.

    Attributes:
        parts: what is written.
        folder: where to.
        skips_broken: leave images out that cannot be read, instead of stopping at them.
    """

    parts: Sequence[Part]
    folder: Path
    skips_broken: bool

    def write(self, job: Job) -> Written:
        """Write a shard and its index, if it is not there yet.

        Raises:
            BrokenImage: when an image cannot be read, and none is skipped.
            OSError: when the disk does not take it.
        """
        path = self.folder / job.name
        problems: list[str] = []
        if not path.exists():
            with (
                replacing(path, "wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for name, content in self._members(job, problems):
                    _add(tar, name, content)

        num_images = index_shard(path, READING)
        return Written(num_images, problems)

    def _members(self, job: Job, problems: list[str]) -> Iterator[tuple[str, bytes]]:
        """Names and contents of a shard's members; why an image has none is added to the problems."""
        split = self.parts[job.part].split
        for row in range(job.start, job.end):
            try:
                content, ending = _encoded(split.images, row, split.ids[row])
            except BrokenImage as error:
                if not self.skips_broken:
                    raise
                problems.append(str(error))
                continue

            # other readers know one caption in a .txt, so that all of several stand beside it
            key, captions = f"{row:09}", list(split.captions[row])
            yield f"{key}.{ending}", content
            yield f"{key}.txt", captions[0].encode("utf-8", "replace")
            if split.labels is not None:
                yield f"{key}.cls", split.labels[row].encode("utf-8", "replace")
            if len(captions) > 1:
                yield f"{key}.json", json.dumps({EVERY: captions}).encode()


def parts_of(source: DataSource) -> list[Part]:
    """The parts of a source that its shards keep apart.

    A validation part that nobody published is put back where it was drawn from, so that the same settings
    draw it anew out of the shards.
    """
    if source.use == "all":
        return [Part("train", source.everything())]
    train, val, *tests = source.splits()
    parts = [Part("test", test) for test in tests]
    if val.name.startswith("seeded"):
        return [Part("train", _put_back(train, val, source)), *parts]
    return [Part("train", train), Part("val", val), *parts]


def plan(parts: Sequence[Part], *, max_bytes: int) -> list[Job]:
    """The shards of all parts, of at most `max_bytes` unless one image alone takes more."""
    jobs = []
    for number, part in enumerate(parts):
        images = part.split.images
        sizes = np.array([_size_in_tar(images, row) for row in range(len(images))], dtype=np.int64)
        bounds = _bounds(sizes, max_bytes)
        for shard, (start, end) in enumerate(bounds):
            jobs.append(Job(f"{part.word}-{shard:05}.tar", number, start, end))
    return jobs


def begin(folder: Path, parts: Sequence[Part], jobs: Sequence[Job]) -> None:
    """Note in the folder which set its shards are of.

    Raises:
        UserError: when it holds shards of another one.
    """
    digest = sha256()
    for part in parts:
        split = part.split
        labels = None if split.labels is None else list(split.labels)
        digest.update(repr((part.word, split.fingerprint(), labels, split.images.identity)).encode())
    wanted: dict[str, Any] = {
        "set": digest.hexdigest()[:24],
        "shards": [job._asdict() for job in jobs],
        "images": {part.word: len(part.split) for part in parts},
        "captions": {part.word: int(part.split.captions.counts.sum()) for part in parts},
    }

    folder.mkdir(parents=True, exist_ok=True)
    try:
        found: Mapping[str, Any] = read_json(folder / PLAN)
    except ValueError:
        found = {"set": "unknown"}
    others = next(folder.glob("*.tar"), None)
    if found == wanted:
        return
    if found or others:
        raise UserError(
            f"{folder} holds shards of another set, of other images or classes, or of another --size. "
            "Write into another folder with -o, or remove it."
        )
    write_json(folder / PLAN, wanted)


def in_processes(
    function: Callable[[Any], Any], inputs: Sequence[Any], *, num_processes: int, unit: str
) -> list[Any]:
    """What a function gives for each input, in any order, by several processes with one bar.

    The function reaches them once, and may be large; the inputs travel one by one.
    """
    bar = tqdm(total=len(inputs), unit=unit, leave=False, disable=None)
    with bar:
        if num_processes == 1 or len(inputs) == 1:
            return [_counted(function(each), bar) for each in inputs]

        num_processes = min(num_processes, len(inputs))
        with ProcessPoolExecutor(num_processes, initializer=_keep, initargs=(function,)) as pool:
            futures = [pool.submit(_call, each) for each in inputs]
            try:
                return [_counted(future.result(), bar) for future in as_completed(futures)]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def index_shard(path: Path, reading: CaptionReading) -> int:
    """Write the index beside a shard, if none that fits is there; gives the number of its images.

    Raises:
        UserError: when it is no tar, or damaged.
        OSError: when the index cannot be written.
    """
    stamp = stamp_of(path)
    index = fitting_index(beside(path), stamp, reading, str(path))
    if index is None:
        index = make_index(path, stamp, reading)
        write_index(index, beside(path), stamp, reading)
    return len(index)


_function: Callable[[Any], Any] | None = None
"""What this worker process does."""


def _keep(function: Callable[[Any], Any]) -> None:
    global _function
    leave_to_main_process()
    _function = function


def _call(value: Any) -> Any:
    assert _function is not None
    return _function(value)


def _counted(result: Any, bar: "tqdm[Any]") -> Any:
    bar.update()
    return result


def _put_back(train: Split, val: Split, source: DataSource) -> Split:
    """The images of both, in the order that they had before some were drawn."""
    whole = concatenated("train", [train, val])
    rows, drawn = seeded_rows(len(whole), fraction=source.val_fraction, seed=source.split_seed)
    if len(drawn) != len(val):
        return whole
    return whole.select("train", np.argsort([*rows, *drawn]).tolist())


def _bounds(sizes: np.ndarray, max_bytes: int) -> list[tuple[int, int]]:
    """First row, and the one behind the last, of each shard."""
    bounds = []
    start, total = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if total + size > max_bytes and row > start:
            bounds.append((start, row))
            start, total = row, 0
        total += size
    return [*bounds, (start, len(sizes))] if len(sizes) else []


def _size_in_tar(images: Images, row: int) -> int:
    """About what an image and its captions take."""
    num_bytes = images.num_bytes(row)
    if num_bytes is None:
        num_bytes = _pixels_about(images)
    return num_bytes + 4 * BLOCK


@lru_cache(1)
def _pixels_about(images: Images) -> int:
    """About what a PNG of an image takes: half of its pixels."""
    try:
        return images[0].numel() // 2
    except BrokenImage:
        return 0


def _encoded(images: Images, row: int, name: str) -> tuple[bytes, str]:
    """The file of an image as it is, or a PNG where it has none, and the ending of its kind."""
    content = images.content(row)
    if content is None:
        file = io.BytesIO()
        pixels = images[row].permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), "png"

    kind = format_of(content, name)
    endings = (ending for ending, other in Image.registered_extensions().items() if other == kind)
    return content, USUAL_ENDINGS.get(kind) or next(endings).removeprefix(".")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member, which says nothing of who wrote it, or when: equal images give equal shards."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
