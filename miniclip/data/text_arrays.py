"""Texts in flat arrays: a million of them are three Python objects, which worker processes share.

A list of strings grows in every worker that reads it, since reading counts references and so copies the
page that a forked process shares with its parent.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np

from miniclip.errors import UserError


class StringArray(Sequence[str]):
    """Strings, as places in one piece of UTF-8.

    Args:
        encoded: all strings, one behind the other.
        starts, ends: (N,) int64, first byte of each string and the one after its last.
    """

    def __init__(self, encoded: bytes, starts: np.ndarray, ends: np.ndarray):
        self.encoded = encoded
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "StringArray":
        """Pack strings; what is packed already stays as it is."""
        if isinstance(strings, StringArray):
            return strings
        # captions may hold half a character, which plain UTF-8 refuses
        pieces = [text.encode("utf-8", "surrogatepass") for text in strings]
        return cls(b"".join(pieces), *_bounds(pieces))

    @classmethod
    def joined(cls, arrays: Sequence["StringArray"]) -> "StringArray":
        """The strings of all arrays, one array behind the other."""
        shifts = _bounds([array.encoded for array in arrays])[0]
        starts = [array.starts + shift for array, shift in zip(arrays, shifts, strict=True)]
        ends = [array.ends + shift for array, shift in zip(arrays, shifts, strict=True)]
        encoded = b"".join(array.encoded for array in arrays)
        return cls(encoded, _concatenated(starts), _concatenated(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "StringArray": ...
    def __getitem__(self, index: int | slice) -> "str | StringArray":
        if isinstance(index, slice):
            return StringArray(self.encoded, self.starts[index], self.ends[index])
        return self.encoded[self.starts[index] : self.ends[index]].decode("utf-8", "surrogatepass")

    def select(self, rows: np.ndarray) -> "StringArray":
        """The strings at some places; the bytes are not copied."""
        return StringArray(self.encoded, self.starts[rows], self.ends[rows])


class StringListArray(Sequence[StringArray]):
    """Lists of strings: for each image its captions.

    Args:
        strings: those of all lists, also of lists that were not selected.
        starts, ends: (N,) int64, place of the first string of each list and the one after its last.
    """

    def __init__(self, strings: StringArray, starts: np.ndarray, ends: np.ndarray):
        self.strings = strings
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, lists: Iterable[Iterable[str]]) -> "StringListArray":
        """Pack lists of strings; what is packed already stays as it is.

        Raises:
            UserError: when one is a string, which would be a list of its letters.
        """
        if isinstance(lists, StringListArray):
            return lists
        unpacked = [_strings_in(strings) for strings in lists]  # once, since they may be generators
        return cls(StringArray.of(chain.from_iterable(unpacked)), *_bounds(unpacked))

    @classmethod
    def joined(cls, arrays: Sequence["StringListArray"]) -> "StringListArray":
        """The lists of all arrays, one array behind the other."""
        shifts = _bounds([array.strings for array in arrays])[0]
        starts = [array.starts + shift for array, shift in zip(arrays, shifts, strict=True)]
        ends = [array.ends + shift for array, shift in zip(arrays, shifts, strict=True)]
        strings = StringArray.joined([array.strings for array in arrays])
        return cls(strings, _concatenated(starts), _concatenated(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> StringArray: ...
    @overload
    def __getitem__(self, index: slice) -> "StringListArray": ...
    def __getitem__(self, index: int | slice) -> "StringArray | StringListArray":
        if isinstance(index, slice):
            return StringListArray(self.strings, self.starts[index], self.ends[index])
        return self.strings[int(self.starts[index]) : int(self.ends[index])]

    @property
    def counts(self) -> np.ndarray:
        """Number of strings in each list, (N,) int64."""
        return self.ends - self.starts

    def flat(self) -> Iterator[str]:
        """The strings of all lists, one list behind the other."""
        return chain.from_iterable(self)

    def select(self, rows: np.ndarray) -> "StringListArray":
        """The lists at some places; nothing is copied."""
        return StringListArray(self.strings, self.starts[rows], self.ends[rows])


def _strings_in(strings: Iterable[str]) -> list[str]:
    if isinstance(strings, str):
        raise UserError(f"{strings[:50]!r} stands where a list of captions should: put it into one, [...].")
    return list(strings)


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])


def _bounds(
    parts: Sequence[bytes] | Sequence[list[str]] | Sequence[StringArray],
) -> tuple[np.ndarray, np.ndarray]:
    """Where each of N parts starts and ends when one stands behind the other, (N,) int64 both."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    ends = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths, ends
