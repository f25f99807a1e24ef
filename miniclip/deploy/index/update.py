"""Bringing an index up to date: what is new or changed is embedded, what is gone is dropped."""

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from miniclip.data.image_content import decode_without_torch, evaluated_size
from miniclip.deploy.index.entries import NEVER, Encoded
from miniclip.deploy.index.source import ImageSource, SourceImage
from miniclip.deploy.index.sources import FolderSource, is_below
from miniclip.deploy.index.writer import IndexWriter
from miniclip.embedding_model import EmbeddingModel, FingerprintedModel
from miniclip.errors import BrokenImage

log = logging.getLogger(__name__)

BATCH_SIZE = 64

BATCHES_AHEAD = 3
"""Batches of images that are decoded before the model takes them."""

MAX_WAITING = 512
"""Images that were copied or could not be read, after which a batch is committed though it is not full."""


@dataclass
class Changes:
    """What an update did.

    Attributes:
        new, changed: images that the model embedded.
        copied: images whose content the index knew: renamed, copied, or only touched.
        removed: images that are gone.
        unchanged: images that were passed over.
        part_of_another: folders that lie in one that is in the index, with all their images.
        broken: images that cannot be read, those of former updates included, with the reason.
        seconds: how long embedding took, reading and decoding included.
    """

    new: int = 0
    changed: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    part_of_another: list[Path] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def embedded(self) -> int:
        """Images that the model was given."""
        return self.new + self.changed


class _Prepared(NamedTuple):
    """An image as threads hand it over: its pixels, or none where the index knows its digest."""

    image: SourceImage
    digest: bytes
    pixels: Any
    problem: str | None


def update(
    writer: IndexWriter,
    model: FingerprintedModel,
    sources: Sequence[ImageSource],
    *,
    batch_size: int = BATCH_SIZE,
    num_threads: int | None = None,
) -> Changes:
    """Bring the entries of some sources up to date; what is done is committed batch by batch.

    Args:
        num_threads: of decoding; None is one per processor.
    """
    changes = Changes()
    decode_size = decode_size_of(model)
    is_of_one_size = writer.decodes_at(decode_size)
    folders = {source.path for source in sources if isinstance(source, FolderSource)}
    folders |= writer.entries.folders().keys()

    with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
        for source in sources:
            if isinstance(source, FolderSource) and any(is_below(source.path, one) for one in folders):
                changes.part_of_another.append(source.path)
                continue
            work = _SourceUpdate(writer, model, source, changes, batch_size, decode_size)
            work.run(threads)

    # their images are those of the folder around them now, which has taken over the vectors
    for path, number in writer.entries.folders().items():
        if any(is_below(path, one) for one in folders):
            writer.forget(number)

    if changes.embedded and not is_of_one_size:
        log.warning(
            "Former images of the index %s may have been decoded at another scale than these, by another "
            "version of MiniCLIP, which alters the vectors of JPEGs. To have all alike, remove the folder "
            "and embed the images again.",
            writer.folder,
        )
    return changes


