"""How much memory columns of Parquet files take, found before they are read: of a small file gigabytes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from miniclip.data.sources.parquet_pages import DICTIONARY, pages_of
from miniclip.errors import UserError

MOST_BYTES = 2**30
"""So much any file may unpack to."""

MOST_GROWTH = 100
"""So much larger than the files may be what they unpack to, beyond that; encoded images hardly are."""

ROWS_AT_A_TIME = 1024


def check_size(paths: Sequence[Path], columns: Sequence[str], *, held_once: Sequence[str] = ()) -> None:
    """Refuse a decompression bomb.

    The sizes are those of the pages, which hold; the footer's need not. pyarrow is needed.

    Args:
        paths: of files that are read together.
        columns: those that are to be read.
        held_once: those of which a value that several rows have stays one in memory.

    Raises:
        UserError: when they would take more than `MOST_BYTES`, and than `MOST_GROWTH` times the files.
    """
    size = sum(path.stat().st_size for path in paths)
    limit = max(MOST_BYTES, MOST_GROWTH * size)
    num_bytes = 0
    for path in paths:
        for group, chunk in _chunks(path, columns):
            has_dictionary = False
            for page in pages_of(path, chunk):
                num_bytes += page.num_bytes
                has_dictionary |= page.kind == DICTIONARY
                if num_bytes > limit:
                    break

            is_repeated = has_dictionary and chunk.path_in_schema not in held_once
            if num_bytes <= limit and is_repeated:
                num_bytes += _repeated(path, group, chunk, most=limit - num_bytes)
            if num_bytes > limit:
                raise UserError(
                    f"{path}: the column {chunk.path_in_schema} unpacks to more than {limit:,} bytes from "
                    f"{size:,}, which is taken for a decompression bomb. Remove its largest rows."
                )


def _chunks(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """The parts of the columns that are stored as text or bytes, each with the number of its row group."""
    import pyarrow.parquet

    facts = pyarrow.parquet.read_metadata(path)
    for group in range(facts.num_row_groups):
        row_group = facts.row_group(group)
        for number in range(facts.num_columns):
            chunk = row_group.column(number)
            place = f"{chunk.path_in_schema}."  # image.bytes
            is_read = any(place.startswith(f"{column}.") for column in columns)
            if is_read and chunk.physical_type == "BYTE_ARRAY":
                yield group, chunk


def _repeated(path: Path, group: int, chunk: Any, *, most: int) -> int:
    """Bytes of a chunk's values, each as often as rows have it; 0 where they cannot be more than `most`."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    leaf = chunk.path_in_schema
    num_bytes = 0
    with pyarrow.parquet.ParquetFile(path, read_dictionary=[leaf]) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=[leaf]):
            values = _leaf(batch.column(0))
            if not isinstance(values, pyarrow.DictionaryArray):
                return 0
            lengths = pyarrow.compute.binary_length(values.dictionary)
            longest = pyarrow.compute.max(lengths).as_py() or 0
            if longest * chunk.num_values <= most:
                return 0
            num_bytes += pyarrow.compute.sum(lengths.take(values.indices)).as_py() or 0
            if num_bytes > most:
                return num_bytes
    return num_bytes


def _leaf(values: Any) -> Any:
    """The values of a nested column of which one field alone was read."""
    import pyarrow

    while True:
        if isinstance(values, pyarrow.StructArray):
            values = values.field(0)
        elif isinstance(values, pyarrow.ListArray | pyarrow.LargeListArray):
            values = values.flatten()
        else:
            return values
