"""A server of two small indexes, asked in this process."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from miniclip.deploy.index import Index
from miniclip.deploy.server import Access, Limits, Searcher, create_app
from tests.deploy.index.conftest import save_photo
from tests.deploy.index.projection import ProjectionModel, embed

HOME = "http://127.0.0.1:8000"

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos, and beside their folder one more that no index holds."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(4):
        save_photo(folder / "photos" / f"{number}.png", number)
    save_photo(folder / "photos" / "<img src=x onerror=alert(1)>.png", 4)
    save_photo(folder / "private.png", 5)
    return folder


@pytest.fixture(scope="module")
def searchers(album: Path) -> list[Searcher]:
    """Two indexes of the photos, by two models."""
    made = []
    for number, name in enumerate(("first", "second")):
        model = ProjectionModel(seed=number)
        embed(album / name, album / "photos", model=model)
        made.append(Searcher(name, Index(album / name, in_memory=True), model))
    return made


@pytest.fixture(scope="module")
def serve(searchers: list[Searcher]) -> Iterator[Serve]:
    """Start an application, and stop it afterwards."""
    clients = []

    def start(*, access: Access | None = None, limits: Limits | None = None, **options: Any) -> TestClient:
        app = create_app(options.pop("searchers", searchers), access=access, limits=limits)
        client = TestClient(app, base_url=HOME, **options)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__()


@pytest.fixture(scope="module")
def client(serve: Serve) -> TestClient:
    """Of a server on loopback, without a token."""
    return serve()


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    """A small image's file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format="PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims to have 3.6 billion pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content
