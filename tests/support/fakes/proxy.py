"""A proxy between a client and the server that can freeze: both sides stay connected, and nothing passes any more."""

import asyncio
import contextlib
from pathlib import Path

PIECE_BYTES = 16 * 1024


class Proxy:
    """Use as `async with`; clients connect to `path` and come out at `target`."""

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
        """From now on nothing passes, not even the end of a connection."""
        self._thawed.clear()

    def thaw(self) -> None:
        """What waited passes now."""
        self._thawed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._target, limit=PIECE_BYTES)
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.get_running_loop().create_task(self._pass(source, sink))
            self._tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._thawed.wait()
                sink.write(data)
                await sink.drain()
            await self._thawed.wait()
            sink.close()
