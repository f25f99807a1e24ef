"""A limit on the size of files, which fails as a full disk does, at an instant of the tests' choice."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

resource = pytest.importorskip("resource", reason="limits on files are POSIX's")


def limit_files(num_bytes: int) -> None:
    """Let no file of this process grow beyond so many bytes; writing more is an error."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The same within a context."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(num_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
