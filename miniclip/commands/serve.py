"""Serve a page and a JSON API that search indexes of images.

The page is for this machine alone. On any other --host every request needs a token: --token, or
MINICLIP_TOKEN in the environment, or one that is made and printed once.
"""

import argparse
import importlib.util
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.commands.models import MODEL_HELP, ROOT_HELP, load_model_of_index, tell_of_closed_places
from miniclip.errors import SettingError, UserError, in_range
from miniclip.files import typed_path

if TYPE_CHECKING:
    from miniclip.deploy.server import Searcher

EXAMPLES = """\
  miniclip serve index
  miniclip serve index_small index_large --port 9000
  MINICLIP_TOKEN=... miniclip serve index --host 0.0.0.0
  curl -F text="a dog" -F k=5 http://127.0.0.1:8000/search
"""

MAX_INDEXES = 2
"""That the page shows side by side."""

MIN_TOKEN = 8

NUM_WORKERS = 2
"""Requests that embed or search at a time; they share the processors."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""By which torch and NumPy are told how many threads one of their operations takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Indexes, and where they are served."""
    parser.add_argument(
        "indexes", nargs="+", type=typed_path, metavar="INDEX", help="one, or two to compare"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any (8000)")
    parser.add_argument("--token", help="what requests must bring; others see it in the list of processes")
    parser.add_argument(
        "--model",
        type=typed_path,
        action="append",
        default=[],
        help=f"{MODEL_HELP}; once per INDEX",
    )
    parser.add_argument("--root", type=typed_path, action="append", default=[], help=ROOT_HELP)


def run(arguments: argparse.Namespace) -> None:
    """Load the models, and answer until a signal."""
    _check_extra()
    num_threads = _threads_per_request()
    from miniclip.deploy import server

    _check(arguments)
    is_loopback = server.is_loopback(arguments.host)
    token = _token(arguments.token, is_loopback)

    with server.listen(arguments.host, arguments.port) as listener:
        try:
            searchers = _searchers(arguments.indexes, arguments.model, arguments.root, num_threads)
        except KeyboardInterrupt:
            raise UserError("Stopped before it served anything.") from None
        access = server.Access(is_loopback, token)
        app = server.create_app(searchers, access=access, limits=server.Limits(num_workers=NUM_WORKERS))
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"http://{host}:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
        server.serve(app, listener)


def _check_extra() -> None:
    """Stop where a package of the extra is missing."""
    for name in ("fastapi", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(name) is None:
            package = name.replace("_", "-")
            raise UserError(f'miniclip serve needs {package}: pip install -e ".[serve]"')


def _threads_per_request() -> int:
    """Share the processors among requests that run at a time: a thread that waits for one holds up all.

    Set before NumPy and torch are imported, which look at it then. What the user has set stays.
    """
    num_threads = max(1, (os.cpu_count() or 1) // NUM_WORKERS)
    for name in THREAD_SETTINGS:
        os.environ.setdefault(name, str(num_threads))
    return num_threads


def _check(arguments: argparse.Namespace) -> None:
    in_range("--port", arguments.port, 0, 65_535)
    if len(arguments.indexes) > MAX_INDEXES:
        raise UserError(f"The page shows up to {MAX_INDEXES} indexes; {len(arguments.indexes)} are given.")
    if arguments.model and len(arguments.model) != len(arguments.indexes):
        raise UserError("Give --model once per INDEX, in their order, or not at all.")


def _token(given: str | None, is_loopback: bool) -> str | None:
    """The token, made where one is needed; None for none."""
    token = given if given is not None else os.environ.get("MINICLIP_TOKEN")
    if token is None and not is_loopback:
        token = secrets.token_urlsafe(24)
        print(f"token: {token}", flush=True)
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise SettingError("--token", "***", f"must be {MIN_TOKEN} or more printable ASCII characters")
    return token


def _searchers(
    indexes: list[Path], models: list[Path], roots: list[Path], num_threads: int
) -> "list[Searcher]":
    """Each index with its model.

    Args:
        roots: see `Index`.
        num_threads: see `load_model`.

    Raises:
        UserError: when a folder is no index, or a model is gone or not that of its index.
    """
    from miniclip.deploy.index import Index, check_model
    from miniclip.deploy.server import Searcher

    searchers: list[Searcher] = []
    for number, folder in enumerate(indexes):
        index = Index(folder, in_memory=True, roots=roots)
        tell_of_closed_places(index)
        facts = index.facts
        given = models[number] if models else None
        model = load_model_of_index(index, given, num_threads=num_threads)
        check_model(folder, facts, model)

        name = folder.absolute().name
        is_taken = any(searcher.name == name for searcher in searchers)
        searchers.append(Searcher(f"{name} (2)" if is_taken else name, index, model))
    return searchers
