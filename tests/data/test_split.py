"""Parts of a data set, and how one is told from another."""

from pathlib import Path

from miniclip.data.split import Split
from tests.data.conftest import twelve_images


def test_fingerprints_tell_data_apart(picture_folder: Path) -> None:
    split = twelve_images(picture_folder).split
    changed = [list(own) for own in split.captions]
    changed[3][2] = "another caption"
    assert split.fingerprint() == twelve_images(picture_folder).split.fingerprint()
    assert Split("train", split.ids, split.images, changed).fingerprint() != split.fingerprint()
    assert Split("val", split.ids, split.images, split.captions).fingerprint() != split.fingerprint()
