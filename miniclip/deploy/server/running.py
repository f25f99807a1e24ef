"""The server's socket, and its life until a signal ends it."""

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from miniclip.errors import SettingError

STOP_SECONDS = 10
"""How long requests that are being answered may take once the server is told to stop."""

MAX_CONNECTIONS = 256

FIRST_REQUEST_SECONDS = 10
"""How long a connection may be open before its first request has come."""


class PromptConnection(H11Protocol):
    """A connection that is closed where no request comes: uvicorn waits for the first one without end."""

    cycle: Any  # the request that has come, and None before the first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket on a port of this machine; port 0 is any free one.

    Raises:
        SettingError: when the port is in use or not allowed, or the host is not one of this machine.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server(address[:2], family=family, backlog=128)
        # connections inherit it: an answer's body does not wait 40 ms until its head is acknowledged
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except socket.gaierror:
        raise SettingError("--host", host, "is no address of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError("--port", port, "is in use by another program") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SettingError("--port", port, "is not allowed to this user; take one above 1023") from None
        raise SettingError("--host", host, f"cannot be listened on ({error.strerror})") from None


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT, and then those that have begun."""
    config = uvicorn.Config(
        app,
        http=PromptConnection,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    with _signals_end_quietly():
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Take the signals that uvicorn, once it has stopped, raises again: a wanted end is status 0."""

    def nothing(number: int, frame: Any) -> None:
        return None

    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
