"""A folder of images and texts: parts, encodings, and images without a caption."""

import shutil
from pathlib import Path

import pytest

from miniclip import data
from miniclip.errors import SettingError, UserError
from tests.data.sources.conftest import SEEDED, five_captions, folder_source, num_images, sizes


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_images_and_texts(root: Path, picture_folder: Path, split: bool) -> None:
    for i in range(12):
        folder = root / ("val" if i < 3 else "train") if split else root / f"nested {i % 2}"
        folder.mkdir(exist_ok=True)
        shutil.copy(picture_folder / f"{i}.jpg", folder / f"{i}.JPG")
        (folder / f"{i}.txt").write_text("\n".join(five_captions(i)) + "\n\n")
    name = "val" if split else "seeded val"
    assert sizes(data.Folder(root=str(root), **SEEDED)) == (name, 9, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("train", "dev", None),
    ],
)
def test_parts_have_several_names_and_what_lies_beside_them_is_told(
    captioned_root: Path, names: tuple[str | None, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(12):
        name = (*[names[0]] * 3, names[1], names[2], "extra")[index % 6]
        if name is None:  # stays in the root
            continue
        for ending in (".jpg", ".txt"):
            (captioned_root / name).mkdir(exist_ok=True)
            (captioned_root / f"{index}{ending}").rename(captioned_root / name / f"{index}{ending}")
    splits = folder_source(captioned_root, eval_split="val", part_words="usual").splits()
    expected = {"train": 6, "val": 2} if names[2] is None else {"train": 6, "val": 2, "test": 2}
    assert {split.name: len(split) for split in splits} == expected
    beside = "extra" if names[2] is not None else "10.jpg, 4.jpg, extra"
    assert f"the images beside them are left out: {beside}." in caplog.text


def test_parts_without_training_images_beside_them_are_told(
    captioned_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(12):
        name = ("images", "val", "Test")[index % 3]
        for ending in (".jpg", ".txt"):
            (captioned_root / name).mkdir(exist_ok=True)
            (captioned_root / f"{index}{ending}").rename(captioned_root / name / f"{index}{ending}")

    settings = {"eval_split": "val", "part_words": "usual"}
    assert len(folder_source(captioned_root, **settings, use="all").everything()) == 12
    assert not caplog.text
    assert sizes(folder_source(captioned_root, **settings)) == ("seeded val", 9, 3)
    assert "its images train and validate alike, also those in val, Test, as no folder" in caplog.text


def test_a_config_of_before_knows_parts_by_their_own_names_alone(captioned_root: Path) -> None:
    for index in range(12):
        name = ("train", "train", "valid")[index % 3]
        for ending in (".jpg", ".txt"):
            (captioned_root / name).mkdir(exist_ok=True)
            (captioned_root / f"{index}{ending}").rename(captioned_root / name / f"{index}{ending}")
    assert [split.name for split in folder_source(captioned_root).splits()] == ["train", "seeded val"]
    (captioned_root / "valid").rename(captioned_root / "val")
    for words in ("usual", "exact"):
        (captioned_root / "validation").mkdir(exist_ok=True)
        _, val = folder_source(captioned_root, part_words=words).splits()
        assert (val.name, len(val)) == ("val", 4)


def test_an_image_without_its_text_is_named(root: Path, picture_folder: Path) -> None:
    shutil.copy(picture_folder / "1.jpg", root / "1.jpg")
    with pytest.raises(SettingError, match=r"1\.jpg has no 1\.txt"):
        data.Folder(root=str(root), **SEEDED).datasets()
    shutil.copy(picture_folder / "1.jpg", root / "2.jpg")
    (root / "2.txt").write_text("a picture")
    with pytest.raises(UserError, match=r"1 of 2 images without captions .*: 1\.jpg\. Write a 1\.txt"):
        data.Folder(root=str(root), **SEEDED).datasets()


def test_a_part_that_is_a_link_out_of_the_root_is_refused(captioned_root: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "train").symlink_to(captioned_root)
    (parts / "val").symlink_to(captioned_root)
    with pytest.raises(UserError, match="train leads out of"):
        folder_source(parts).datasets()


def test_parts_may_link_to_a_pool_in_the_root(captioned_root: Path) -> None:
    for index in range(12):
        part = captioned_root / ("val" if index < 3 else "train")
        part.mkdir(exist_ok=True)
        for ending in (".jpg", ".txt"):
            (captioned_root / "pool").mkdir(exist_ok=True)
            pooled = (captioned_root / f"{index}{ending}").rename(
                captioned_root / "pool" / f"{index}{ending}"
            )
            (part / f"{index}{ending}").symlink_to(pooled)
    train, val = folder_source(captioned_root).datasets()
    assert (val.split.name, len(train), len(val)) == ("val", 9, 3)
    assert val[0][1] == "picture 0"


@pytest.mark.parametrize("endings", [(".JPG", ".TXT"), (".Jpeg", ".txt"), (".jpg", ".Txt")])
def test_endings_are_read_in_any_case(captioned_root: Path, endings: tuple[str, str]) -> None:
    for index in range(12):
        (captioned_root / f"{index}.jpg").rename(captioned_root / f"{index}{endings[0]}")
        (captioned_root / f"{index}.txt").rename(captioned_root / f"{index}{endings[1]}")
    assert num_images(folder_source(captioned_root)) == 12


def test_two_text_files_of_one_image_are_refused(captioned_root: Path) -> None:
    (captioned_root / "0.TXT").write_text("another caption")
    if len(list(captioned_root.glob("0.[tT]*"))) < 2:
        pytest.skip("needs a file system that tells 0.txt from 0.TXT")
    with pytest.raises(UserError, match=r"0\.TXT and 0\.txt"):
        folder_source(captioned_root).datasets()


def test_images_without_a_caption_stop_with_their_count_and_the_fix(captioned_root: Path) -> None:
    (captioned_root / "1.txt").unlink()
    (captioned_root / "2.txt").write_text(" \n\n")
    with pytest.raises(
        UserError, match=r"2 of 12 images .* 1\.jpg, 2\.jpg\. Write a 1\.txt.*data\.on_broken_image=skip"
    ):
        folder_source(captioned_root).datasets()


def test_images_without_a_caption_count_as_broken_where_these_are_skipped(
    captioned_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (captioned_root / "1.txt").unlink()
    (captioned_root / "2.txt").unlink()
    with pytest.raises(UserError, match=r"more than data\.max_broken_fraction=0\.1: 1\.jpg, 2\.jpg"):
        folder_source(captioned_root, on_broken_image="skip", max_broken_fraction=0.1).datasets()
    assert num_images(folder_source(captioned_root, on_broken_image="skip", max_broken_fraction=0.2)) == 10
    assert "2 of 12 images without captions in a .txt beside them left out" in caplog.text


def test_a_folder_without_any_caption_is_refused_even_where_broken_images_are_skipped(
    captioned_root: Path,
) -> None:
    for path in captioned_root.glob("*.txt"):
        path.unlink()
    with pytest.raises(SettingError, match=r"0\.jpg has no 0\.txt"):
        folder_source(captioned_root, on_broken_image="skip", max_broken_fraction=1.0).datasets()


def test_a_caption_may_hold_what_python_takes_for_line_ends(captioned_root: Path) -> None:
    (captioned_root / "0.txt").write_bytes("one\u2028still one\x0cand one\r\ntwo\rthree\n".encode())
    captions = [list(own) for part in folder_source(captioned_root).splits() for own in part.captions]
    assert ["one\u2028still one\x0cand one", "two", "three"] in captions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_utf_8_and_utf_16(captioned_root: Path, encoding: str) -> None:
    (captioned_root / "0.txt").write_text("ein grüner Hügel 犬\n", encoding=encoding)
    captions = [list(own) for part in folder_source(captioned_root).splits() for own in part.captions]
    assert ["ein grüner Hügel 犬"] in captions


@pytest.mark.parametrize("content", ["grün".encode("latin-1"), b"\xff\xfea", bytes(range(256))])
def test_captions_in_another_encoding_are_refused_with_the_name_of_the_file(
    captioned_root: Path, content: bytes
) -> None:
    (captioned_root / "0.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"0\.txt.* Save (it|the file) as UTF-8"):
        folder_source(captioned_root).datasets()
