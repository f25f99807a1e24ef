"""Images named by tables: paths, columns, parts, and bad tables, each named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from miniclip.data import CSVTable
from miniclip.data.sources.image_names import find_images
from miniclip.errors import SettingError, UserError
from tests.data.conftest import encoded
from tests.data.sources.conftest import csv_source, part_ids, written


def test_columns_and_separator_can_be_given(tmp_path: Path, picture_folder: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("what,where,image\nred,0.jpg,no\n")
    train, _ = csv_source(
        picture_folder, table, image_column="where", caption_column="what", separator=","
    ).splits()
    assert list(train.ids) == ["0.jpg"] and list(train.captions[0]) == ["red"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"image,caption\n", "holds no captions"),
        (b"picture,words\n0.jpg,red\n", "it has: picture, words"),
        (b"image,caption\n0.jpg\n", "line 2"),
        ("image,caption\n0.jpg,grün\n".encode("latin-1"), "UTF-8"),
        (b"image,caption\nmissing.jpg,red\nalso.jpg,blue\n", "missing.jpg' and 1 more"),
        (b"image,caption\n../secret.jpg,red\n", "outside the image folder"),
        (b"image,caption\n/etc/passwd,red\n", "outside the image folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, picture_folder: Path, content: bytes, problem: str) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        csv_source(picture_folder, table).datasets()


@pytest.mark.parametrize("setting", ["train_csv", "train_root", "val_csv", "val_root"])
def test_a_missing_path_is_named_by_its_setting(tmp_path: Path, picture_folder: Path, setting: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.jpg,red\n")
    with pytest.raises(SettingError) as caught:
        csv_source(picture_folder, table, **{setting: str(tmp_path / "nowhere")})
    assert caught.value.setting == setting


def test_one_table_is_shared_out_by_image(tmp_path: Path, picture_folder: Path) -> None:
    rows = [f"{name}{number % 12}.jpg,caption {number}" for number in range(24) for name in ("", "./")]
    table = written(tmp_path, "t.csv", "\n".join(["image,caption", *rows]))
    one = {"val_csv": None, "val_root": None, "val_fraction": 0.25}
    train, val = csv_source(picture_folder, table, **one).splits()
    assert (len(train), len(val), val.name) == (9, 3, "seeded val")
    assert set(train.ids).isdisjoint(val.ids)
    assert all(len(captions) == 4 for split in (train, val) for captions in split.captions)
    again = csv_source(picture_folder, table, **one).splits()
    other = csv_source(picture_folder, table, **one, split_seed=1).splits()
    assert list(again[1].ids) == list(val.ids) != list(other[1].ids)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_split_divides_one_table(
    tmp_path: Path, picture_folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*["train"] * 5, "restval", *["val"] * 3, *["Test"] * 2, "held"]
    if kind == "csv":
        lines = ["image,split,caption", *(f"{row}.jpg,{word},c{row}" for row, word in enumerate(words))]
    else:
        lines = [
            json.dumps({"image": f"{row}.jpg", "caption": [f"c{row}", "other"], "split": word})
            for row, word in enumerate(words)
        ]
    table = written(tmp_path, f"t.{kind}", "\n".join(lines))
    one = {"val_csv": None, "val_root": None, "val_fraction": 0.5, "split_column": "split"}
    ids = part_ids(csv_source(picture_folder, table, **one))
    assert {part: len(own) for part, own in ids.items()} == {"train": 6, "val": 3, "test": 2}
    assert ids["val"] == ["6.jpg", "7.jpg", "8.jpg"]
    assert "rows of other splits are left out: held" in caplog.text
    as_before = part_ids(csv_source(picture_folder, table, **{**one, "split_column": None}))
    assert {part: len(own) for part, own in as_before.items()} == {"train": 6, "seeded val": 6}


def test_objects_need_not_all_name_their_part(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[dict[str, Any]] = [{}, *[{"Split": "train"}] * 3, *[{"Split": "val"}] * 2, {"Split": None}]
    lines = [json.dumps({"image": f"{row}.jpg", "caption": "c", **own}) for row, own in enumerate(parts)]
    table = written(tmp_path, "t.jsonl", "\n".join(lines))
    one: dict[str, Any] = {"val_csv": None, "val_root": None, "split_column": "split"}
    ids = part_ids(csv_source(picture_folder, table, **one))
    assert ids == {"train": ["1.jpg", "2.jpg", "3.jpg"], "val": ["4.jpg", "5.jpg"]}
    assert "rows of other splits are left out:  2." in caplog.text


def test_a_column_split_without_validation_rows_has_a_seeded_part(
    tmp_path: Path, picture_folder: Path
) -> None:
    lines = ["image,caption,split", *(f"{row}.jpg,c,{('train', 'test')[row > 7]}" for row in range(12))]
    table = written(tmp_path, "t.csv", "\n".join(lines))
    one = {"val_csv": None, "val_root": None, "val_fraction": 0.25, "split_column": "split"}
    ids = part_ids(csv_source(picture_folder, table, **one))
    assert {part: len(own) for part, own in ids.items()} == {"train": 6, "seeded val": 2, "test": 4}


def test_a_share_of_too_few_images_is_told_by_its_setting(tmp_path: Path, picture_folder: Path) -> None:
    table = written(tmp_path, "t.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    one: dict[str, Any] = {"val_csv": None, "val_root": None}
    with pytest.raises(
        UserError, match=r"seeded val split holds no images: raise data\.val_fraction=0\.1\."
    ):
        csv_source(picture_folder, table, **one, val_fraction=0.1).training_sets()
    with pytest.raises(UserError, match=r"train split holds no images: .* lower data\.val_fraction"):
        csv_source(picture_folder, table, **one, val_fraction=0.99).training_sets()


def test_each_file_is_looked_for_once(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Path] = []

    def counting(root: Path, *names: Any, **settings: Any) -> dict[str, str]:
        searched.append(root)
        return find_images(root, *names, **settings)

    monkeypatch.setattr("miniclip.data.sources.captions.find_images", counting)
    table = written(tmp_path, "t.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    csv_source(picture_folder, table, val_csv=None, val_root=None, val_fraction=0.5).splits()
    assert searched == [picture_folder]


def test_the_same_table_twice_stops(tmp_path: Path, picture_folder: Path) -> None:
    train = written(tmp_path, "train.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    with pytest.raises(UserError, match="The train part holds all of the val part as well, 2 images"):
        csv_source(picture_folder, train, val_csv=str(train), val_root=None).training_sets()


def test_validation_images_that_train_are_counted_aloud(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = written(tmp_path, "train.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    val = written(tmp_path, "val.csv", "image,caption\n./1.JPG,b\n2.jpg,c\n")
    csv_source(picture_folder, train, val_csv=str(val), val_root=None).training_sets()
    assert "The train part holds 1 of 2 images of the val part as well" in caplog.text


def zoo_table(folder: Path, content: bytes | str) -> CSVTable:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return CSVTable(
        train_csv=str(path),
        train_root=str(folder / "images"),
        val_csv=str(path),
        val_root=str(folder / "images"),
        image_column=None,
        caption_column=None,
        separator=None,
        image_size=32,
        crop_scale=[0.5, 1.0],
        flip=True,
        limit=None,
        seed=0,
    )


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder `images` with a.jpg and links, and secret.jpg outside it."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(encoded())
    (images / "b.jpg").write_bytes(encoded())
    (tmp_path / "secret.jpg").write_bytes(encoded())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(encoded())
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "inner.jpg").symlink_to(images / "a.jpg")
    (images / "folder").symlink_to(tmp_path / "elsewhere")
    return tmp_path


BAD_TABLES: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "table.csv is empty"),
    "header only": ("image,caption\n", "holds no captions"),
    "spaces": ("  \n \n", "is empty"),
    "no image column": ("name_of,caption\na.jpg,a\n", "it has: name_of, caption"),
    "no caption column": ("image,words\na.jpg,a\n", "it has: image, words"),
    "wrong separator": ("image caption\na.jpg a\n", "it has: image caption"),
    "a short row": ("image,caption\na.jpg\n", "line 2: 1 columns"),
    "latin 1": ("image,caption\na.jpg,café\n".encode("latin-1"), "UTF-8"),
    "utf 16 without a mark": ("image,caption\na.jpg,a\n".encode("utf-16-le"), "UTF-8"),
    "binary": (bytes(range(256)), "table.csv"),
    "NUL in a row": (b"image,caption\na.jpg,a\0b\n", "line 2: holds a NUL byte"),
    "missing image": ("image,caption\nnone.jpg,a\n", "none.jpg"),
    "missing folder": ("image,caption\nnowhere/none.jpg,a\n", "none.jpg"),
    "a folder for an image": ("image,caption\nfolder,a\n", "folder"),
    "the folder itself": ("image,caption\n.,a\n", "missing"),
    "parent": ("image,caption\n../secret.jpg,a\n", "lies outside"),
    "parent within": ("image,caption\nfolder/../../secret.jpg,a\n", "lies outside"),
    "absolute": ("image,caption\n/etc/passwd,a\n", "lies outside"),
    "a link outside": ("image,caption\nlink.jpg,a\n", "lies outside"),
    "a linked folder": ("image,caption\nfolder/c.jpg,a\n", "lies outside"),
    "home": ("image,caption\n~/secret.jpg,a\n", "missing"),
    "all captions empty": ('image,caption\na.jpg,""\nb.jpg,"  "\n', "holds no captions"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_named(zoo: Path, name: str) -> None:
    content, reason = BAD_TABLES[name]
    with pytest.raises(UserError) as caught:
        zoo_table(zoo, content).datasets()
    assert reason in str(caught.value), caught.value


@pytest.mark.parametrize("text", ["None", "NA", "nan", "null", "NULL", "n/a", "0", "-", "true", "1e5"])
def test_words_that_look_like_missing_values_are_captions(zoo: Path, text: str) -> None:
    train, _ = zoo_table(zoo, f"image,caption\na.jpg,{text}\nb.jpg,a dog\n").datasets()
    assert list(train.split.captions[0]) == [text]


def test_odd_but_good_tables(zoo: Path) -> None:
    long = "word " * 250_000
    for content, expected in (
        ("\ufeffimage,caption\na.jpg,a dog\n", ["a dog"]),
        ("image,caption\r\na.jpg,a dog\r\n", ["a dog"]),
        ("image,caption\na.jpg,ein Hündchen\n".encode("utf-16"), ["ein Hündchen"]),
        ("image,caption\na.jpg,a dog\n\n\n", ["a dog"]),
        ("image,caption\na.jpg,a dog", ["a dog"]),
        ('image,caption\na.jpg,"a dog\nin two lines"\n', ["a dog\nin two lines"]),
        ('image,caption\na.jpg,"a ""dog"""\n', ['a "dog"']),
        ("IMAGE,Caption\na.jpg,a dog\n", ["a dog"]),
        ("id,caption,image,more\n7,a dog,a.jpg,x\n", ["a dog"]),
        ("image,caption\na.jpg,a dog\na.jpg,a dog\n", ["a dog", "a dog"]),
        ("image,caption\ninner.jpg,a dog\n", ["a dog"]),
        ("image,caption\na.jpg,🐕 犬\n", ["🐕 犬"]),
        (f"image,caption,notes\na.jpg,a dog,{long}\n", ["a dog"]),
    ):
        train, _ = zoo_table(zoo, content).datasets()
        assert list(train.split.captions[0]) == expected, content[:60]
        assert train[0][0].isfinite().all()


def test_an_unreadable_file_is_named(zoo: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (zoo / "images" / "a.jpg").chmod(0)
    train, _ = zoo_table(zoo, "image,caption\na.jpg,a\n").datasets()
    with pytest.raises(UserError, match=r"a\.jpg"):
        _ = train[0]


def test_the_zoo_of_tables_is_large_enough() -> None:
    assert len(BAD_TABLES) >= 22
