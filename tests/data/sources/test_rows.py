"""Rows of parquet files and of copies of hub sets: columns, captions, images, parts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.errors import SettingError, UserError, without_secrets

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("datasets")

SETTINGS: dict[str, Any] = {
    "image_column": None,
    "caption_column": None,
    "class_column": None,
    "merge_equal_images": True,
    "image_size": 32,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
    "val_fraction": 0.25,
    "split_seed": 0,
}
WORDS = [*["train"] * 6, "restval", *["val"] * 3, *["test"] * 2]


def parquet(root: Path, **changes: Any) -> data.Parquet:
    return data.Parquet(root=str(root), **{**SETTINGS, **changes})


def hub(root: Path | str, **changes: Any) -> data.Hub:
    parts = {"config": None, "train_split": None, "val_split": None}
    return data.Hub(hub=str(root), **{**SETTINGS, **parts, **changes})


BOTH = pytest.mark.parametrize("source_of", [parquet, hub])
SourceOf = Callable[..., data.DataSource]


@pytest.fixture
def root(tmp_path: Path, picture_folder: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def images(picture_folder: Path) -> list[dict[str, Any]]:
    """Twelve images as the hub's tables hold them."""
    contents = [(picture_folder / f"{index}.jpg").read_bytes() for index in range(12)]
    return [{"bytes": content, "path": f"{index}.jpg"} for index, content in enumerate(contents)]


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pyarrow.table(columns), path)


def texts() -> list[str]:
    return [f"picture {index}" for index in range(12)]


def captions_by_id(source: data.DataSource) -> dict[str, list[str]]:
    return {
        image_id: list(captions)
        for split in source.splits()
        for image_id, captions in zip(split.ids, split.captions, strict=True)
    }


def sizes(source: data.DataSource) -> dict[str, int]:
    for part in source.datasets():
        assert part[0][0].shape == (3, 32, 32)
    return {split.name: len(split) for split in source.splits()}


@BOTH
@pytest.mark.parametrize("names", [("Image", "Caption"), ("IMG", "TEXT"), (" image ", "Title")])
def test_columns_are_found_in_any_case(
    root: Path, images: Any, source_of: SourceOf, names: tuple[str, str]
) -> None:
    write(root / "train.parquet", **{names[0]: images, names[1]: texts()})
    assert sizes(source_of(root)) == {"train": 9, "seeded val": 3}


def test_the_fields_of_the_images_are_found_in_any_case(root: Path, images: Any) -> None:
    cells = [{"Bytes": cell["bytes"], "PATH": cell["path"]} for cell in images]
    write(root / "train.parquet", image=cells, caption=texts())
    assert sizes(parquet(root)) == {"train": 9, "seeded val": 3}


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
    write(root / "train.parquet", **{"image": images, "caption": texts(), "caption.de": ["Bild"] * 12})
    assert captions_by_id(parquet(root, caption_column="caption.de"))["train row 3"] == ["Bild"]


