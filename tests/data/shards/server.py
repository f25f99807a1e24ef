"""A server of files on loopback that knows ranges, and drops connections as it is told."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class ShardServer(ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        served: name and first byte of each answer with a content.
        drops: of the next answers with a content, after how many bytes the connection is dropped; None
            lets one pass.
        seconds: that an answer with a content takes.
        knows_ranges: whether a part of a file may be asked for.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.served: list[tuple[str, int]] = []
        self.drops: list[int | None] = []
        self.knows_ranges = True
        self.seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *request: Any) -> None:
        """What a dropped connection raises is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: ShardServer

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = self.server.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return

        whole = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        is_part = asked is not None and self.server.knows_ranges
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked and is_part else (0, len(whole))

        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(len(whole[start:end])))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if not with_content:
            return

        self.server.served.append((path.name, start))
        time.sleep(self.server.seconds)
        drop = self.server.drops.pop(0) if self.server.drops else None
        self.wfile.write(whole[start:end] if drop is None else whole[start:end][:drop])
        self.close_connection = True

    def log_message(self, *words: Any) -> None:
        """Tests read no log."""


@contextmanager
def serving(folder: Path) -> Iterator[ShardServer]:
    """A server as long as the context."""
    with ShardServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
