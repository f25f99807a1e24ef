"""Files of other machines, read through fsspec: what they are, and pieces of them."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from miniclip.data.shards.index import Stamp
from miniclip.errors import UserError, first_line, without_secrets

log = logging.getLogger(__name__)

Found = TypeVar("Found")

TRIES = 6
"""In a row without a byte, before a file counts as out of reach."""

WAIT_SECONDS = 0.5
"""After the first failure; twice as long after each further one."""

SILENT_SECONDS = 30.0
"""A connection that says nothing for so long is dropped."""

TAGS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "last_modified")
"""Where the packages of fsspec's say what tells one state of a file from another."""

REFUSALS = (400, 401, 403, 404, 405, 410)
"""Answers of HTTP that stay the same."""

UNSIGNED = ("NoCredentialsError", "PartialCredentialsError")
"""Errors of botocore where nobody is signed in."""

EXTRA = {"http": "shards", "https": "shards", "s3": "shards"}
"""Which extra reads a protocol."""


class OutOfReach(UserError):
    """A remote file cannot be read.

    Attributes:
        is_missing: whether it is not there, or not for us; else the way to it is broken.
    """

    def __init__(self, text: str, *, is_missing: bool):
        super().__init__(text)
        self.is_missing = is_missing

    def __reduce__(self) -> tuple[Callable[..., "OutOfReach"], tuple[str, bool]]:
        return _out_of_reach, (str(self), self.is_missing)


def facts_of(url: str) -> Stamp:
    """Size and state of a remote file.

    Raises:
        OutOfReach: when it is missing, or does not say its size.
    """
    info = persistently(url, lambda system, path: system.info(path))
    if not info.get("size"):
        raise OutOfReach(f"{url} does not say how large it is, or is empty.", is_missing=True)
    tag = next((info[name] for name in TAGS if info.get(name)), "")
    return Stamp(int(info["size"]), str(tag))


def all_fitting(pattern: str) -> list[str]:
    """The remote files that fit a pattern, in order."""
    found = persistently(pattern, lambda system, path: system.glob(path))
    protocol = pattern.partition("://")[0]
    return sorted(place if "://" in place else f"{protocol}://{place}" for place in found)


def piece(url: str, start: int, end: int) -> bytes:
    """Some bytes of a remote file; fewer where the connection ends early.

    Raises:
        Exception: of whatever type the packages of fsspec's raise.
    """
    system, path = _file_system(url)
    content: bytes = system.cat_file(path, start=start, end=end)
    # a server that knows no ranges sends all of it
    return content[start:end] if len(content) > end - start else content


def persistently(url: str, action: Callable[[Any, str], Found]) -> Found:
    """What an action on the file system and path of an address gives, which is tried several times.

    Raises:
        OutOfReach: when it does not succeed.
    """
    system, path = _file_system(url)
    for failures in range(1, TRIES + 1):
        try:
            return action(system, path)
        except Exception as error:  # the packages below share no type
            give_up_or_wait(url, error, failures)
    raise AssertionError("the last failure raises")


def give_up_or_wait(url: str, error: Exception, failures: int) -> None:
    """Wait before the next try.

    Raises:
        OutOfReach: when there is none: the file is missing, or this was the last one.
    """
    reason = without_secrets(first_line(error))
    if _is_refusal(error):
        text = f"The shard {url} is not there, or not for you ({reason})."
        raise OutOfReach(f"{text} Check data.urls, and how you sign in.", is_missing=True) from None
    if failures >= TRIES:
        text = f"The shard {url} cannot be read ({reason}), tried {TRIES} times. Check the connection."
        raise OutOfReach(text, is_missing=False) from None

    log.debug("%s: %s, try %d of %d", url, reason, failures, TRIES)
    time.sleep(WAIT_SECONDS * 2 ** (failures - 1))


def _is_refusal(error: BaseException) -> bool:
    """Whether a further try would be answered alike."""
    if isinstance(error, FileNotFoundError | PermissionError):
        # fsspec calls a broken connection a missing file, too
        return error.__cause__ is None or _is_refusal(error.__cause__)
    return _status(error) in REFUSALS or type(error).__name__ in UNSIGNED


def _status(error: BaseException) -> int:
    """What HTTP answered, as aiohttp says it, or as botocore does for s3://; 0 without an answer."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        answered = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    else:
        answered = getattr(error, "status", 0)
    return int(answered or 0)


def _file_system(url: str) -> tuple[Any, str]:
    """What reads an address, made anew in each process, and the path in it.

    Raises:
        UserError: when a package is missing.
    """
    import fsspec

    protocol = url.partition("://")[0].lower()
    try:
        settings = _http_settings() if protocol in ("http", "https") else {}
        system, path = fsspec.core.url_to_fs(url, **settings)
    except ImportError as error:
        extra = EXTRA.get(protocol)
        needed = f'pip install -e ".[{extra}]"' if extra else str(error)
        raise UserError(f"data=shards needs a package for {protocol}://: {needed}") from None
    return system, path


def _http_settings() -> dict[str, Any]:
    import aiohttp

    # the time for all of a large file is not limited
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": timeout}}


def _out_of_reach(text: str, is_missing: bool) -> OutOfReach:
    return OutOfReach(text, is_missing=is_missing)
