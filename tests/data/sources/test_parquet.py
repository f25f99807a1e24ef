"""Parquet files: which are read as which part, and what they lack."""

from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.errors import SettingError, UserError
from tests.data.sources.conftest import (
    BOTH,
    SEEDED,
    SourceOf,
    datasets,
    five_captions,
    hub,
    parquet,
    sizes,
    sizes_by_name,
    titles,
    write,
)

pyarrow = pytest.importorskip("pyarrow")


pq = pytest.importorskip("pyarrow.parquet")


def test_files_that_are_missing_of_a_part_are_told(
    root: Path, images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(root / "train-00000-of-00003.parquet", image=images, caption=titles())
    assert sizes_by_name(parquet(root)) == {"train": 9, "seeded val": 3}
    assert "only 1 file of 3" in caplog.text


@BOTH
def test_published_files_of_all_parts_are_used(root: Path, images: Any, source_of: SourceOf) -> None:
    for part, rows in (("train", slice(0, 7)), ("validation", slice(7, 10)), ("test", slice(10, 12))):
        write(root / f"{part}-0.parquet", image=images[rows], caption=titles()[rows])
    assert sizes_by_name(source_of(root)) == {"train": 7, "val": 3, "test": 2}


def test_a_test_part_alone_trains_nothing(root: Path, images: Any) -> None:
    write(root / "test.parquet", image=images, caption=titles())
    with pytest.raises(SettingError, match=r"holds no train\*\.parquet; it holds test\.parquet"):
        parquet(root).splits()
    with pytest.raises(SettingError, match="must name one of the parts test"):
        hub(root).splits()


def test_parquet_files_are_found_in_any_case_and_hidden_ones_are_not(root: Path, images: Any) -> None:
    write(root / "Train-0.PARQUET", image=images, caption=titles())
    (root / "._train-1.parquet").write_bytes(b"what macOS leaves")
    assert sizes_by_name(parquet(root)) == {"train": 9, "seeded val": 3}


def write_parquet(
    path: Path, pictures: Path, indices: range, *, lists: bool = False, plain: bool = False
) -> None:
    import pyarrow
    import pyarrow.parquet

    content = [(pictures / f"{i}.jpg").read_bytes() for i in indices]
    images = content if plain else [{"bytes": each, "path": None} for each in content]
    texts = [five_captions(i) if lists else five_captions(i)[0] for i in indices]
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "caption": texts}), path, row_group_size=3)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("val", ["validation", "val", None])
def test_parquet(root: Path, picture_folder: Path, lists: bool, plain: bool, val: str | None) -> None:
    shape = {"lists": lists, "plain": plain}
    folder = root / "data" if plain else root
    write_parquet(folder / "train-00000-of-00002.parquet", picture_folder, range(5), **shape)
    write_parquet(folder / "train-00001-of-00002.parquet", picture_folder, range(5, 8), **shape)
    if val is not None:
        write_parquet(folder / f"{val}-00000-of-00001.parquet", picture_folder, range(8, 12), **shape)
    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    assert sizes(source) == (("val", 8, 4) if val is not None else ("seeded val", 6, 2))
    assert len(datasets(source)[0].split.captions[0]) == (5 if lists else 1)


def test_files_of_no_part_are_told(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(root / "Train-0.parquet", picture_folder, range(8))
    write_parquet(root / "val.parquet", picture_folder, range(8, 12))
    write_parquet(root / "train_0.parquet", picture_folder, range(12))
    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    assert sizes(source) == ("val", 8, 4)
    assert "parquet files of no part are left out: train_0.parquet." in caplog.text


def test_parquet_rows_without_a_caption_are_left_out_aloud(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow.parquet

    write_parquet(root / "train.parquet", picture_folder, range(8))
    table = pyarrow.parquet.read_table(root / "train.parquet")
    texts = pyarrow.array([None, " ", *table.column("caption").to_pylist()[2:]])
    pyarrow.parquet.write_table(table.set_column(1, "caption", texts), root / "train.parquet")
    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    assert sizes(source) == ("seeded val", 4, 2)
    assert "2 rows without a caption left out" in caplog.text


@pytest.mark.parametrize("keeps_schema", [True, False])
def test_a_long_text_that_is_held_once_for_all_rows_is_refused_before_it_is_written_out(
    keeps_schema: bool, root: Path, picture_folder: Path
) -> None:
    """Written out they would be 64 GB, of a file of a few kilobytes."""
    import pyarrow
    import pyarrow.parquet

    num_rows = 2000
    image = (picture_folder / "0.jpg").read_bytes()
    rows = pyarrow.array([0] * num_rows, pyarrow.int32())
    captions = pyarrow.DictionaryArray.from_arrays(rows, pyarrow.array(["a" * 2**25]))
    table = pyarrow.table({"image": [image] * num_rows, "caption": captions})
    pyarrow.parquet.write_table(
        table, root / "train.parquet", compression="zstd", store_schema=keeps_schema
    )
    assert (root / "train.parquet").stat().st_size < 100_000

    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    with pytest.raises(UserError, match="the column caption: a caption has 33,554,432 bytes, more than"):
        source.datasets()


def test_files_of_a_part_may_differ_in_how_they_hold_a_column(
    root: Path, images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A column that is empty in one file has no type there, as pandas writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    turned = [{"path": image["path"], "bytes": image["bytes"]} for image in images]
    write(root / "train-0.parquet", image=images[:4], caption=pyarrow.nulls(4))
    write(root / "train-1.parquet", image=turned[4:8], caption=titles()[4:8])
    write(root / "train-2.parquet", image=images[8:], caption=titles()[8:])
    splits = parquet(root).splits()
    assert sorted(text for split in splits for text in split.captions.flat()) == sorted(titles()[4:])
    assert "4 rows without a caption left out" in caplog.text

    write(root / "train-3.parquet", image=images[:1], caption=[pyarrow.scalar(True)])
    with pytest.raises(UserError, match=r"cannot be read .* with equal columns") as caught:
        parquet(root).splits()
    assert "\n" not in str(caught.value)


def test_parquet_without_the_column_names_those_it_has(root: Path, picture_folder: Path) -> None:
    write_parquet(root / "train.parquet", picture_folder, range(8))
    for settings in (
        {"image_column": None, "caption_column": "titel"},
        {"image_column": "x", "caption_column": None},
    ):
        with pytest.raises(UserError, match="it has: image, caption"):
            data.Parquet(root=str(root), class_column=None, **settings, **SEEDED).datasets()
    (root / "train.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        data.Parquet(
            root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
        ).datasets()


def test_the_real_products(real_data: Path) -> None:
    source = data.Parquet(
        root=str(real_data / "fashion"), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    train, val = datasets(source)
    assert (val.split.name, len(train), len(val)) == ("val", 40_072, 2_000)
