"""Items of a data set: reproducible, independent of workers and order."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.data.dataset import ImageTextDataset, Split
from miniclip.data.images import ImageArray, ImageFiles
from miniclip.data.loader import Batch, EpochBatches, Loader, collate, sequential_batches
from miniclip.data.transforms import (
    Box,
    CenterCrop,
    Crop,
    RandomResizedCrop,
    SquashResize,
    crop_and_resize_batch,
    cut,
)
from miniclip.errors import UserError
from miniclip.training.interruption import ignore_in_worker

CPU = torch.device("cpu")
NUM_THREADS = torch.get_num_threads()


def dataset(folder: Path, *, random: bool = True) -> ImageTextDataset:
    names = [f"{index}.jpg" for index in range(12)]
    captions = [[f"{index}, caption {number}" for number in range(5)] for index in range(12)]
    split = Split("train", names, ImageFiles(folder, names, decode_size=64), captions)
    crop = RandomResizedCrop(32, crop_scale=(0.5, 1.0), flip=True) if random else CenterCrop(32)
    return ImageTextDataset(split, crop, seed=3, captions="random" if random else "first")


def epoch_of(data: ImageTextDataset, *, num_workers: int) -> list[tuple[torch.Tensor, list[str]]]:
    batches = EpochBatches(len(data), batch_size=4, seed=3)
    loader = Loader(data, batches, device=CPU, num_workers=num_workers, worker_init=ignore_in_worker)
    return [(batch.images, batch.captions) for batch in islice(loader, 2 * batches.updates_left())]


def test_an_item_is_an_image_tensor_and_a_raw_caption(picture_folder: Path) -> None:
    image, caption = dataset(picture_folder)[7]
    assert image.shape == (3, 32, 32) and image.dtype is torch.float32
    assert caption.startswith("7, caption")


def test_items_depend_on_seed_epoch_and_index_alone(picture_folder: Path) -> None:
    first, second = dataset(picture_folder), dataset(picture_folder)
    torch.manual_seed(1)
    image, caption = first[5]
    torch.manual_seed(2)
    _ = second[3]
    again, caption_again = second[5]
    assert torch.equal(image, again) and caption == caption_again


def test_all_captions_turn_up_over_the_epochs(picture_folder: Path) -> None:
    data = dataset(picture_folder)
    assert len({data[epoch, 0][1] for epoch in range(40)}) == 5


def test_reading_an_item_leaves_the_global_generator_alone(picture_folder: Path) -> None:
    state = torch.get_rng_state()
    _ = dataset(picture_folder)[0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(picture_folder: Path, num_workers: int) -> None:
    alone = epoch_of(dataset(picture_folder), num_workers=0)
    helped = epoch_of(dataset(picture_folder), num_workers=num_workers)
    assert len(alone) == len(helped) == 6
    for (images, captions), (same_images, same_captions) in zip(alone, helped, strict=True):
        assert torch.equal(images, same_images) and captions == same_captions
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_workers_that_are_started_anew_read_the_same(picture_folder: Path) -> None:
    """As on Windows and macOS, where a worker inherits nothing."""
    alone = epoch_of(dataset(picture_folder), num_workers=0)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        helped = epoch_of(dataset(picture_folder), num_workers=1)
    finally:
        torch.multiprocessing.set_start_method(None, force=True)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(alone, helped, strict=True))


def test_the_memory_of_a_batch_is_used_again_only_when_nothing_needs_it(picture_folder: Path) -> None:
    data = dataset(picture_folder)
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
    data = dataset(picture_folder)
    pixels = torch.stack([data.split.images[index].permute(1, 2, 0) for index in range(12)]).numpy()
    decoded = data.split.with_images(ImageArray(pixels))
    data = ImageTextDataset(decoded, data.crop, seed=3, captions="random")
    assert data.is_decoded
    alone, helped = (epoch_of(data, num_workers=number) for number in (0, 3))
    for (images, captions), (same_images, same_captions) in zip(alone, helped, strict=True):
        assert torch.equal(images, same_images) and captions == same_captions
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result() == torch.get_num_threads() == NUM_THREADS


def test_the_device_cuts_what_workers_would(picture_folder: Path) -> None:
    """The way of a GPU: whole pictures travel, and a batch is cut at once."""
    data = dataset(picture_folder)
    items = [data.item((1, index)) for index in range(12)]
    whole, parts = collate(items, image_size=None), collate(items, image_size=32)
    assert whole.images.shape == (12, 3, 40, 50) and whole.boxes is not None and parts.boxes is None
    levels = (crop_and_resize_batch(whole.images, whole.boxes, 32) - parts.images).abs()
    assert levels.max() <= 1


def test_epochs_differ_and_hold_an_image_at_most_once() -> None:
    first, second, third, fourth = islice(EpochBatches(10, batch_size=4, seed=0), 4)
    assert {epoch for epoch, _ in first + second} == {0}
    assert {epoch for epoch, _ in third + fourth} == {1}
    assert [index for _, index in first] != [index for _, index in third]
    assert len(set(first + second)) == len(set(third + fourth)) == 8


def test_training_can_start_at_any_image() -> None:
    batches = EpochBatches(20, batch_size=4, seed=0)
    assert batches.updates_left() == 5
    whole = list(islice(batches, 12))
    batches.start_at(0, 12)
    assert list(islice(batches, 9)) == whole[3:]
    batches.start_at(1, 8)
    assert list(islice(batches, 5)) == whole[7:]


@pytest.mark.parametrize(("batch_size", "accumulate_steps"), [(2, 1), (6, 1), (3, 2), (16, 1)])
def test_batches_of_another_size_see_no_image_twice(batch_size: int, accumulate_steps: int) -> None:
    before = list(islice(EpochBatches(20, batch_size=4, seed=0), 2))
    after = EpochBatches(20, batch_size=batch_size, seed=0, accumulate_steps=accumulate_steps)
    after.start_at(0, 8)
    seen = [key for batch in before for key in batch]
    for batch in islice(after, after.updates_left(8) * accumulate_steps):
        assert len(batch) == batch_size
        seen += batch
    assert {epoch for epoch, _ in seen} <= {0} and len(set(seen)) == len(seen)
    assert {epoch for epoch, _ in next(iter(after))} == ({1} if batch_size == 16 else {0})


def test_evaluation_is_the_same_every_time(picture_folder: Path) -> None:
    data = dataset(picture_folder, random=False)
    loader = Loader(
        data, sequential_batches(12, 5), device=CPU, num_workers=1, worker_init=ignore_in_worker
    )
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
    with pytest.raises(UserError, match=r"3\.jpg") as caught:
        epoch_of(dataset(picture_folder), num_workers=num_workers)
    assert "Traceback" not in str(caught.value)


def test_a_jpeg_decoded_small_looks_like_the_whole_one(tmp_path: Path) -> None:
    gradient = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    gradient.save(tmp_path / "a.jpg", quality=95)
    small, whole = (ImageFiles(tmp_path, ["a.jpg"], decode_size=size)[0] for size in (64, 640))
    assert small.shape[2] < 640 == whole.shape[2]
    seen = [cut(picture, Box(0, 0, *picture.shape[1:]), 32).float() for picture in (small, whole)]
    torch.testing.assert_close(*seen, atol=3, rtol=0)


def test_fingerprints_tell_data_apart(picture_folder: Path) -> None:
    split = dataset(picture_folder).split
    changed = [list(own) for own in split.captions]
    changed[3][2] = "another caption"
    assert split.fingerprint() == dataset(picture_folder).split.fingerprint()
    assert Split("train", split.ids, split.images, changed).fingerprint() != split.fingerprint()
    assert Split("val", split.ids, split.images, split.captions).fingerprint() != split.fingerprint()


def test_positives_are_captions_of_one_image_and_equal_captions() -> None:
    batch = Batch(
        images=torch.zeros(4, 3, 8, 8),
        boxes=None,
        captions=["a dog", "a cat", "a dog", "a bird"],
        places=torch.tensor([0, 1, 2, 1]),
        problems=[],
    )
    expected = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert batch.positives().int().tolist() == expected


@pytest.mark.parametrize(("setting", "crop"), [("squash", SquashResize(32)), ("center", CenterCrop(32))])
def test_evaluation_sees_what_it_was_told_to(setting: str, crop: Crop, picture_folder: Path) -> None:
    """A picture whose left and right sides differ, so that cutting them off shows."""
    for place in range(12):
        picture = Image.new("RGB", (64, 32))
        picture.paste((255, 0, 0), (0, 0, 16, 32))
        picture.paste((0, 0, 255), (48, 0, 64, 32))
        picture.save(picture_folder / f"{place}.jpg", quality=95)
        (picture_folder / f"{place}.txt").write_text("a flag")
    cfg = compose(
        "data=folder", f"data.root={picture_folder}", "image_size=32", f"data.eval_crop={setting}"
    )
    _, val = make(cfg, "data").datasets()
    image, _ = val[0]
    expected, _ = ImageTextDataset(val.split, crop)[0]
    assert torch.equal(image, expected)
    shows_the_sides = bool(image[0, :, 0].mean() > image[2, :, 0].mean() + 0.5)
    assert shows_the_sides == (setting == "squash")


def test_a_data_set_ends(picture_folder: Path) -> None:
    data = dataset(picture_folder, random=False)
    assert [caption for _, caption in data] == [f"{index}, caption 0" for index in range(12)]
    for beyond in (12, -13, (3, 12)):
        with pytest.raises(IndexError):
            data[beyond]
    assert data[-1][1] == data[11][1]


def test_whole_numbers_of_any_kind_are_places(picture_folder: Path) -> None:
    data = dataset(picture_folder, random=True)
    for place in (np.int64(3), np.uint8(3), torch.tensor(3)):
        assert torch.equal(data[place][0], data[3][0])
        assert data[2, place][1] == data[2, 3][1]
    with pytest.raises(TypeError):
        data[3.0]  # type: ignore[index]
    chosen = torch.utils.data.Subset(data, np.arange(5, 8))  # type: ignore[arg-type]
    assert [caption for _, caption in chosen] == [data[index][1] for index in (5, 6, 7)]
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    assert [len(captions) for _, captions in loader] == [5, 5, 2]
