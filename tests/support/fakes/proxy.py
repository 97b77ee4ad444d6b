"""Forward connections to a server, with a switch that stops all data while both sides stay connected."""

import asyncio
import contextlib
from pathlib import Path

PIECE_BYTES = 16 * 1024


class Proxy:
    """Forward connections from the socket `path` to the socket `target`. Use as `async with`."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=PIECE_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Stop forwarding, also of the end of a connection."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Forward again, first the data that was held back."""
        self._thawed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target, limit=PIECE_BYTES)
        self._writers += [writer, upstream_writer]
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._forward(source, sink))
            self._tasks.add(task)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._thawed.wait()
                sink.write(data)
                await sink.drain()
            await self._thawed.wait()
            sink.close()
