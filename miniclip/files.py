"""Files of a run: replaced whole, and never reached through a link that leads out of its folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from miniclip.errors import UserError


def within(folder: Path, name: str) -> Path:
    """`folder / name`, which may or may not exist; links are followed inside the folder only.

    A folder that came from somebody else may hold a link in the place of any of its files, which would be
    read, or written, in its stead.

    Raises:
        UserError: when a link leads out of the folder.
    """
    path = folder / name
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path} is a link out of its folder, to {real}; it is not followed. Remove it.")
    return path


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A new file that takes the place of `path` when the context ends well, else leaves no trace.

    It is always made anew: a link that lies in the place of either file is replaced, not followed.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(partial, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
