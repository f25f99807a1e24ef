"""A damaged checkpoint is told in one line, and never loads as anything but what was written."""

import io
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.errors import UserError
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from miniclip.training.digests import digests_of
from tests.conftest import ROOT

OF_A_RUN = ROOT / "tests" / "golden" / "run" / "checkpoints" / "last.pt"

PAGE = 4096

Damage = Callable[[bytes, random.Random], bytes]


def flipped_bit(data: bytes, chance: random.Random) -> bytes:
    return _flipped(data, chance.randrange(len(data)), chance)


def flipped_bit_of_a_tensor(data: bytes, chance: random.Random) -> bytes:
    start, size = chance.choice([place for name, *place in _members(data) if "/data/" in name])
    return _flipped(data, start + chance.randrange(size), chance)


def flipped_bit_of_the_rest(data: bytes, chance: random.Random) -> bytes:
    """Of the pickle, the version, the order of bytes."""
    start, size = chance.choice([place for name, *place in _members(data) if "/data/" not in name])
    return _flipped(data, start + chance.randrange(size), chance)


def flipped_bit_of_the_pickle(data: bytes, chance: random.Random) -> bytes:
    _, start, size = _members(data)[0]
    return _flipped(data, start + chance.randrange(size), chance)


def flipped_bit_of_a_header(data: bytes, chance: random.Random) -> bytes:
    """Of the names and lengths that stand before a member."""
    _, start, _ = chance.choice(_members(data))
    return _flipped(data, start - 1 - chance.randrange(64), chance)


def flipped_bit_of_the_directory(data: bytes, chance: random.Random) -> bytes:
    start = data.index(b"PK\x01\x02")
    return _flipped(data, chance.randrange(start, len(data)), chance)


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def zeroed_page(data: bytes, chance: random.Random) -> bytes:
    start = PAGE * chance.randrange(len(data) // PAGE)
    return data[:start] + bytes(PAGE) + data[start + PAGE :]


def swapped_pages(data: bytes, chance: random.Random) -> bytes:
    pages = [data[start : start + PAGE] for start in range(0, len(data), PAGE)]
    first, second = chance.sample(range(len(pages)), 2)
    pages[first], pages[second] = pages[second], pages[first]
    return b"".join(pages)


def repeated_page(data: bytes, chance: random.Random) -> bytes:
    """All behind it is shifted."""
    start = PAGE * chance.randrange(len(data) // PAGE)
    return data[: start + PAGE] + data[start:]


def junk_around(data: bytes, chance: random.Random) -> bytes:
    junk = chance.randbytes(chance.randrange(1, 2 * PAGE))
    return junk + data if chance.random() < 0.5 else data + junk


def another_file(data: bytes, chance: random.Random) -> bytes:
    """A picture, text, an empty archive, a pickle, or noise."""
    beginning = chance.choice(
        (b"", b"\x89PNG\r\n\x1a\n", b"{}", b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00.")
    )
    return beginning + chance.randbytes(chance.choice((0, 10, PAGE)))


def swapped_tensors(data: bytes, chance: random.Random) -> bytes:
    """Two tensors of one size under each other's name; every checksum of the archive is right."""
    contents = _contents(data)
    by_size: dict[int, list[str]] = {}
    for name, content in contents.items():
        if "/data/" in name and sum(content == other for other in contents.values()) == 1:
            by_size.setdefault(len(content), []).append(name)

    first, second = chance.sample(chance.choice([names for names in by_size.values() if len(names) > 1]), 2)
    return _archive(contents | {first: contents[second], second: contents[first]})


def tensor_of_another_checkpoint(data: bytes, chance: random.Random) -> bytes:
    """One that training has changed; every checksum of the archive is right."""
    contents = _contents(data)
    name = chance.choice(
        [name for name, content in contents.items() if "/data/" in name and len(content) > 8]
    )
    return _archive(contents | {name: chance.randbytes(len(contents[name]))})


DAMAGES: tuple[Damage, ...] = (
    flipped_bit,
    flipped_bit_of_a_tensor,
    flipped_bit_of_the_rest,
    flipped_bit_of_the_pickle,
    flipped_bit_of_a_header,
    flipped_bit_of_the_directory,
    truncated,
    zeroed_page,
    swapped_pages,
    repeated_page,
    junk_around,
    another_file,
    swapped_tensors,
    tensor_of_another_checkpoint,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as runs write it today."""
    path = tmp_path_factory.mktemp("written") / "last.pt"
    save_checkpoint(path, load_checkpoint(OF_A_RUN))
    return path


def test_no_damage_loads_as_something_else(written: Path, tmp_path: Path) -> None:
    _damage(written, tmp_path / "last.pt", num_of_each=7)


@pytest.mark.long
def test_no_damage_out_of_a_thousand_loads_as_something_else(written: Path, tmp_path: Path) -> None:
    _damage(written, tmp_path / "last.pt", num_of_each=72)


def _damage(written: Path, path: Path, *, num_of_each: int) -> None:
    """Load a file damaged in each way so many times; print what came of it."""
    chance = random.Random(num_of_each)
    data, expected = written.read_bytes(), digests_of(load_checkpoint(written))
    outcomes: Counter[str] = Counter()
    for damage in DAMAGES:
        for _ in range(num_of_each):
            path.write_bytes(damage(data, chance))
            outcome = _load(path, expected)
            assert outcome in ("refused", "unchanged"), (damage.__name__, outcome)
            outcomes[outcome] += 1

    print(
        f"{outcomes.total()} damaged checkpoints: {outcomes['refused']} told in one line, "
        f"{outcomes['unchanged']} without harm, 0 loaded wrong, 0 tracebacks"
    )
    assert outcomes["refused"] > 0.6 * outcomes.total()


def _load(path: Path, expected: dict[str, str]) -> str:
    """What comes of loading a file."""
    try:
        content = load_checkpoint(path)
    except UserError as error:
        is_told = "\n" not in str(error) and str(path) in str(error)
        return "refused" if is_told else f"told as {error}"
    except Exception as error:
        return f"a traceback: {error!r}"
    return "unchanged" if digests_of(content) == expected else "loaded wrong"


def test_a_tensor_that_repeats_one_number_takes_no_memory(written: Path, tmp_path: Path) -> None:
    content = torch.load(written, weights_only=True)
    content["random_state"]["cuda"] = [torch.zeros(1).expand(10**13)]
    torch.save(content, tmp_path / "huge.pt")
    with pytest.raises(UserError, match="larger than its memory"):
        load_checkpoint(tmp_path / "huge.pt")


def _flipped(data: bytes, place: int, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _members(data: bytes) -> list[tuple[Any, ...]]:
    """Name, place and size of each member's bytes; the pickle is the first."""
    members = []
    for member in zipfile.ZipFile(io.BytesIO(data)).infolist():
        lengths = data[member.header_offset + 26 : member.header_offset + 30]
        header = 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        if member.file_size:
            members.append((member.filename, member.header_offset + header, member.file_size))
    return members


def _contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()
