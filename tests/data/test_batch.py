"""What a batch holds: the images cut in one place or another, and which captions are right for which."""

from pathlib import Path

from miniclip.data.batch import collate
from miniclip.data.transforms import crop_and_resize_batch
from tests.data.conftest import twelve_images


def test_the_device_cuts_what_workers_would(picture_folder: Path) -> None:
    """The way of a GPU: whole pictures travel, and a batch is cut at once."""
    data = twelve_images(picture_folder)
    items = [data.item((1, index)) for index in range(12)]
    whole, parts = collate(items, image_size=None), collate(items, image_size=32)
    assert whole.images.shape == (12, 3, 40, 50) and whole.boxes is not None and parts.boxes is None
    levels = (crop_and_resize_batch(whole.images, whole.boxes, 32) - parts.images).abs()
    assert levels.max() <= 1
