"""Texts in flat arrays: a million of them are three Python objects, which worker processes share.

A list of strings grows in every worker that reads it, since reading counts references and so copies the
page that a forked process shares with its parent.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class Texts(Sequence[str]):
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
    def of(cls, strings: Iterable[str]) -> "Texts":
        """Pack strings; what is packed already stays as it is."""
        if isinstance(strings, Texts):
            return strings
        pieces = [text.encode("utf-8", "surrogatepass") for text in strings]
        ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), dtype=np.int64)
        return cls(b"".join(pieces), np.concatenate([[0], ends[:-1]])[: len(ends)], ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return Texts(self.encoded, self.starts[index], self.ends[index])
        return self.encoded[self.starts[index] : self.ends[index]].decode("utf-8", "surrogatepass")

    def select(self, rows: np.ndarray) -> "Texts":
        """Those at some places; the bytes are not copied."""
        return Texts(self.encoded, self.starts[rows], self.ends[rows])


class TextLists(Sequence[Texts]):
    """Lists of strings: for each image its captions.

    Args:
        texts: all strings.
        starts, ends: (N,) int64, place of the first string of each list and the one after its last.
    """

    def __init__(self, texts: Texts, starts: np.ndarray, ends: np.ndarray):
        self.texts = texts
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, lists: Iterable[Iterable[str]]) -> "TextLists":
        """Pack lists of strings; what is packed already stays as it is."""
        if isinstance(lists, TextLists):
            return lists
        own = [list(strings) for strings in lists]
        ends = np.cumsum(np.fromiter(map(len, own), np.int64, len(own)), dtype=np.int64)
        return cls(Texts.of(chain.from_iterable(own)), np.concatenate([[0], ends[:-1]])[: len(ends)], ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Texts: ...
    @overload
    def __getitem__(self, index: slice) -> "TextLists": ...
    def __getitem__(self, index: int | slice) -> "Texts | TextLists":
        if isinstance(index, slice):
            return TextLists(self.texts, self.starts[index], self.ends[index])
        return self.texts[int(self.starts[index]) : int(self.ends[index])]

    @property
    def counts(self) -> np.ndarray:
        """Strings in each list, (N,) int64."""
        return self.ends - self.starts

    def select(self, rows: np.ndarray) -> "TextLists":
        """The lists at some places; nothing is copied."""
        return TextLists(self.texts, self.starts[rows], self.ends[rows])
