"""The console of every command: what it shows, and how it tells an error."""

import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from miniclip.config.compose import what_is_wrong
from miniclip.disk_errors import disk_error_behind, disk_errors_told
from miniclip.errors import UserError, visible, without_secrets
from miniclip.renamed import renamed_words

BROKEN_PIPE = 128 + 13
"""Exit status of a command whose reader has gone: SIGPIPE, which Windows does not name."""

INTERRUPTED = 128 + 2
"""Exit status after Ctrl-C: SIGINT."""

MOVE_OF_BAR = re.compile(r"\r(?!\n)|\n*(\x1b\[A)+\Z")
"""How a progress bar begins its line anew, or moves among several."""


@contextmanager
def console() -> Iterator[None]:
    """A console that shows what it can and ends nothing, whatever its letters and whoever still reads.

    What it cannot show, and what a terminal would obey, is escaped; a stream that was closed takes all and
    keeps nothing; a reader that has gone (`| head -1`) ends a command in silence, but not a training.
    """
    sys.excepthook = _print_traceback
    logging.raiseExceptions = False  # a message that cannot be written is no reason for pages of others
    tell_of_thread, threading.excepthook = threading.excepthook, _tell_of_thread
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # they stay until the process ends, as Python prints the text of a SystemExit at last
    sys.stdout, sys.stderr = _VisibleText.over(sys.stdout), _VisibleText.over(sys.stderr)

    try:
        yield
    except BrokenPipeError:
        sys.exit(BROKEN_PIPE)
    finally:
        threading.excepthook = tell_of_thread
        _flush()


@contextmanager
def one_line_errors(words: Sequence[str], options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What a user can fix, and Ctrl-C, end the command with one line.

    Args:
        words: all that was typed, by which a wrong one is explained.
        options: the command's own by their names, of which those that take less memory are told.
    """
    try:
        with disk_errors_told(unnamed="A file, or the standard output"):
            os.getcwd()  # without a current folder torch ends the process in words of its own
            yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {what_is_wrong(error, words)}")
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        # brings torch, which has raised it or is there, too
        from miniclip.commands.out_of_memory import is_out_of_memory, wanted

        if not is_out_of_memory(error):
            raise
        advice = _less_memory(options or {}, of_gpu=type(error).__name__ == "OutOfMemoryError")
        sys.exit(" ".join(["Error:", wanted(error), *advice]))


def _less_memory(options: Mapping[str, Any], *, of_gpu: bool) -> list[str]:
    """Sentences on the options that take less memory; none for a command that has no such option.

    Args:
        of_gpu: whether a GPU's memory has run out, and not the computer's.
    """
    advice = []
    if options.get("batch_size", 1) > 1:
        advice.append(f"Take a smaller --batch-size ({options['batch_size']} now).")
    if of_gpu and options.get("device", "cpu") != "cpu":
        advice.append("Name another device: --device cpu takes the computer's memory.")
    return advice


def with_new_names(words: Sequence[str]) -> list[str]:
    """What was typed, with today's names in place of old ones, each of which is told."""
    new_words, lines = renamed_words(words)
    for line in lines:
        print(line, file=sys.stderr)
    return new_words


def let_waiting_threads_sleep() -> None:
    """Keep two runs on a machine from all but stopping each other; to be called before torch is imported.

    Threads of libgomp, which torch brings on Linux, wait in a loop. After this many turns they sleep.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


class _VisibleText:
    """A stream that shows what a terminal would obey, but for the moves of progress bars.

    Text out of run directories, checkpoints, tables and indexes of strangers is printed in many places; all
    of it passes here.

    Args:
        stream: takes the text; all but writing is its own.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    @classmethod
    def over(cls, stream: TextIO) -> Any:
        """Lay it over a stream, once."""
        return stream if isinstance(stream, cls) else cls(stream)

    def write(self, text: str) -> int:
        move = MOVE_OF_BAR.match(text)
        begin = move.end() if move else 0
        self._stream.write(text[:begin] + visible(text[begin:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, without passwords and the environment's keys."""
    lines = traceback.format_exception(kind, error, trace)
    print(without_secrets("".join(lines)), end="", file=sys.stderr)


def _nowhere() -> io.TextIOWrapper:
    return io.TextIOWrapper(open(os.devnull, "wb"), encoding="utf-8")


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    """What ended a thread; the disk's errors are told by those who wait for its work."""
    if ended.exc_value is None or disk_error_behind(ended.exc_value) is None:
        threading.__excepthook__(ended)


def _flush() -> None:
    """Write what is left, or drop it: Python would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
