"""Serve on loopback and let the test write every byte of a response, to test HTTP itself and not an API."""

import asyncio
import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return data as one chunk of a chunked body; b"" is the end of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(eq=False)
class RawRequest:
    """One request, and the connection on which it came."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int  # number of the connection, in the order of their acceptance
    _writer: asyncio.StreamWriter = field(repr=False)
    _ended: asyncio.Event = field(repr=False)

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    @property
    def is_ended(self) -> bool:
        """Return whether the client has closed the connection."""
        return self._ended.is_set()

    async def ended(self) -> None:
        """Wait until the client has closed the connection."""
        async with asyncio.timeout(5):
            await self._ended.wait()


class RawProvider:
    """The server. Use as `async with`; `path` makes it listen on a Unix socket, `tls` on TLS."""

    def __init__(self, *, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.url = "http://local-model"
        self.accepted = 0
        self._path = path
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._requests: asyncio.Queue[RawRequest] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "RawProvider":
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
            scheme = "http" if self._tls is None else "https"
            self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def next_request(self) -> RawRequest:
        """Wait for the next request and return it."""
        async with asyncio.timeout(5):
            return await self._requests.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        number = self.accepted
        self.accepted += 1
        ended = asyncio.Event()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self._requests.put_nowait(RawRequest(head[0], headers, body, number, writer, ended))
        except (OSError, asyncio.IncompleteReadError):
            ended.set()
