"""Servers that stand for that of Weights & Biases: one that knows what a run asks, and bad ones."""

import http.server
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Server(http.server.BaseHTTPRequestHandler):
    """Answers everything in the way of its class; `None` never answers, "closed" no longer listens."""

    answer: tuple[int, bytes] | None = None
    ended = threading.Event()

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers.get("content-length", 0)))
        answer = self.answer_to(query)
        if answer is None:
            self.ended.wait(30)
            return
        self.send_response(answer[0])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    do_GET = do_POST

    def answer_to(self, query: bytes) -> tuple[int, bytes] | None:
        return self.answer

    def log_message(self, *args: Any) -> None:
        pass


class WandbServer(Server):
    """Knows what `wandb.init` asks; slow, and silent after some answers, where told to be."""

    seconds = 0.0
    num_answers = math.inf
    num_requests = 0

    def answer_to(self, query: bytes) -> tuple[int, bytes] | None:
        type(self).num_requests += 1
        if self.num_requests > self.num_answers:
            return None
        time.sleep(self.seconds)
        data: dict[str, Any] = {"viewer": {"id": "1", "entity": "us", "username": "us", "flags": "{}"}}
        if b"createRunFiles" in query:
            data = {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
        elif b"upsertBucket" in query:
            project = {"id": "1", "name": "test", "entity": {"id": "1", "name": "us"}}
            bucket = {"id": "1", "name": "run", "displayName": "run", "config": "{}", "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        elif b"serverInfo" in query:
            data = {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []}}
        return 200, json.dumps({"data": data | {"model": None}}).encode()


@contextmanager
def served(answer: tuple[int, bytes] | None, kind: type[Server] = Server, **settings: Any) -> Iterator[str]:
    """The address of a server."""
    handler = type("Handler", (kind,), {"answer": answer, "ended": threading.Event(), **settings})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        handler.ended.set()
        server.shutdown()


class TurningServer(WandbServer):
    """Knows what a run asks until somebody gets `/turn`; then answers in the way of its class."""

    has_turned = False

    def do_GET(self) -> None:
        if self.path != "/turn":
            self.do_POST()
            return

        type(self).has_turned = True
        if self.answer == (0, b""):  # no longer listens
            self.server.socket.close()
        self.send_response(200)
        self.end_headers()

    def answer_to(self, query: bytes) -> tuple[int, bytes] | None:
        return self.answer if self.has_turned else super().answer_to(query)
