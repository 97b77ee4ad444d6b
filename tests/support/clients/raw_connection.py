"""Connections on which a test says what it likes, byte by byte, and sees when the other side has enough."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.clients.http_client import read_body, read_head

WAIT_S = 10.0
"""Far above the deadlines that these tests set, far below those that would apply if they did not work."""


class Wire:
    """One connection to the server's socket. Made by `wire`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Say this. Nobody may be there any more to hear it."""
        with contextlib.suppress(OSError):
            self._writer.write(data)

    async def sent(self) -> None:
        """Wait until what was said is on its way, or nobody wants it."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(WAIT_S):
                await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers with names in lower case, body."""
        async with asyncio.timeout(WAIT_S):
            status, headers = await read_head(self._reader)
            return status, headers, await read_body(self._reader, headers)

    async def rest(self) -> bytes:
        """All that comes until the server closes; AssertionError when it does not."""
        found = b""
        try:
            async with asyncio.timeout(WAIT_S):
                while data := await self._reader.read(65536):
                    found += data
        except ConnectionError:
            pass
        except TimeoutError:
            raise AssertionError(f"the connection is still open; it said {found[:300]!r}") from None
        return found

    async def trickle(self, data: bytes, every_s: float) -> bytes:
        """Say `data` byte by byte, for ever if it does not end it; what the server said until it closed."""
        ending = asyncio.ensure_future(self.rest())
        for position in range(len(data)):
            self.send(data[position : position + 1])
            await asyncio.wait({ending}, timeout=every_s)
            if ending.done():
                break
        return await ending

    def close(self) -> None:
        """Leave."""
        self._writer.close()


@contextlib.asynccontextmanager
async def wire(path: Path) -> AsyncIterator[Wire]:
    """A connection to the socket file `path`."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
    found = Wire(reader, writer)
    try:
        yield found
    finally:
        found.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
