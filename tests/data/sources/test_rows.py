"""Rows of parquet files and of copies of hub sets: captions, equal images, parts."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.errors import UserError
from tests.data.sources.conftest import BOTH, SourceOf, hub, parquet, sizes_by_name, titles, write

pyarrow = pytest.importorskip("pyarrow")


pq = pytest.importorskip("pyarrow.parquet")


WORDS = [*["train"] * 6, "restval", *["val"] * 3, *["test"] * 2]


def captions_by_id(source: data.DataSource) -> dict[str, list[str]]:
    return {
        image_id: list(captions)
        for split in source.splits()
        for image_id, captions in zip(split.ids, split.captions, strict=True)
    }


@BOTH
@pytest.mark.parametrize("names", [("Image", "Caption"), ("IMG", "TEXT"), (" image ", "Title")])
def test_columns_are_found_in_any_case(
    root: Path, images: Any, source_of: SourceOf, names: tuple[str, str]
) -> None:
    write(root / "train.parquet", **{names[0]: images, names[1]: titles()})
    assert sizes_by_name(source_of(root)) == {"train": 9, "seeded val": 3}


@BOTH
def test_integers_are_captions_as_their_digits(root: Path, images: Any, source_of: SourceOf) -> None:
    write(root / "train.parquet", image=images, caption=list(range(12)))
    assert captions_by_id(source_of(root))["train row 7"] == ["7"]


@BOTH
@pytest.mark.parametrize(
    ("cells", "kind"),
    [([0.5] * 12, "a float"), ([True] * 12, "a bool"), ([b"a dog"] * 12, "a bytes")],
)
def test_what_is_no_text_is_refused_with_its_row(
    root: Path, images: Any, source_of: SourceOf, cells: list[Any], kind: str
) -> None:
    write(root / "train.parquet", image=images, caption=cells)
    with pytest.raises(UserError, match=f"the column caption, row 0: a caption is {kind}"):
        source_of(root).splits()


@BOTH
def test_a_part_has_classes_where_each_row_has_one(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = [None if word == "test" else f"k{row % 2}" for row, word in enumerate(WORDS)]
    write(root / "train.parquet", image=images, caption=titles(), kind=kinds, split=WORDS)
    labels = {split.name: split.labels for split in source_of(root, class_column="kind").splits()}
    assert labels["test"] is None and list(labels["val"] or []) == ["k1", "k0", "k1"]
    assert "0 of 2 images have a class" not in caplog.text

    kinds[0] = None
    write(root / "train.parquet", image=images, caption=titles(), kind=kinds, split=WORDS)
    train, *_ = source_of(root, class_column="kind").splits()
    assert train.labels is None
    assert "6 of 7 images have a class, so that none is taken to have one" in caplog.text


@BOTH
@pytest.mark.parametrize("listed", [False, True])
def test_captions_in_objects_need_the_name_of_a_field(
    root: Path, images: Any, source_of: SourceOf, listed: bool
) -> None:
    objects = [{"en": f"picture {index}", "de": f"Bild {index}"} for index in range(12)]
    write(root / "train.parquet", image=images, caption=[[each] for each in objects] if listed else objects)
    with pytest.raises(
        UserError, match=r"with en, de; choose one: data\.caption_column=caption\.en"
    ) as why:
        source_of(root).splits()
    assert "\n" not in str(why.value)
    with pytest.raises(UserError, match="with en, de and without fr; choose one"):
        source_of(root, caption_column="caption.fr").splits()
    assert captions_by_id(source_of(root, caption_column="Caption.de"))["train row 3"] == ["Bild 3"]


def test_a_column_with_a_dot_in_its_name_is_no_field(root: Path, images: Any) -> None:
    write(root / "train.parquet", **{"image": images, "caption": titles(), "caption.de": ["Bild"] * 12})
    assert captions_by_id(parquet(root, caption_column="caption.de"))["train row 3"] == ["Bild"]


@BOTH
def test_rows_without_a_caption_are_counted(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    cells = [None, [], [""], [None], *([text, None] for text in titles()[4:])]
    write(root / "train.parquet", image=images, caption=cells)
    assert sizes_by_name(source_of(root)) == {"train": 6, "seeded val": 2}
    assert "4 rows without a caption left out" in caplog.text
    assert "8 empty captions of rows with others left out" in caplog.text


@BOTH
def test_rows_of_equal_images_are_one_image_with_several_captions(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        root / "train.parquet", image=[*images, *images[:2], images[0]], caption=[*titles(), "a", "b", "c"]
    )
    captions = captions_by_id(source_of(root))
    assert len(captions) == 12
    assert captions["train row 0"] == ["picture 0", "a", "c"]
    assert captions["train row 1"] == ["picture 1", "b"]
    assert "5 rows of equal images are 2 images with several captions" in caplog.text
    assert len(captions_by_id(source_of(root, merge_equal_images=False))) == 15


@BOTH
def test_classes_change_no_part(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    """Equal images of two classes are one image, as they are without classes."""
    kinds = [*(f"k{number % 3}" for number in range(12)), "k2", "k1"]
    kinds[1] = ""  # the row that stands for both has none
    write(root / "train.parquet", image=[*images, *images[:2]], caption=[*titles(), "a", "b"], kind=kinds)
    plain, classed = source_of(root).splits(), source_of(root, class_column="kind").splits()
    assert [split.fingerprint() for split in plain] == [split.fingerprint() for split in classed]

    label_of = {
        name: label for split in classed for name, label in zip(split.ids, split.labels or (), strict=True)
    }
    assert (label_of["train row 0"], label_of["train row 1"]) == ("k0", "k1")
    assert "the first class is that of 1 image with rows of several" in caplog.text


@BOTH
def test_captions_of_merged_rows_move_together(root: Path, images: Any, source_of: SourceOf) -> None:
    # of four images three captions each
    write(root / "train.parquet", image=[*images[:4]] * 3, caption=titles())
    clean, _ = source_of(root, captions="all").datasets()
    noisy, _ = source_of(root, captions="all", caption_noise=1).datasets()
    before, after = ([list(own) for own in each.split.captions] for each in (clean, noisy))
    assert sorted(before) == sorted(after) and len(noisy) == 9
    assert all(own != now for own, now in zip(before, after, strict=True))


def test_rows_that_name_one_file_are_one_image(root: Path, picture_folder: Path) -> None:
    shutil.copytree(picture_folder, root / "images")
    names = [f"images/{index % 4}.jpg" for index in range(12)]
    write(root / "train.parquet", image=names, caption=titles())
    captions = captions_by_id(parquet(root))
    assert len(captions) == 4 and captions["train row 1"] == ["picture 1", "picture 5", "picture 9"]


@BOTH
@pytest.mark.parametrize("file", ["test-00000-of-00001.parquet", "train.parquet"])
@pytest.mark.parametrize("column", ["split", "Split"])
def test_a_part_alone_is_divided_by_its_column_split(
    root: Path, images: Any, source_of: SourceOf, file: str, column: str
) -> None:
    write(root / "data" / file, **{"image": images, "caption": titles(), column: WORDS})
    assert sizes_by_name(source_of(root)) == {"train": 7, "val": 3, "test": 2}
    assert len(source_of(root, eval_split="test").datasets()[1]) == 2


def test_a_part_that_is_named_is_divided_all_the_same(root: Path, images: Any) -> None:
    write(root / "data" / "test-0.parquet", image=images, caption=titles(), split=WORDS)
    assert sizes_by_name(hub(root, train_split="test")) == {"train": 7, "val": 3, "test": 2}


@BOTH
def test_other_words_of_the_column_split_are_counted(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*["Train"] * 6, *["validation"] * 3, "unlabeled", None, "unlabeled"]
    write(root / "train.parquet", image=images, caption=titles(), split=words)
    assert sizes_by_name(source_of(root)) == {"train": 6, "val": 3}
    assert "rows of other splits are left out: unlabeled 2" in caplog.text


@BOTH
def test_a_column_split_that_is_none_or_not_wanted_divides_nothing(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    write(root / "train.parquet", image=images, caption=titles(), split=["left"] * 12)
    assert sizes_by_name(source_of(root)) == {"train": 9, "seeded val": 3}
    assert "the column split is not used, since it names no training rows (left 12)" in caplog.text
    write(root / "train.parquet", image=images, caption=titles(), split=WORDS)
    assert sizes_by_name(source_of(root, split_column=None)) == {"train": 9, "seeded val": 3}
    with pytest.raises(UserError, match=r"no column fold.*data\.split_column"):
        source_of(root, split_column="fold").splits()


@BOTH
def test_all_images_of_a_part_are_measured_whatever_their_column_split(
    root: Path, images: Any, source_of: SourceOf
) -> None:
    write(root / "test.parquet", image=images, caption=titles(), split=WORDS)
    assert len(source_of(root, use="all").datasets()[1]) == 12
