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

from miniclip.commands.models import load_model_of_index
from miniclip.errors import SettingError, UserError, in_range

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Indexes, and where they are served."""
    parser.add_argument("indexes", nargs="+", type=Path, metavar="INDEX", help="one, or two to compare")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any (8000)")
    parser.add_argument("--token", help="what requests must bring; others see it in the list of processes")
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        default=[],
        help="where an index's model lies now; once per INDEX",
    )


def run(arguments: argparse.Namespace) -> None:
    """Load the models, and answer until a signal."""
    _check_extra()
    from miniclip.deploy import server

    _check(arguments)
    is_loopback = server.is_loopback(arguments.host)
    token = _token(arguments.token, is_loopback)

    with server.listen(arguments.host, arguments.port) as listener:
        try:
            searchers = _searchers(arguments.indexes, arguments.model)
        except KeyboardInterrupt:
            raise UserError("Stopped before it served anything.") from None
        app = server.create_app(searchers, access=server.Access(is_loopback, token))
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"http://{host}:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
        server.serve(app, listener)


def _check_extra() -> None:
    """Stop where a package of the extra is missing."""
    for name in ("fastapi", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(name) is None:
            package = name.replace("_", "-")
            raise UserError(f'miniclip serve needs {package}: pip install -e ".[serve]"')


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


def _searchers(indexes: list[Path], models: list[Path]) -> "list[Searcher]":
    """Each index with its model.

    Raises:
        UserError: when a folder is no index, or a model is gone or not that of its index.
    """
    from miniclip.deploy.index import Index, check_model
    from miniclip.deploy.server import Searcher

    searchers: list[Searcher] = []
    for number, folder in enumerate(indexes):
        index = Index(folder, in_memory=True)
        facts = index.facts
        model = load_model_of_index(facts.model_path, models[number] if models else None)
        check_model(folder, facts, model)

        name = folder.absolute().name
        is_taken = any(searcher.name == name for searcher in searchers)
        searchers.append(Searcher(f"{name} (2)" if is_taken else name, index, model))
    return searchers
