"""Texts in flat arrays: a million of them are three Python objects, which worker processes share.

A list of strings grows in every worker that reads it, since reading counts references and so copies the
page that a forked process shares with its parent.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class StringArray(Sequence[str]):
    """Strings, as places in one piece of UTF-8.

    Args:
        encoded: all strings, one behind the other.
        starts, ends: (N,) int64, first byte of each and the one after its last.
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
        pieces = [text.encode("utf-8", "surrogatepass") for text in strings]
        ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), dtype=np.int64)
        return cls(b"".join(pieces), np.concatenate([[0], ends[:-1]])[: len(ends)], ends)

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
        """Those at some places; the bytes are not copied."""
        return StringArray(self.encoded, self.starts[rows], self.ends[rows])


class StringListArray(Sequence[StringArray]):
    """Lists of strings: for each image its captions.

    Args:
        texts: all strings.
        starts, ends: (N,) int64, place of the first string of each list and the one after its last.
    """

    def __init__(self, texts: StringArray, starts: np.ndarray, ends: np.ndarray):
        self.texts = texts
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, lists: Iterable[Iterable[str]]) -> "StringListArray":
        """Pack lists of strings; what is packed already stays as it is."""
        if isinstance(lists, StringListArray):
            return lists
        own = [list(strings) for strings in lists]
        ends = np.cumsum(np.fromiter(map(len, own), np.int64, len(own)), dtype=np.int64)
        return cls(
            StringArray.of(chain.from_iterable(own)), np.concatenate([[0], ends[:-1]])[: len(ends)], ends
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> StringArray: ...
    @overload
    def __getitem__(self, index: slice) -> "StringListArray": ...
    def __getitem__(self, index: int | slice) -> "StringArray | StringListArray":
        if isinstance(index, slice):
            return StringListArray(self.texts, self.starts[index], self.ends[index])
        return self.texts[int(self.starts[index]) : int(self.ends[index])]

    @property
    def counts(self) -> np.ndarray:
        """Strings in each list, (N,) int64."""
        return self.ends - self.starts

    def select(self, rows: np.ndarray) -> "StringListArray":
        """The lists at some places; nothing is copied."""
        return StringListArray(self.texts, self.starts[rows], self.ends[rows])
