"""Names of images: the file each one means, and names that mean none."""

import errno
import os
import unicodedata
from pathlib import Path

import pytest

from miniclip.data.sources.image_names import find_images
from miniclip.errors import UserError

CAFE = "sub/caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image folder with files in one folder, and one file outside it."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("0.jpg", "sub/1.jpg", unicodedata.normalize("NFD", CAFE), "a\\b.jpg"):
        (folder / name).touch()
    (tmp_path / "secret.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("0.jpg", "0.jpg"),
        ("./0.jpg", "0.jpg"),
        (".//sub/./1.jpg", "sub/1.jpg"),
        ("0.JPG", "0.jpg"),
        ("Sub/1.Jpg", "sub/1.jpg"),
        ("sub\\1.jpg", "sub/1.jpg"),
        (".\\SUB\\1.jpg", "sub/1.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
        (CAFE, unicodedata.normalize("NFD", CAFE)),
        (CAFE.upper(), unicodedata.normalize("NFD", CAFE)),
    ],
)
def test_the_file_that_a_name_means(root: Path, name: str, file: str) -> None:
    assert find_images(root, [name], skips_missing=False) == {name: file}
    assert (root / file).is_file()


def test_a_folder_that_cannot_be_listed_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"The folder .*sub cannot be listed \(Permission denied\)"):
        find_images(root, ["sub/1.jpg"], skips_missing=False)


def test_a_path_is_the_name_that_it_ends_in(root: Path) -> None:
    for name in (f"{root}/sub/1.jpg", f"{root}//sub/./1.jpg", "sub/../sub/1.jpg", f"{root}/SUB/1.jpg"):
        assert find_images(root, [name], skips_missing=False) == {name: "sub/1.jpg"}
    (root.parent / "link").symlink_to(root)
    for name in ("../images/0.jpg", f"{root.parent}/link/0.jpg"):
        assert find_images(root, [name], skips_missing=False) == {name: "0.jpg"}
    with pytest.raises(UserError, match=r"is missing\. The nearest file is sub/1\.jpg"):
        find_images(root, [f"{root}/sub/2.jpg"], skips_missing=False)
    assert len(find_images(root, [f"{root}/sub/2.jpg"], skips_missing=True)) == 1


def test_the_exact_file_wins_without_a_word(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "0.JPG").touch()
    (root / "sub" / unicodedata.normalize("NFC", CAFE.removeprefix("sub/"))).touch()
    names = ["0.jpg", "0.JPG", CAFE, "./0.jpg"]
    assert list(find_images(root, names, skips_missing=False).values()) == [*names[:3], "0.jpg"]
    assert not caplog.records


def test_names_that_differ_are_counted_in_one_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    find_images(root, ["0.JPG", "sub\\1.jpg", "0.jpg"], skips_missing=False)
    assert len(caplog.records) == 1
    assert "2 names unlike the files'" in caplog.text and "'0.JPG' is '0.jpg'" in caplog.text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("O.jpg", "nearest file is 0.jpg"),
        ("0.png", "nearest file is 0.jpg"),
        ("nowhere/0.jpg", "nearest file is 0.jpg"),
        ("C:\\photos\\0.jpg", "nearest file is 0.jpg"),
        ("sub/11.jpg", "nearest file is sub/1.jpg"),
        ("zzzzzzzzzzzz", "is missing. Check the image folder"),
        ("sub", "is missing"),
        (".", "is missing"),
        ("", "is missing"),
    ],
)
def test_a_missing_file_is_named_with_the_nearest(root: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        find_images(root, [name], skips_missing=False)
    assert hint in str(caught.value)
    assert find_images(root, [name], skips_missing=True) == {name: name}


def test_several_files_that_a_name_can_mean_are_named(root: Path) -> None:
    (root / "0.Jpg").touch()
    with pytest.raises(UserError, match=r"It can mean 0\.Jpg or 0\.jpg"):
        find_images(root, ["0.JPG"], skips_missing=False)


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.jpg", "..\\secret.jpg", "sub\\..\\..\\secret.jpg", "../SECRET.jpg"),
        *("/etc/passwd", "\\etc\\passwd", "link.jpg", "LINK.JPG", "Away/secret.jpg", "away\\SECRET.jpg"),
        "sub\0/1.jpg",
    ],
)
def test_no_name_leaves_the_folder(root: Path, name: str) -> None:
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "away").symlink_to(root.parent)
    with pytest.raises(UserError, match="lies outside the image folder"):
        find_images(root, [name], skips_missing=True)
