"""Two processes that read one data set, with workers or without, killed in the middle."""

import json
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from miniclip.data import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.distributed import World
from tests.data.shards.tars import jpeg, shards, write_shards
from tests.data.sources.conftest import hub
from tests.distributed.children import children
from tests.distributed.reading import BATCH_SIZE, read


def of_shards(folder: Path) -> ImageTextDataset:
    """Eighteen images in six shards, of which two are mixed at a time."""
    return shards(folder, val_urls=str(folder / "train-0006.tar"), shuffle_window=2).datasets()[0]


def of_stream(folder: Path) -> ImageTextDataset:
    """Twenty-four images that are streamed, and eight that validate."""
    settings = {"streaming": True, "val_images": 8, "images_per_epoch": 24, "shuffle_buffer": 2}
    return hub(folder, **settings).training_sets().train


def write_images(folder: Path, *, num_images: int) -> Path:
    """A set of image files with a table of their captions."""
    folder.mkdir()
    rows = [{"file_name": f"{number}.jpg", "text": f"picture {number}"} for number in range(num_images)]
    for number in range(num_images):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_two_processes_killed_in_the_middle_read_on(tmp_path: Path, num_workers: int) -> None:
    pytest.importorskip("datasets")
    folder = write_shards(tmp_path / "tars", num_shards=7, num_images=3)
    images = write_images(tmp_path / "images", num_images=32)
    training_sets = {"shards": partial(of_shards, folder), "stream": partial(of_stream, images)}
    for name in training_sets:
        (tmp_path / name).mkdir()

    for start, is_killed in ((0, True), (2, False)):
        arguments = (tmp_path, training_sets, start, num_workers, is_killed)
        with children(tmp_path, read, [arguments] * 2) as both:
            ends = [child.end() for child in both]
            assert ends == [-9 if is_killed else 0] * 2, [child.said() for child in both]

    # of shards it is the order of one process
    dataset = of_shards(folder)
    order = dataset.batches(batch_size=BATCH_SIZE, seed=3, accumulate_steps=1, world=World())
    loader = Loader(dataset, order, device=torch.device("cpu"), num_workers=0)
    assert batches(tmp_path / "shards") == [batch.captions for batch in islice(loader, 4)]

    # of a stream both parts are other images, and none validates
    found = batches(tmp_path / "stream")
    for part in (found[:2], found[2:]):
        captions = {caption for batch in part for caption in batch}
        assert len(captions) == 2 * BATCH_SIZE
        assert not captions & {f"picture {number}" for number in range(8)}


def batches(out: Path) -> list[list[str]]:
    """The captions of four batches, of both processes together."""
    return [
        [caption for rank in range(2) for caption in (out / f"{number} of {rank}").read_text().splitlines()]
        for number in range(4)
    ]