class _SourceUpdate:
    """The update of one source."""

    def __init__(
        self,
        writer: IndexWriter,
        model: FingerprintedModel,
        source: ImageSource,
        changes: Changes,
        batch_size: int,
        decode_size: int,
    ):
        self.writer = writer
        self.model = model
        self.source = source
        self.changes = changes
        self.batch_size = batch_size
        self.decode_size = decode_size

        self.number = writer.source(source)
        self.known = writer.entries.known(self.number)
        self.broken, self.reasons = writer.entries.broken(self.number)
        self.seen: set[str] = set()

    def run(self, threads: ThreadPoolExecutor) -> None:
        """Embed, and afterwards drop what is gone: a renamed image finds its vector still there."""
        stamp = self.source.stamp
        if stamp is not None and self.writer.entries.is_read(self.number, *stamp):
            self.changes.unchanged += len(self.known)
            for name, reason in self.reasons.items():
                self._count_broken(name, reason)
            return

        started = time.perf_counter()
        bar = tqdm(total=len(self.source), desc=self.source.path.name, unit="img", disable=None)
        with bar:
            prepared = _ahead(threads, self._prepare, self._images(bar), self.batch_size * BATCHES_AHEAD)
            for batch in self._batches(prepared):
                self._commit(batch)
                bar.update(len(batch))
        self.changes.seconds += time.perf_counter() - started

        gone = (self.known.keys() | self.broken.keys()) - self.seen
        self.changes.removed += len(self.known.keys() - self.seen)
        self.writer.drop(self.number, gone)
        if stamp is not None:
            self.writer.entries.set_read(self.number, *stamp)

    def _images(self, bar: tqdm) -> Iterator[tuple[SourceImage, bytes | None]]:
        """The images that are new or have changed."""
        for image, content in self.source.images():
            self.seen.add(image.name)
            known = self.known.get(image.name)
            if known is not None and known.image == image:
                self.changes.unchanged += 1
            elif self.broken.get(image.name) == image._replace(title=None):
                self._count_broken(image.name, self.reasons[image.name])
            else:
                yield image, content
                continue
            bar.update()

    def _prepare(self, work: tuple[SourceImage, bytes | None]) -> _Prepared:
        """Read and decode an image whose content is not known; called by several threads."""
        image, content = work
        try:
            content = self.source.content(image) if content is None else content
        except BrokenImage as error:  # a share may be away, a right missing: it is tried again each time
            return _Prepared(image._replace(mtime_ns=NEVER), b"", None, str(error))
        try:
            digest = hashlib.blake2b(content, digest_size=16).digest()
            if digest in self.writer.slot_of_digest:
                return _Prepared(image, digest, None, None)
            return _Prepared(image, digest, self._pixels(content, image.name), None)
        except BrokenImage as error:
            return _Prepared(image, b"", None, str(error))

    def _pixels(self, content: bytes, name: str) -> Any:
        decoded = decode_without_torch(content, name, decode_size=self.decode_size)
        return self.model.preprocess(decoded)

    def _batches(self, prepared: Iterable[_Prepared]) -> Iterator[list[_Prepared]]:
        """Images with pixels for one batch of the model, and all that come between them."""
        batch: list[_Prepared] = []
        num_pixels = 0
        for one in prepared:
            batch.append(one)
            num_pixels += one.pixels is not None
            if num_pixels == self.batch_size or len(batch) == MAX_WAITING:
                yield batch
                batch, num_pixels = [], 0
        if batch:
            yield batch

    def _commit(self, batch: Sequence[_Prepared]) -> None:
        """Embed a batch and write it."""
        decoded = [one for one in batch if one.pixels is not None]
        vectors = list(self._vectors(decoded))
        for image, *_ in decoded:
            self.changes.changed += image.name in self.known
            self.changes.new += image.name not in self.known

        copied = [one for one in batch if one.pixels is None and one.problem is None]
        vectors += [self.writer.vector(one.digest) for one in copied]
        self.changes.copied += len(copied)

        broken = [(one.image, one.problem) for one in batch if one.problem is not None]
        for image, problem in broken:
            self._count_broken(image.name, problem)

        encoded = [
            Encoded(one.image, one.digest, vector)
            for one, vector in zip(decoded + copied, vectors, strict=True)
        ]
        self.writer.put(self.number, encoded, broken=broken)

    def _count_broken(self, name: str, problem: str) -> None:
        where = (
            self.source.root / name if self.source.kind == "files" else f"{self.source.path}, row {name}"
        )
        self.changes.broken[str(where)] = problem

    def _vectors(self, decoded: Sequence[_Prepared]) -> np.ndarray:
        """The vectors (N, D) float32 of N images."""
        if not decoded:
            return np.empty((0, self.model.embed_dim), np.float32)
        images = stacked([one.pixels for one in decoded])  # (N, 3, S, S)
        return as_array(self.model.encode_image(images))


def decode_size_of(model: EmbeddingModel) -> int:
    """Shortest side that a JPEG is decoded at, as in evaluation."""
    return evaluated_size(model.preprocess(Image.new("RGB", (8, 8))).shape[-1])


def stacked(arrays: Sequence[Any]) -> Any:
    """Arrays of one shape as one, of the same library: NumPy's or torch's."""
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays)
    import torch

    return torch.stack(list(arrays))


def as_array(features: Any) -> np.ndarray:
    """Features of either library, on whatever device, as float32 of NumPy."""
    return np.asarray(features if isinstance(features, np.ndarray) else features.cpu(), np.float32)


def _ahead(
    threads: ThreadPoolExecutor, work: Callable[[Any], _Prepared], inputs: Iterable[Any], count: int
) -> Iterator[_Prepared]:
    """Results in order, of which some are worked on before they are asked for."""
    pending: deque[Future[_Prepared]] = deque()
    try:
        for one in inputs:
            pending.append(threads.submit(work, one))
            if len(pending) >= count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
