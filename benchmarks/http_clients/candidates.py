"""Adapt HTTP clients to one interface: post a body and yield the response as it arrives.

Only the library that is measured is imported, so that the cost of its import can be measured and the others need not
be installed.
"""

import asyncio
import importlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

HEADERS = {"Content-Type": "application/json"}
READ_BYTES = 65_536


class HttpClient(Protocol):
    """A client with persistent connections."""

    def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        """Yield the parts of the response's body; closing the iterator ends the request."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class AiohttpClient:
    """aiohttp with the settings that the product would use: proxies of the environment, OpenSSL's default store."""

    def __init__(self, library: Any) -> None:
        connector = library.TCPConnector(limit=0)
        timeout = library.ClientTimeout(total=None)
        self._session = library.ClientSession(trust_env=True, connector=connector, timeout=timeout)

    async def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        async with self._session.post(url, data=body, headers=HEADERS) as response:
            async for data in response.content.iter_any():
                yield data

    async def close(self) -> None:
        await self._session.close()


class HttpxClient:
    """httpx, or httpx2, with its default settings."""

    def __init__(self, library: Any) -> None:
        limits = library.Limits(max_connections=None)
        self._client = library.AsyncClient(timeout=None, limits=limits)

    async def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        async with self._client.stream("POST", url, content=body, headers=HEADERS) as response:
            async for data in response.aiter_raw():
                yield data

    async def close(self) -> None:
        await self._client.aclose()


class PyreqwestClient:
    """pyreqwest (reqwest, in Rust); requests run on a thread of its own.

    The buffer's limit must be 0: with the default, the response begins only when 64 KiB or its end have arrived.
    """

    def __init__(self, library: Any) -> None:
        self._client = library.ClientBuilder().build()

    async def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        request = self._client.post(url).headers(HEADERS).body_bytes(body)
        request = request.streamed_read_buffer_limit(0).build_streamed()
        async with request as response:
            while (data := await response.body_reader.read_chunk()) is not None:
                yield bytes(data)

    async def close(self) -> None:
        await self._client.close()


class TornadoClient:
    """Tornado's simple client; the callback cannot slow the sender down, and a request cannot be cancelled."""

    def __init__(self, library: Any) -> None:
        self._client = library.AsyncHTTPClient(force_instance=True, max_clients=1000)

    async def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        fetching = asyncio.ensure_future(
            self._client.fetch(
                url,
                method="POST",
                body=body,
                headers=HEADERS,
                streaming_callback=parts.put_nowait,
                request_timeout=0,
            )
        )
        fetching.add_done_callback(lambda _: parts.put_nowait(None))
        try:
            while (data := await parts.get()) is not None:
                yield data
            await fetching
        finally:
            fetching.cancel()

    async def close(self) -> None:
        self._client.close()


class StreamsClient:
    """asyncio's streams and an HTTP/1.1 reader of 30 lines: what the library calls cost at least in Python.

    It does not reuse connections, and only reads chunked responses.
    """

    def __init__(self, library: Any) -> None:
        self._open = library.open_connection

    async def post(self, url: str, body: bytes) -> AsyncIterator[bytes]:
        parts = urlsplit(url)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if context else 80)
        reader, writer = await self._open(parts.hostname, port, ssl=context, limit=READ_BYTES)
        try:
            head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await reader.readuntil(b"\r\n\r\n")
            while size := int(await reader.readline(), 16):
                while size:
                    data = await reader.read(min(size, READ_BYTES))
                    if not data:
                        raise asyncio.IncompleteReadError(b"", size)
                    size -= len(data)
                    yield data
                await reader.readline()
        finally:
            writer.close()

    async def close(self) -> None:
        """Do nothing: each request closes its connection."""


@dataclass(frozen=True)
class Candidate:
    """A library by the module to import, and the adapter for it."""

    module: str
    adapter: Callable[[Any], HttpClient]

    def load(self) -> Any:
        """Import the library. Raises ImportError if it is not installed."""
        return importlib.import_module(self.module)


CANDIDATES = {
    "streams": Candidate("asyncio", StreamsClient),
    "aiohttp": Candidate("aiohttp", AiohttpClient),
    "pyreqwest": Candidate("pyreqwest.client", PyreqwestClient),
    "httpx": Candidate("httpx", HttpxClient),
    "httpx2": Candidate("httpx2", HttpxClient),
    "tornado": Candidate("tornado.httpclient", TornadoClient),
}


async def read_all(client: HttpClient, url: str, body: bytes) -> bytes:
    """Return the whole response."""
    async with aclosing(client.post(url, body)) as parts:  # type: ignore[type-var]
        return b"".join([part async for part in parts])
