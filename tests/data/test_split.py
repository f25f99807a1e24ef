"""Parts of a data set, and how one is told from another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniclip.data.images import ImageArray
from miniclip.data.split import Split
from miniclip.errors import UserError
from tests.data.conftest import twelve_images


def test_fingerprints_tell_data_apart(picture_folder: Path) -> None:
    split = twelve_images(picture_folder).split
    changed = [list(own) for own in split.captions]
    changed[3][2] = "another caption"
    assert split.fingerprint() == twelve_images(picture_folder).split.fingerprint()
    assert Split("train", split.ids, split.images, changed).fingerprint() != split.fingerprint()
    assert Split("val", split.ids, split.images, split.captions).fingerprint() != split.fingerprint()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"captions": [["a"], ["b"], ["c"]]}, "2 ids, 2 images, 3 lists of captions"),
        ({"ids": ["1"]}, "1 ids, 2 images, 2 lists of captions"),
        ({"images": ImageArray(np.zeros((3, 4, 4, 3), np.uint8))}, "2 ids, 3 images"),
        ({"labels": ["dog"]}, "2 lists of captions, 1 labels"),
        ({"captions": ["a dog", "a cat"]}, "'a dog' stands where a list of captions should"),
    ],
)
def test_captions_that_would_be_those_of_other_images_are_refused(
    changed: dict[str, Any], told: str
) -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    parts: dict[str, Any] = {"ids": ["1", "2"], "images": ImageArray(pixels), "captions": [["a"], ["b"]]}
    assert len(Split("train", **parts)) == 2
    with pytest.raises(UserError, match=told):
        Split("train", **(parts | changed))
