"""Tables as sources: those that name files, and those that hold the images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from miniclip.deploy.index import Index, open_source
from miniclip.deploy.index.contact_sheet import draw_sheet
from miniclip.errors import BrokenImage, UserError
from tests.conftest import ROOT
from tests.deploy.index.conftest import assert_holds, expected_vectors, vectors_by_name
from tests.deploy.index.projection import embed


def titles_of(folder: Path) -> dict[str, str | None]:
    """The titles of all images of an index."""
    index = Index(folder)
    queries = next(iter(vectors_by_name(folder).values()))[None]
    return {str(entry): entry.title for entry in index.search(queries, k=100).entries[0]}


def test_a_table_names_files_and_their_titles(photos: Path, tmp_path: Path) -> None:
    table = photos / "table.csv"
    table.write_text("image,title\n1.png,a dog\n3.png,a cat\n1.png,another\nmissing.png,x\n")
    changes = embed(tmp_path / "index", table)
    expected = {str(photos / "1.png"): "a dog", str(photos / "3.png"): "a cat"}
    assert titles_of(tmp_path / "index") == expected and "missing" in str(changes.broken)

    table.write_text("image,title\n1.png,a wolf\n")
    changes = embed(tmp_path / "index", table)
    assert (changes.embedded, changes.removed) == (0, 1)
    assert titles_of(tmp_path / "index") == {str(photos / "1.png"): "a wolf"}


def write_rows(table: Path, files: list[Path | None]) -> None:
    """A Parquet file that holds images, two rows in a group."""
    images = [{"bytes": file and file.read_bytes(), "path": None} for file in files]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    titles = [file and file.stem for file in files]
    columns = pyarrow.table({"image": pyarrow.array(images, kind), "title": titles})
    pyarrow.parquet.write_table(columns, table, row_group_size=2)


def test_a_table_holds_images(photos: Path, tmp_path: Path) -> None:
    table, folder = tmp_path / "rows.parquet", tmp_path / "index"
    files = sorted(photos.rglob("*.png"))[:5]
    write_rows(table, files)
    assert embed(folder, table).new == 5
    assert titles_of(folder) == {f"{table}, row {row}": file.stem for row, file in enumerate(files)}
    for entry in Index(folder).search(vectors_by_name(folder)[f"{table}, row 3"][None]).entries[0]:
        assert entry.row is not None and entry.content() == files[entry.row].read_bytes()
    assert (embed(folder, table).unchanged, embed(folder, table).embedded) == (5, 0)

    write_rows(table, [*files[1:], None])
    changes = embed(folder, table)
    assert (changes.embedded, changes.copied, len(changes.broken)) == (0, 4, 1)


def test_another_column_of_a_table_is_read_anew(photos: Path, tmp_path: Path) -> None:
    table, folder = tmp_path / "rows.parquet", tmp_path / "index"
    files = sorted(photos.rglob("*.png"))[:4]
    front, back = ([file.read_bytes() for file in part] for part in (files[:2], files[2:]))
    names = [str(file.relative_to(tmp_path)) for file in files[:2]]
    pyarrow.parquet.write_table(pyarrow.table({"image": front, "back": back, "name": names}), table)

    embed(folder, table)
    embed(folder, table, image_column="back")
    expected = expected_vectors(photos)
    assert_holds(folder, {f"{table}, row {row}": expected[str(file)] for row, file in enumerate(files[2:])})

    # a column of names makes of the same table one of files
    embed(folder, table, image_column="name")
    assert_holds(folder, {str(file): expected[str(file)] for file in files[:2]})


@pytest.mark.parametrize("columns", [{"other": [b""] * 4}, {"image": [1, 2, 3, 4]}, {"image": [b""]}, None])
def test_rows_of_a_table_that_is_another_now_are_told(
    columns: dict | None, photos: Path, tmp_path: Path
) -> None:
    table, folder = tmp_path / "rows.parquet", tmp_path / "index"
    write_rows(table, sorted(photos.rglob("*.png"))[:4])
    embed(folder, table)
    found = Index(folder).search(np.ones((1, 24), np.float32), k=4)
    if columns is None:
        table.write_bytes(b"no parquet")
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), table)

    (last,) = [entry for entry in found.entries[0] if entry.row == 3]
    with pytest.raises(BrokenImage, match=r"row 3 (is missing|cannot be read)"):
        last.content()
    draw_sheet(["a query"], found, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_a_damaged_page_of_a_table_is_one_line(photos: Path, tmp_path: Path) -> None:
    table, folder = tmp_path / "rows.parquet", tmp_path / "index"
    write_rows(table, sorted(photos.rglob("*.png"))[:4])
    embed(folder, table)
    (entry, *_) = Index(folder).search(np.ones((1, 24), np.float32), k=1).entries[0]
    content = table.read_bytes()
    table.write_bytes(content[:4] + b"\xff" * (len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(BrokenImage, match="cannot be read") as why:
        entry.content()
    assert "\n" not in str(why.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "file_of_it,title\nx,y\n", "--image-column"),
        ("a.csv", "image,title\n", "names no images"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.zip", "no table", "neither a folder of images nor a table"),
        ("a.csv", "image,title\n../b.png,y\n", "lies outside"),
    ],
)
def test_a_bad_table_is_told(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_of_tables_is_told_to_name_them(photos: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", sorted(photos.rglob("*.png"))[:1])
    (photos.parent / "tables").mkdir()
    (tmp_path / "rows.parquet").rename(tmp_path / "tables" / "rows.parquet")
    with pytest.raises(UserError, match=r"holds no images\. It holds tables; name these: .*rows\.parquet"):
        open_source(tmp_path / "tables")


def test_an_index_is_searched_without_torch() -> None:
    script = "import sys, miniclip.deploy.index, miniclip.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
