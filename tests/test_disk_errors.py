"""What the system refuses is one line that names the file, the reason and a way out."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from miniclip.disk_errors import DiskError, disk_error_behind, disk_errors_told, naming
from miniclip.errors import UserError
from miniclip.files import append, overwrite, replacing, write_text
from tests.reliability.limits import largest_file


def told(error: Exception) -> str:
    """The line that an error becomes."""
    with pytest.raises(DiskError) as raised, disk_errors_told("Go on."):
        raise error
    return str(raised.value)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "no space left on device. Make room on that disk. Go on."),
        (errno.EDQUOT, "disk quota exceeded. Make room within your quota there. Go on."),
        (errno.EROFS, "read-only file system. Make it writable, or choose another place. Go on."),
        (errno.EACCES, "permission denied. Get the right to it, or choose another place. Go on."),
        (errno.EFBIG, "file too large. Lift the limit on the size of files (ulimit -f). Go on."),
    ],
)
def test_an_error_names_the_file_the_reason_and_a_way_out(number: int, way_out: str) -> None:
    assert told(OSError(number, os.strerror(number), "/runs/a.json")) == f"/runs/a.json: {way_out}"


def test_a_vanished_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=f"Its folder is gone: {tmp_path}/run"), disk_errors_told():
        append(tmp_path / "run" / "metrics.jsonl", "{}")


def test_an_unnamed_file_gets_the_name_that_its_writer_knows() -> None:
    nameless = OSError(errno.ENOSPC, "No space left on device")
    assert told(nameless).startswith("A file: no space")
    with pytest.raises(OSError, match=r"/runs/a\.json"), naming(Path("/runs/a.json")):
        raise nameless


def test_other_errors_stay_as_they_are() -> None:
    others = (ValueError("a"), UserError("b"), ConnectionRefusedError(111, "c"), BrokenPipeError(32, "d"))
    for error in others:
        with pytest.raises(type(error)) as raised, disk_errors_told():
            raise error
        assert raised.value is error


def test_an_error_while_a_missing_file_was_handled_is_no_disk_error() -> None:
    try:
        try:
            Path("/no/such/file").read_bytes()
        except FileNotFoundError:
            raise KeyError("a bug")  # noqa: B904
    except KeyError as error:
        assert disk_error_behind(error) is None


def test_what_torch_hides_is_found_and_named(tmp_path: Path) -> None:
    """Its writer fails once more as it is closed, and tells that alone."""
    path = tmp_path / "last.pt"
    with pytest.raises(DiskError, match=r"last\.pt: file too large"), disk_errors_told():  # noqa: SIM117
        with largest_file(10_000), replacing(path, "wb") as file:
            torch.save({"weights": torch.zeros(100_000)}, file)
    assert not list(tmp_path.iterdir())


def test_the_former_file_stays_where_a_new_one_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "first")
    with pytest.raises(OSError, match="too large"), largest_file(1000):
        write_text(path, "x" * 2000)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, "first")
    with pytest.raises(OSError, match=f"too large: '{path}'"), largest_file(100):
        append(path, "x" * 200)
    assert path.read_bytes() == b"first\n"
    append(path, "second")
    assert path.read_bytes() == b"first\nsecond\n"


@pytest.mark.parametrize("torn", ['{"step": 2, "tra', "x" * 10_000])
def test_a_torn_line_is_cut_off_before_the_next(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"first\n{torn}")
    append(path, "second")
    assert path.read_bytes() == b"first\nsecond\n"

    path.write_text(torn)
    append(path, "second")
    assert path.read_bytes() == b"second\n"


def test_a_line_is_written_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever reads meanwhile, and a process that is killed, has it whole or not at all."""
    sizes = []
    write = io.FileIO.write

    class Counted(io.FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            sizes.append(len(content))
            return write(self, content)

    monkeypatch.setattr("miniclip.files.open", lambda path, mode, **_: Counted(path, "a+"), raising=False)
    append(tmp_path / "a", "x" * 100_000)
    assert sizes == [100_001]


def test_a_file_name_that_is_no_utf8_is_written_as_json_reads_it(tmp_path: Path) -> None:
    append(tmp_path / "a", '"\udcff.jpg"')
    assert (tmp_path / "a").read_bytes() == b'"\\udcff.jpg"\n'


def test_a_file_is_overwritten_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("a longer text")
    before = path.stat().st_ino
    overwrite(path, "short")
    assert path.read_text() == "short" and path.stat().st_ino == before
