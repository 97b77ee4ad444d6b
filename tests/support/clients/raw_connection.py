"""Send arbitrary bytes to the server on a connection, and see when the server closes it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.clients.http_client import read_body, read_head

WAIT_S = 10.0
"""Far above the deadlines that the tests set, far below the defaults that would apply if those did not work."""


class RawConnection:
    """One connection to the socket of the server. Create it with `wire`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send data; ignored if the server has closed the connection."""
        with contextlib.suppress(OSError):
            self._writer.write(data)

    async def sent(self) -> None:
        """Wait until the data has left the buffer or the connection is closed."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(WAIT_S):
                await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read the next response: status, headers with names in lower case, body."""
        async with asyncio.timeout(WAIT_S):
            status, headers = await read_head(self._reader)
            return status, headers, await read_body(self._reader, headers)

    async def rest(self) -> bytes:
        """Read until the server closes the connection. Raises AssertionError if it does not."""
        received = b""
        try:
            async with asyncio.timeout(WAIT_S):
                while data := await self._reader.read(65536):
                    received += data
        except ConnectionError:
            pass
        except TimeoutError:
            raise AssertionError(f"the connection is still open; received {received[:300]!r}") from None
        return received

    async def trickle(self, data: bytes, every_s: float) -> bytes:
        """Send `data` byte by byte until the server closes the connection; return what it sent."""
        ending = asyncio.ensure_future(self.rest())
        for position in range(len(data)):
            self.send(data[position : position + 1])
            await asyncio.wait({ending}, timeout=every_s)
            if ending.done():
                break
        return await ending

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@contextlib.asynccontextmanager
async def wire(path: Path) -> AsyncIterator[RawConnection]:
    """Connect to the socket file `path`."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
    connection = RawConnection(reader, writer)
    try:
        yield connection
    finally:
        connection.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
