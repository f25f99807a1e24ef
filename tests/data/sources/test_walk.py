"""What a walk over a user's folder takes for images, and what it leaves out."""

import logging
import os
import shutil
from pathlib import Path, PureWindowsPath

import pytest

from miniclip.data.sources.walk import find_images, name_below, visible_files
from miniclip.errors import UserError
from tests.data.sources.conftest import folder_source, num_images


@pytest.mark.parametrize(
    "copy",
    [
        ".ipynb_checkpoints/0-checkpoint",
        "nested/.hidden/0",
        "._0",
        "__MACOSX/0",
        "__macosx/deep/0",
        "@eaDir/0",
        "$RECYCLE.BIN/0",
    ],
)
def test_hidden_files_and_what_systems_leave_behind_are_left_out(captioned_root: Path, copy: str) -> None:
    for ending in (".jpg", ".txt"):
        path = captioned_root / f"{copy}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(captioned_root / f"0{ending}", path)
    assert num_images(folder_source(captioned_root)) == 12


def test_a_root_may_itself_be_hidden(captioned_root: Path) -> None:
    hidden = captioned_root.rename(captioned_root.parent / ".pictures")
    assert num_images(folder_source(hidden)) == 12


@pytest.mark.parametrize("ending", [".heic", ".HEIF", ".svg", ".CR2", ".jxl"])
def test_images_that_pillow_cannot_read_are_counted_in_one_line(
    captioned_root: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    for index in range(4):
        (captioned_root / f"phone{index}{ending}").write_bytes(b"an image of another kind")
        (captioned_root / f"phone{index}.txt").write_text("a dog")
    (captioned_root / "extra.nef").write_bytes(b"raw")

    with caplog.at_level(logging.WARNING):
        assert num_images(folder_source(captioned_root)) == 12
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"5 images left out: {ending.lower()} 4, .nef 1; convert them" in warning


@pytest.mark.parametrize("name", ["licence.pdf", "classes.json", "film.mpg", "table.h5", "notes.txt", "a"])
def test_other_documents_are_no_images(
    captioned_root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (captioned_root / name).write_bytes(b"a document")
    assert num_images(folder_source(captioned_root)) == 12
    assert not caplog.records


def test_only_regular_files_are_images(captioned_root: Path) -> None:
    named_like_an_image = captioned_root / "train.png"
    named_like_an_image.mkdir()
    for index in range(6):
        for ending in (".jpg", ".txt"):
            (captioned_root / f"{index}{ending}").rename(named_like_an_image / f"{index}{ending}")
    os.mkfifo(captioned_root / "pipe.jpg")
    os.mkfifo(captioned_root / "0.txt")
    assert num_images(folder_source(captioned_root)) == 12


def test_links_stay_within_the_folder_and_circles_end(
    captioned_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(captioned_root / "0.jpg", outside / "secret.jpg")
    (captioned_root / "nested").mkdir()
    (captioned_root / "nested" / "circle").symlink_to(captioned_root)
    (captioned_root / "again").symlink_to(captioned_root / "nested")
    (captioned_root / "elsewhere").symlink_to(outside)
    (captioned_root / "secret.jpg").symlink_to(outside / "secret.jpg")
    (captioned_root / "lost.jpg").symlink_to(captioned_root / "nowhere.jpg")
    (captioned_root / "nested" / "inner.jpg").symlink_to(captioned_root / "0.jpg")

    assert find_images(captioned_root) == sorted(
        [*(f"{index}.jpg" for index in range(12)), "nested/inner.jpg"]
    )
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "3 links out of the folder or to nowhere left out" in warning


def test_ids_are_the_same_on_all_systems() -> None:
    folder = PureWindowsPath(r"C:\Users\me\photographs")
    assert name_below(folder, folder / "dogs" / "old" / "0.jpg") == "dogs/old/0.jpg"
    assert name_below(Path("photographs"), Path(r"photographs/a\b.jpg")) == r"a\b.jpg"  # a name of Linux


def test_a_folder_that_cannot_be_listed_is_named(captioned_root: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(UserError, match="nowhere cannot be listed"):
            visible_files(captioned_root / "nowhere")
        return
    (captioned_root / "nested").mkdir(mode=0)
    with pytest.raises(UserError, match="nested cannot be listed"):
        visible_files(captioned_root)
