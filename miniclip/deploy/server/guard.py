"""What stands before every request: host, origin, token, size, time, and the headers of every answer."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "miniclip"

OPEN_PATHS = {"/", "/page.css", "/page.js", "/healthz", "/login"}
"""Paths that need no token: the page, which asks for it, holds nothing of an index."""

FORM_BYTES = 65_536
"""What a form may take besides its image."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        upload_bytes: size of an image's file.
        seconds: until a request is given up.
        num_workers: requests that decode, embed or search at a time; others wait.
    """

    upload_bytes: int = 10_000_000
    seconds: float = 30.0
    num_workers: int = 2


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        loopback: only names of this machine are taken for the server's, so that no page of another host
            gets at it by a name that points here.
        token: that requests must bring; None for none.
    """

    loopback: bool = True
    token: str | None = None

    def cookie(self) -> str:
        """What the cookie holds in place of the token."""
        return hmac.new((self.token or "").encode(), b"miniclip page", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """Whether a text is the token, in a time that does not tell how much of it is right."""
        return self.token is None or _same(text, self.token)

    def allows(self, headers: Headers) -> bool:
        """Whether a request brings the token, or the cookie that stands for it."""
        if self.token is None:
            return True
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(text.strip())
        return _same(_cookie_of(headers), self.cookie())


class Guard:
    """ASGI middleware that lets through what `Access` and `Limits` allow."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits):
        self.app = app
        self.access = access
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        answer = _Answer(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        work = self.app(scope, _limited(receive, self.limits.upload_bytes + FORM_BYTES), answer)
        await self._in_time(work, scope, receive, answer)

    async def _in_time(
        self, work: Awaitable[None], scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        try:
            await asyncio.wait_for(work, self.limits.seconds)
        except asyncio.TimeoutError:
            if answer.has_started:
                raise
            text = f"The request took more than {self.limits.seconds:g} seconds. Try again later."
            await _problem(503, text)(scope, receive, answer)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """What answers a request that is not let through."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.access.loopback and not _names_this_machine(host):
            return _problem(400, "The server takes requests to 127.0.0.1 and localhost only.")

        origin = headers.get("origin")
        if origin is not None and _host_of_origin(origin) != host.lower():
            return _problem(403, "Requests of another site's page are refused.")
        if scope["path"] not in OPEN_PATHS and not self.access.allows(headers):
            return _problem(401, "The token is missing or wrong. Send it as Authorization: Bearer TOKEN.")

        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.limits.upload_bytes + FORM_BYTES:
            return _problem(413, too_large(self.limits))
        return None


class _Answer:
    """The way out: adds the headers, and knows whether an answer has begun."""

    def __init__(self, send: Send):
        self.send = send
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self.send(message)


def too_large(limits: Limits) -> str:
    """What an upload over the limit is told."""
    return f"An upload may have {limits.upload_bytes / 1e6:g} MB. Scale the image down."


def _limited(receive: Receive, most: int) -> Receive:
    """The body of a request, whatever length its header claims, up to a number of bytes."""
    count = 0

    async def limited() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise HTTPException(413, "An upload is larger than the server takes. Scale the image down.")
        return message

    return limited


def _problem(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": text}, status)


def _same(text: str, secret: str) -> bool:
    return hmac.compare_digest(text.encode("utf-8", "surrogateescape"), secret.encode())


def _cookie_of(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names the loopback interface; its port may be a tunnel's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of_origin(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
