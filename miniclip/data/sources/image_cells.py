"""Cells of tables: the images in a column, as bytes or as names of files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.sources.caption_cells import shortened
from miniclip.data.sources.walk import examples, lies_within
from miniclip.errors import UserError, counted

if TYPE_CHECKING:
    import pyarrow

BYTES = ("binary", "large_binary", "binary_view")
TEXTS = ("string", "large_string", "string_view")
"""Types of Arrow; the views are not in every version of it."""


def image_cells(column: "pyarrow.ChunkedArray", source: str) -> tuple[Any, list[bool], list[str | None]]:
    """The images of a column: by row the bytes, whether there are any, and the name of a file.

    The column holds bytes, names of files, each written out or once for several rows, or structs with
    fields `bytes` and `path`.

    Raises:
        UserError: when it is of another type.
    """
    import pyarrow
    import pyarrow.compute

    nothing: list[str | None] = [None] * len(column)
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)

    # as Hugging Face's images are stored
    if pyarrow.types.is_struct(column.type):
        fields = {field.name.lower(): field.name for field in column.type}
        parts = {
            name: pyarrow.compute.struct_field(column, fields[name])
            for name in ("bytes", "path")
            if name in fields
        }
        if "bytes" in parts:
            paths = parts["path"].to_pylist() if "path" in parts else nothing
            return parts["bytes"], parts["bytes"].is_valid().to_pylist(), paths

    if str(column.type) in BYTES:
        return column, column.is_valid().to_pylist(), nothing
    if str(column.type) in TEXTS:
        return nothing, [False] * len(column), column.to_pylist()
    raise UserError(
        f"{source} is of type {column.type}; images are needed as bytes or as names of files. Name "
        "another with data.image_column=..."
    )


def find_files(
    paths: Sequence[str | None], has_bytes: Sequence[bool], folders: Sequence[Path], home: Path, source: str
) -> tuple[list[str | None], list[int]]:
    """For each row without bytes the file that its path names in one of the folders, and the rows that
    have neither.

    Raises:
        UserError: when a path leads out of `home`.
    """
    real_home = os.path.realpath(home)
    files: list[str | None] = []
    missing: list[int] = []

    for row, path in enumerate(paths):
        if has_bytes[row]:
            files.append(None)
            continue
        # the first folder that has the file; an error names the first of all
        candidates = [os.path.join(folder, path) for folder in folders] if path else []
        found = next((name for name in candidates if os.path.isfile(name)), None)
        named = found or next(iter(candidates), None)
        if named is not None and not lies_within(real_home, named):
            raise UserError(
                f"{source}, row {row}: the image {path!r} lies outside the folder {home}; it is not "
                "opened. Put the images into the folder, and name them as they lie there."
            )
        if found is None:
            missing.append(row)
        files.append(found or named)
    return files, missing


def check_missing(missing: Sequence[int], paths: Sequence[str | None], folder: Path, source: str) -> None:
    """Stop at images that are neither in the table nor beside it.

    Raises:
        UserError: when there are any.
    """
    if not missing:
        return

    names = [shortened(paths[row]) for row in missing if paths[row]]
    if not names:
        which = f"{counted(len(missing), 'row')} without an image, like row {missing[0]}"
        raise UserError(
            f"{source} has {which}. Remove the rows, or leave them out with data.on_broken_image=skip."
        )

    raise UserError(
        f"{source} holds no images in {len(missing):,} of {counted(len(paths), 'row')}, only names of "
        f"files ({examples(names)}), which do not lie in {folder}. Put them there, write the images into "
        "the table as bytes, or name another column with data.image_column=..."
    )