@BOTH
def test_rows_without_a_caption_are_counted(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    cells = [None, [], [""], [None], *([text, None] for text in texts()[4:])]
    write(root / "train.parquet", image=images, caption=cells)
    assert sizes(source_of(root)) == {"train": 6, "seeded val": 2}
    assert "4 rows without a caption left out" in caplog.text
    assert "8 empty captions of rows with others left out" in caplog.text


def test_files_that_are_missing_of_a_part_are_told(
    root: Path, images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(root / "train-00000-of-00003.parquet", image=images, caption=texts())
    assert sizes(parquet(root)) == {"train": 9, "seeded val": 3}
    assert "only 1 file of 3" in caplog.text


@BOTH
@pytest.mark.parametrize("in_objects", [True, False])
def test_images_may_be_files_beside_the_table(
    root: Path, picture_folder: Path, source_of: SourceOf, in_objects: bool
) -> None:
    shutil.copytree(picture_folder, root / "images")
    paths: list[Any] = [f"images/{index}.jpg" for index in range(12)]
    if in_objects:
        paths = [{"bytes": None, "path": path} for path in paths]
        column = pyarrow.array(paths, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    else:
        column = pyarrow.array(paths)
    write(root / "train.parquet", image=column, caption=texts())
    assert sizes(source_of(root)) == {"train": 9, "seeded val": 3}


@BOTH
def test_images_that_are_nowhere_stop_when_the_table_is_read(root: Path, source_of: SourceOf) -> None:
    write(root / "train.parquet", image=[f"images/{index}.jpg" for index in range(12)], caption=texts())
    with pytest.raises(UserError, match=r"no images in 12 of 12 rows, only names of files .*images/0\.jpg"):
        source_of(root).splits()


def test_rows_without_any_image_stop_or_are_skipped(root: Path, images: Any) -> None:
    write(root / "train.parquet", image=[None, *images[1:]], caption=texts())
    with pytest.raises(UserError, match="has 1 row without an image, like row 0"):
        parquet(root).splits()
    skipping = parquet(root, on_broken_image="skip", max_broken_fraction=0.5)
    assert sum(len(split) for split in skipping.splits()) == 12


@BOTH
@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_images_out_of_the_folder_are_not_opened(
    root: Path, picture_folder: Path, source_of: SourceOf, kind: str
) -> None:
    (root / "link.jpg").symlink_to(picture_folder / "0.jpg")
    outside = str(picture_folder / "0.jpg")
    name = {"parent": "../pictures/0.jpg", "absolute": outside, "link": "link.jpg"}[kind]
    write(root / "train.parquet", image=[name] * 12, caption=texts())
    with pytest.raises(UserError, match=r"row 0: the image .* lies outside the folder"):
        source_of(root).splits()


@BOTH
def test_rows_of_equal_images_are_one_image_with_several_captions(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        root / "train.parquet", image=[*images, *images[:2], images[0]], caption=[*texts(), "a", "b", "c"]
    )
    captions = captions_by_id(source_of(root))
    assert len(captions) == 12
    assert captions["train row 0"] == ["picture 0", "a", "c"]
    assert captions["train row 1"] == ["picture 1", "b"]
    assert "5 rows of equal images are 2 images with several captions" in caplog.text
    assert len(captions_by_id(source_of(root, merge_equal_images=False))) == 15


def test_rows_that_name_one_file_are_one_image(root: Path, picture_folder: Path) -> None:
    shutil.copytree(picture_folder, root / "images")
    names = [f"images/{index % 4}.jpg" for index in range(12)]
    write(root / "train.parquet", image=names, caption=texts())
    captions = captions_by_id(parquet(root))
    assert len(captions) == 4 and captions["train row 1"] == ["picture 1", "picture 5", "picture 9"]


def test_equal_images_of_two_classes_stay_two(root: Path, images: Any) -> None:
    write(root / "train.parquet", image=images[:6] * 2, caption=texts(), kind=["a"] * 6 + ["b"] * 6)
    assert len(captions_by_id(parquet(root, class_column="kind"))) == 12


@BOTH
@pytest.mark.parametrize("file", ["test-00000-of-00001.parquet", "train.parquet"])
@pytest.mark.parametrize("column", ["split", "Split"])
def test_a_part_alone_is_divided_by_its_column_split(
    root: Path, images: Any, source_of: SourceOf, file: str, column: str
) -> None:
    write(root / "data" / file, **{"image": images, "caption": texts(), column: WORDS})
    assert sizes(source_of(root)) == {"train": 7, "val": 3, "test": 2}
    assert len(source_of(root, eval_split="test").datasets()[1]) == 2


def test_a_part_that_is_named_is_divided_all_the_same(root: Path, images: Any) -> None:
    write(root / "data" / "test-0.parquet", image=images, caption=texts(), split=WORDS)
    assert sizes(hub(root, train_split="test")) == {"train": 7, "val": 3, "test": 2}


@BOTH
def test_other_words_of_the_column_split_are_counted(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*["Train"] * 6, *["validation"] * 3, "unlabeled", None, "unlabeled"]
    write(root / "train.parquet", image=images, caption=texts(), split=words)
    assert sizes(source_of(root)) == {"train": 6, "val": 3}
    assert "rows of other splits are left out: unlabeled 2" in caplog.text


@BOTH
def test_a_column_split_that_is_none_or_not_wanted_divides_nothing(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    write(root / "train.parquet", image=images, caption=texts(), split=["left"] * 12)
    assert sizes(source_of(root)) == {"train": 9, "seeded val": 3}
    assert "the column split is not used, since it names no training rows (left 12)" in caplog.text
    write(root / "train.parquet", image=images, caption=texts(), split=WORDS)
    assert sizes(source_of(root, split_column=None)) == {"train": 9, "seeded val": 3}
    with pytest.raises(UserError, match=r"no column fold.*data\.split_column"):
        source_of(root, split_column="fold").splits()


@BOTH
def test_published_files_of_all_parts_are_used(root: Path, images: Any, source_of: SourceOf) -> None:
    for part, rows in (("train", slice(0, 7)), ("validation", slice(7, 10)), ("test", slice(10, 12))):
        write(root / f"{part}-0.parquet", image=images[rows], caption=texts()[rows])
    assert sizes(source_of(root)) == {"train": 7, "val": 3, "test": 2}


def test_a_test_part_alone_trains_nothing(root: Path, images: Any) -> None:
    write(root / "test.parquet", image=images, caption=texts())
    with pytest.raises(SettingError, match=r"holds no train\*\.parquet; it holds test\.parquet"):
        parquet(root).splits()
    with pytest.raises(SettingError, match="must name one of the parts test"):
        hub(root).splits()


def test_parquet_files_are_found_in_any_case_and_hidden_ones_are_not(root: Path, images: Any) -> None:
    write(root / "Train-0.PARQUET", image=images, caption=texts())
    (root / "._train-1.parquet").write_bytes(b"what macOS leaves")
    assert sizes(parquet(root)) == {"train": 9, "seeded val": 3}


def test_a_loader_script_is_refused_in_one_line(root: Path) -> None:
    (root / "root.py").write_text("import datasets\n\nclass Root(datasets.GeneratorBasedBuilder): ...\n")
    with pytest.raises(UserError, match=r"is a loader script.*data\.hub=FOLDER") as why:
        hub(root).splits()
    assert "\n" not in str(why.value)


@pytest.mark.parametrize("name", ["https://me:pa@ss/word@host/user/set", "me:pass/word@host/set"])
def test_a_password_in_the_name_of_a_set_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingError, match="holds a password or token") as why:
        hub(name)
    assert "pa" not in str(why.value).replace("password", "").replace("part", "")


def test_passwords_and_tokens_are_not_printed() -> None:
    text = "GET https://u:secret1@host/a?token=secret2&x=1 hf_secret3 via u:secret4@proxy"
    assert "secret" not in without_secrets(text)
    harmless = "user/set@main could not be reached at https://host/user/set"
    assert without_secrets(harmless) == harmless


def test_a_copy_that_cannot_be_read_is_refused_in_one_line(root: Path) -> None:
    (root / "train.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match=r"cannot be loaded: .*data\.hub=FOLDER") as why:
        hub(root).splits()
    assert "\n" not in str(why.value)


@BOTH
def test_all_images_of_a_part_are_measured_whatever_their_column_split(
    root: Path, images: Any, source_of: SourceOf
) -> None:
    write(root / "test.parquet", image=images, caption=texts(), split=WORDS)
    assert len(source_of(root, use="all").datasets()[1]) == 12
