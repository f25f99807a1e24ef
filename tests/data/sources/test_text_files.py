"""Text files: encodings that are read, and how another one is named."""

from pathlib import Path

import pytest

from miniclip.data.sources.text_files import read_text
from miniclip.errors import UserError

TEXT = "a café\nein Hündchen 犬\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_that_say_what_they_are(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


def test_utf_16_of_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\nb\ncaf\xe9\n", r"t.txt, line 3: byte 4 \(0xe9\) is no UTF-8.*iconv -f latin1 -t utf-8"),
        (b"a\n" * 50_000 + b"\xfc", "line 50001: byte 1"),
        ("a\nb".encode("utf-16-le"), "line 1: holds a NUL byte.*Save it as UTF-8"),
        ("ab".encode("utf-16")[:-1], "begins like UTF-16"),
    ],
)
def test_another_encoding_is_one_clear_error(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_text(path)


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)
