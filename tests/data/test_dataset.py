"""Items of a data set: reproducible, independent of workers and order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.config.build import make
from miniclip.config.compose import compose
from miniclip.data.dataset import ImageTextDataset
from miniclip.data.transforms import CenterCrop, Crop, SquashResize
from tests.data.conftest import twelve_images


def test_an_item_is_an_image_tensor_and_a_raw_caption(picture_folder: Path) -> None:
    image, caption = twelve_images(picture_folder)[7]
    assert image.shape == (3, 32, 32) and image.dtype is torch.float32
    assert caption.startswith("7, caption")


def test_items_depend_on_seed_epoch_and_index_alone(picture_folder: Path) -> None:
    first, second = twelve_images(picture_folder), twelve_images(picture_folder)
    torch.manual_seed(1)
    image, caption = first[5]
    torch.manual_seed(2)
    _ = second[3]
    again, caption_again = second[5]
    assert torch.equal(image, again) and caption == caption_again


def test_all_captions_turn_up_over_the_epochs(picture_folder: Path) -> None:
    data = twelve_images(picture_folder)
    assert len({data[epoch, 0][1] for epoch in range(40)}) == 5


def test_reading_an_item_leaves_the_global_generator_alone(picture_folder: Path) -> None:
    state = torch.get_rng_state()
    _ = twelve_images(picture_folder)[0]
    assert torch.equal(torch.get_rng_state(), state)


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
    data = twelve_images(picture_folder, random=False)
    assert [caption for _, caption in data] == [f"{index}, caption 0" for index in range(12)]
    for beyond in (12, -13, (3, 12)):
        with pytest.raises(IndexError):
            data[beyond]
    assert data[-1][1] == data[11][1]


def test_whole_numbers_of_any_kind_are_places(picture_folder: Path) -> None:
    data = twelve_images(picture_folder, random=True)
    for place in (np.int64(3), np.uint8(3), torch.tensor(3)):
        assert torch.equal(data[place][0], data[3][0])
        assert data[2, place][1] == data[2, 3][1]
    with pytest.raises(TypeError):
        data[3.0]  # type: ignore[index]
    chosen = torch.utils.data.Subset(data, np.arange(5, 8))  # type: ignore[arg-type]
    assert [caption for _, caption in chosen] == [data[index][1] for index in (5, 6, 7)]
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    assert [len(captions) for _, captions in loader] == [5, 5, 2]
