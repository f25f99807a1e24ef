"""Batches are complete, and are made off the main thread."""

import threading
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miniclip.data.batch import positive_pairs
from miniclip.data.dataset import ImageTextDataset, Split
from miniclip.data.images import ImageArray, ImageFiles
from miniclip.data.loader import EpochBatches, Loader
from miniclip.data.transforms import CenterCrop
from miniclip.tokenizers import BPETokenizer
from miniclip.training.interruption import ignore_in_worker

CPU = torch.device("cpu")


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
        worker_init=ignore_in_worker,
    )

    batches = list(islice(loader, 2))
    is_main = threading.main_thread() in tokenizer.threads
    assert is_main == (num_workers == 0), "workers tokenize beside the main thread"

    for batch, keys in zip(batches, order, strict=False):
        assert batch.images.shape == (6, 3, 32, 32) and batch.images.dtype is torch.float32
        token_ids, attention_mask = tokenizer.encode(list(batch.captions))
        assert torch.equal(batch.token_ids, token_ids)
        assert torch.equal(batch.attention_mask, attention_mask)

        assert batch.image_ids is not None and batch.positives is not None
        assert batch.image_ids.tolist() == [index for _, index in keys]
        assert torch.equal(batch.positives, positive_pairs(batch.image_ids, batch.captions))
        num_even = sum(index % 2 == 0 for _, index in keys)
        assert batch.num_false_negatives == num_even * (num_even - 1)


def test_without_a_tokenizer_there_are_no_tokens(picture_folder: Path) -> None:
    loader = Loader(pairs(picture_folder, decoded=False), [[0, 1], [2]], device=CPU, num_workers=0)
    sizes = [(batch.token_ids.shape, batch.attention_mask.shape) for batch in loader]
    assert sizes == [((2, 0), (2, 0)), ((1, 0), (1, 0))]
