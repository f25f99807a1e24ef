"""Batches are complete, made off the main thread, and the same whoever reads them."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.images import ImageArray, ImageFiles
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches, sequential_batches
from miniclip.data.split import Split
from miniclip.data.transforms import CenterCrop, as_seen
from miniclip.errors import UserError
from miniclip.tokenizers import BPETokenizer
from tests.data.conftest import twelve_images

CPU = torch.device("cpu")
NUM_THREADS = torch.get_num_threads()


class WatchedTokenizer(BPETokenizer):
    """A tokenizer that keeps which threads asked it."""

    def __init__(self) -> None:
        super().__init__(vocab_size=300, lowercase=True, context_length=16)
        self.threads: set[threading.Thread] = set()

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        self.threads.add(threading.current_thread())
        return super().encode(captions)


def pairs(folder: Path, *, decoded: bool) -> ImageTextDataset:
    """Twelve images; those of even places have one caption in common."""
    names = [f"{index}.jpg" for index in range(12)]
    captions = [["an even one" if index % 2 == 0 else f"number {index}"] for index in range(12)]
    split = Split("train", names, ImageFiles(folder, names, decode_size=64), captions)
    if decoded:
        pixels = torch.stack([split.images[index].permute(1, 2, 0) for index in range(12)])
        split = split.with_images(ImageArray(pixels.numpy()))
    return ImageTextDataset(split, CenterCrop(32))


@pytest.mark.parametrize(("num_workers", "decoded"), [(0, False), (1, False), (2, True)])
def test_batches_are_complete(picture_folder: Path, num_workers: int, decoded: bool) -> None:
    data = pairs(picture_folder, decoded=decoded)
    tokenizer = WatchedTokenizer()
    tokenizer.fit(caption for captions in data.split.captions for caption in captions)
    order = EpochBatches(12, batch_size=6, seed=0)
    loader = Loader(
        data,
        order,
        device=CPU,
        num_workers=num_workers,
        tokenizer=tokenizer,
    )

    batches = list(islice(loader, 2))
    is_main = threading.main_thread() in tokenizer.threads
    assert is_main == (num_workers == 0), "workers tokenize beside the main thread"

    for batch, keys in zip(batches, order, strict=False):
        assert batch.images.shape == (6, 3, 32, 32) and batch.images.dtype is torch.float32
        token_ids, attention_mask = tokenizer.encode(list(batch.captions))
        assert torch.equal(batch.token_ids, token_ids)
        assert torch.equal(batch.attention_mask, attention_mask)

        assert batch.positives is not None
        assert batch.image_ids.tolist() == [index for _, index in keys]
        assert torch.equal(batch.positives.image_ids, batch.image_ids)
        num_even = sum(index % 2 == 0 for _, index in keys)
        assert batch.num_false_negatives == num_even * (num_even - 1)


def test_without_a_tokenizer_there_are_no_tokens(picture_folder: Path) -> None:
    loader = Loader(pairs(picture_folder, decoded=False), [[0, 1], [2]], device=CPU, num_workers=0)
    sizes = [(batch.token_ids.shape, batch.attention_mask.shape) for batch in loader]
    assert sizes == [((2, 0), (2, 0)), ((1, 0), (1, 0))]


def epoch_of(data: ImageTextDataset, *, num_workers: int) -> list[tuple[Tensor, Sequence[str]]]:
    """Images and captions of the batches of two epochs."""
    batches = EpochBatches(len(data), batch_size=4, seed=3)
    loader = Loader(data, batches, device=CPU, num_workers=num_workers)
    return [(batch.images, batch.captions) for batch in islice(loader, 2 * batches.steps_left())]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(picture_folder: Path, num_workers: int) -> None:
    alone = epoch_of(twelve_images(picture_folder), num_workers=0)
    helped = epoch_of(twelve_images(picture_folder), num_workers=num_workers)
    assert len(alone) == len(helped) == 6
    for (images, captions), (same_images, same_captions) in zip(alone, helped, strict=True):
        assert torch.equal(images, same_images) and captions == same_captions
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("decoded", [False, True])
def test_pixels_that_are_kept_are_normalized_later(picture_folder: Path, decoded: bool) -> None:
    dataset, order = pairs(picture_folder, decoded=decoded), sequential_batches(12, 5)
    whole = Loader(dataset, order, device=CPU, num_workers=0)
    pixels = Loader(dataset, order, device=CPU, num_workers=0, keeps_pixels=True)
    for theirs, ours in zip(whole, pixels, strict=True):
        assert ours.images.dtype is torch.uint8
        parts = [as_seen(part) for part in ours.images.tensor_split(2)]
        assert torch.equal(torch.cat(parts), theirs.images)
        assert as_seen(theirs.images) is theirs.images


def test_workers_that_are_started_anew_read_the_same(picture_folder: Path) -> None:
    """As on Windows and macOS, where a worker inherits nothing."""
    alone = epoch_of(twelve_images(picture_folder), num_workers=0)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        helped = epoch_of(twelve_images(picture_folder), num_workers=1)
    finally:
        torch.multiprocessing.set_start_method(None, force=True)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(alone, helped, strict=True))


def test_the_memory_of_a_batch_is_used_again_only_when_nothing_needs_it(picture_folder: Path) -> None:
    data = twelve_images(picture_folder)
    loader = Loader(data, sequential_batches(12, 4), device=CPU, num_workers=0)
    weight = torch.ones(1, requires_grad=True)
    outputs, copies, addresses = [], [], []
    for batch in [*loader, *loader]:  # all of them at once: none may share
        copies.append(batch.images.clone())
        outputs.append((batch.images * weight).sum())  # autograd keeps the images
        addresses.append(batch.images.data_ptr())
    del batch
    assert len(set(addresses)) == 6
    for output, copy in zip(outputs, copies, strict=True):
        (gradient,) = torch.autograd.grad(output, weight)
        torch.testing.assert_close(gradient, copy.sum()[None])
    del outputs, output
    assert {batch.images.data_ptr() for _ in range(3) for batch in loader} <= set(addresses)


def test_threads_read_what_the_main_process_would(picture_folder: Path) -> None:
    """Of decoded pictures; and they leave torch's number of threads as it was."""
    data = twelve_images(picture_folder)
    pixels = torch.stack([data.split.images[index].permute(1, 2, 0) for index in range(12)]).numpy()
    decoded = data.split.with_images(ImageArray(pixels))
    data = ImageTextDataset(decoded, data.crop, seed=3, captions="random")
    assert data.is_decoded
    alone, helped = (epoch_of(data, num_workers=number) for number in (0, 3))
    for (images, captions), (same_images, same_captions) in zip(alone, helped, strict=True):
        assert torch.equal(images, same_images) and captions == same_captions
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result() == torch.get_num_threads() == NUM_THREADS


def test_evaluation_is_the_same_every_time(picture_folder: Path) -> None:
    data = twelve_images(picture_folder, random=False)
    loader = Loader(data, sequential_batches(12, 5), device=CPU, num_workers=1)
    for _ in range(2):
        captions = [caption for batch in loader for caption in batch.captions]
        assert captions == [f"{index}, caption 0" for index in range(12)]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None, "truncated"])
def test_a_broken_image_is_named(
    picture_folder: Path, num_workers: int, content: bytes | str | None
) -> None:
    path = picture_folder / "3.jpg"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    others = set(active_children())
    with pytest.raises(UserError, match=r"3\.jpg") as caught:
        epoch_of(twelve_images(picture_folder), num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    assert set(active_children()) <= others  # its workers have ended


def test_a_closed_loader_has_no_workers_and_reads_again(picture_folder: Path) -> None:
    loader = Loader(
        twelve_images(picture_folder, random=False), sequential_batches(12, 5), device=CPU, num_workers=1
    )
    others = set(active_children())
    first = [caption for batch in loader for caption in batch.captions]
    assert set(active_children()) > others
    loader.close()
    assert set(active_children()) <= others
    assert [caption for batch in loader for caption in batch.captions] == first
    loader.close()
