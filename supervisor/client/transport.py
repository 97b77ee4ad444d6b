"""Speak HTTP/1.1 over a Unix socket or TCP, with one connection per request and whole or streamed response bodies.

Connections are not reused: on a Unix socket a new one costs less than handling an old one that may be closing. Every
wait is bounded. There are two errors: `Unreachable` (nothing was sent) and `ConnectionLost` (it is unknown whether the
request was processed).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from protocol.address import Address, TcpAddress
from protocol.errors import Unavailable
from protocol.version import BULKHEAD_VERSION

CONNECT_S = 5.0
HEAD_MAX_BYTES = 64 * 1024
BODY_MAX_BYTES = 1 << 30
READ_BYTES = 256 * 1024


class Unreachable(Unavailable):
    """No server accepts connections at this address. The request was not sent."""


class ConnectionLost(Unavailable):
    """The connection broke; the request may have been processed or not."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of a response; header names in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response."""

    head: ResponseHead
    body: bytes = field(repr=False)


class Transport:
    """Sends requests to one server."""

    def __init__(self, address: Address, *, token: str = "") -> None:
        self.address = address
        self._token = token

    async def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send a request and read the whole response. Raises Unreachable, ConnectionLost, TimeoutError."""
        async with asyncio.timeout(timeout_s), self._exchange(method, target, body, headers or {}) as (head, read):
            pieces, size = [], 0
            while piece := await read():
                pieces.append(piece)
                size += len(piece)
                if size > BODY_MAX_BYTES:
                    raise ConnectionLost(f"the response of {self.address} is larger than {BODY_MAX_BYTES} bytes")
            return HttpResponse(head, b"".join(pieces))

    @asynccontextmanager
    async def stream(
        self, target: str, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> "AsyncIterator[tuple[ResponseHead, Body]]":
        """Send a GET request; yields its head, read within `timeout_s`, and its body, to be read without a timeout."""
        manager = self._exchange("GET", target, b"", headers or {})
        async with asyncio.timeout(timeout_s):
            head, body = await manager.__aenter__()
        try:
            yield head, body
        finally:
            await manager.__aexit__(None, None, None)

    @asynccontextmanager
    async def _exchange(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> "AsyncIterator[tuple[ResponseHead, Body]]":
        reader, writer = await self._connect()
        try:
            try:
                writer.write(self._head_of(method, target, len(body), headers) + body)
                head = await _read_head(reader)
                while head.status < 200:  # an interim response precedes the final one
                    head = await _read_head(reader)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                raise ConnectionLost(f"the connection to {self.address} broke: {error or 'it was closed'}") from error
            yield head, Body(reader, head, method, str(self.address))
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        try:
            async with asyncio.timeout(CONNECT_S):
                if isinstance(address, TcpAddress):
                    return await asyncio.open_connection(address.host, address.port, limit=HEAD_MAX_BYTES * 4)
                return await asyncio.open_unix_connection(address.path, limit=HEAD_MAX_BYTES * 4)
        except TimeoutError:
            raise Unreachable(f"no answer from {address} within {CONNECT_S:g} s; is this the right address?") from None
        except PermissionError:
            raise Unreachable(f"cannot connect to {address}: it belongs to another user") from None
        except (OSError, ValueError):
            named = "" if not isinstance(address, TcpAddress) else f" --host {address}"
            raise Unreachable(f"no server at {address}: start one with `bulkhead serve{named}`") from None

    def _head_of(self, method: str, target: str, length: int, headers: Mapping[str, str]) -> bytes:
        address = self.address
        fields = {
            "Host": address.authority if isinstance(address, TcpAddress) else "bulkhead.localhost",
            "User-Agent": f"bulkhead/{BULKHEAD_VERSION}",
            "Connection": "close",
        }
        if method != "GET":
            fields["Content-Length"] = str(length)
        if length:
            fields["Content-Type"] = "application/json"
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**fields, **headers}.items())]
        return "\r\n".join([*lines, "", ""]).encode()


class Body:
    """The body of a response. Calling it returns the next piece; b"" is the regular end."""

    def __init__(self, reader: asyncio.StreamReader, head: ResponseHead, method: str, where: str) -> None:
        self._reader = reader
        self._where = where
        self._is_chunked = head.headers.get("transfer-encoding", "").lower() == "chunked"
        length = head.headers.get("content-length", "")
        self._left: int | None = int(length) if length.isdecimal() else None
        if self._is_chunked or method == "HEAD" or head.status in (204, 304):
            self._left = 0
        self._is_over = not self._is_chunked and self._left == 0

    async def __call__(self) -> bytes:
        """Return the next piece. Raises ConnectionLost when the body is cut off."""
        if self._is_over:
            return b""
        try:
            piece = await (self._next_of_chunked() if self._is_chunked else self._next_plain())
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise ConnectionLost(f"the connection to {self._where} broke in the middle of a response") from error
        self._is_over = not piece
        return piece

    async def _next_plain(self) -> bytes:
        if self._left is None:  # the body ends with the connection
            return await self._reader.read(READ_BYTES)
        piece = await self._reader.read(min(READ_BYTES, self._left)) if self._left else b""
        if self._left and not piece:
            raise EOFError
        self._left -= len(piece)
        return piece

    async def _next_of_chunked(self) -> bytes:
        if not self._left:
            self._left = int((await self._reader.readuntil(b"\n")).split(b";", 1)[0], 16)
            if self._left == 0:
                while (await self._reader.readuntil(b"\n")).strip():
                    pass  # trailers are ignored
                return b""
        assert self._left
        piece = await self._reader.read(min(READ_BYTES, self._left))
        if not piece:
            raise EOFError
        self._left -= len(piece)
        if self._left == 0 and (await self._reader.readexactly(2)) != b"\r\n":
            raise ValueError("a chunk has no end")
        return piece


async def _read_head(reader: asyncio.StreamReader) -> ResponseHead:
    """Read status line and headers. Raises EOFError, LimitOverrunError, and ValueError when this is not HTTP."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = text[:-4].split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise ValueError("this is not an HTTP server")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return ResponseHead(int(status[:3]), headers)
