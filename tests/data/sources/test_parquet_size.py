"""Parquet files that unpack to gigabytes are refused before that, and all others read."""

from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.data.sources import parquet_size
from miniclip.data.sources.parquet_pages import pages_of
from miniclip.data.sources.parquet_size import check_size
from miniclip.deploy.index import open_source
from miniclip.errors import UserError
from tests.data.sources.conftest import SEEDED

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def repeated(path: Path, *, cell: int, rows: int) -> None:
    """A table that holds one image once, for all its rows."""
    image = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([bytes(cell)], pyarrow.binary())
    )
    names = pyarrow.nulls(rows, pyarrow.string())
    images = pyarrow.StructArray.from_arrays([image, names], ["bytes", "path"])
    table = pyarrow.table({"image": images, "caption": ["a dog"] * rows})
    parquet.write_table(
        table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False
    )


def packed(path: Path, *, cell: int, rows: int) -> None:
    """A table of row groups of one image, each of which packs to almost nothing."""
    table = pyarrow.table({"image": pyarrow.array([bytes(cell)], pyarrow.binary()), "caption": ["a dog"]})
    with parquet.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(rows):
            writer.write_table(table)


def forged(path: Path, *, cell: int, rows: int) -> None:
    """The same, whose footer says that each image unpacks to one byte."""
    packed(path, cell=cell, rows=rows)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    size = 2 * parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    said = bytes(size >> place & 127 | (128 if size >> place + 7 else 0) for place in (0, 7, 14, 21))
    path.write_bytes(content[:start] + content[start:].replace(said, b"\x82\x80\x80\x00"))
    assert parquet.read_metadata(path).row_group(rows - 1).column(0).total_uncompressed_size == 1


@pytest.mark.parametrize("write", [repeated, packed, forged])
def test_a_bomb_is_refused_before_it_is_read(
    write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parquet_size, "MOST_BYTES", 2**26)
    path = tmp_path / "train-0.parquet"
    write(path, cell=2**22, rows=40)
    assert path.stat().st_size < 2**17
    pool = pyarrow.default_memory_pool()
    most = max(pool.max_memory(), pool.bytes_allocated() + 2**25)

    columns: dict[str, Any] = dict.fromkeys(("image_column", "caption_column", "class_column"))
    source = data.Parquet(root=str(tmp_path), **columns, **SEEDED)
    with pytest.raises(UserError, match="taken for a decompression bomb"):
        source.splits()
    with pytest.raises(UserError, match="taken for a decompression bomb"):
        open_source(path)
    assert pool.max_memory() <= most


def sizes(path: Path) -> None:
    """A table of twenty short and ten long texts, each held once."""
    texts = ["a"] * 20 + ["b" * 1000] * 10
    parquet.write_table(pyarrow.table({"a.text": texts, "other": ["c" * 10**5] * 30}), path)


def test_values_are_counted_as_often_as_rows_have_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "table.parquet"
    sizes(path)
    column = parquet.read_metadata(path).row_group(0).column(0)
    exact = 20 + 10 * 1000 + sum(page.num_bytes for page in pages_of(path, column))
    monkeypatch.setattr(parquet_size, "MOST_GROWTH", 0)
    monkeypatch.setattr(parquet_size, "MOST_BYTES", exact)
    check_size([path], ["a.text"])
    monkeypatch.setattr(parquet_size, "MOST_BYTES", exact - 1)
    with pytest.raises(UserError, match=r"the column a\.text unpacks to more than 1\d,\d\d\d bytes"):
        check_size([path], ["a.text"])
    check_size([path], ["text"])


def test_lists_of_texts_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"texts": [["b" * 1000] * 5] * 10}), path)
    monkeypatch.setattr(parquet_size, "MOST_GROWTH", 0)
    monkeypatch.setattr(parquet_size, "MOST_BYTES", 40_000)
    with pytest.raises(UserError, match="bomb"):
        check_size([path], ["texts"])
    monkeypatch.setattr(parquet_size, "MOST_BYTES", 60_000)
    check_size([path], ["texts"])


def test_a_header_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    sizes(path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # behind the mark at its beginning
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the column a\.text is damaged"):
        check_size([path], ["a.text"])
