"""Receive a stream with many clients at little cost: bytes are searched for marks, not parsed."""

import asyncio
import time
import uuid
from pathlib import Path

OPEN_S_MAX = 30.0


class Watcher(asyncio.Protocol):
    """One client. `ended_at` is the arrival of the mark that ends a run, monotonic seconds."""

    def __init__(self, request: bytes, last_token: bytes, end: bytes) -> None:
        self._request = request
        self._last_token = last_token
        self._end = end
        self._tail = b""
        self.is_open = asyncio.Event()
        self.is_ended = asyncio.Event()
        self.ended_at = 0.0
        self.has_last_token = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Look for the marks; one may be split over two reads."""
        self.is_open.set()
        text = self._tail + data
        self.has_last_token = self.has_last_token or self._last_token in text
        if self._end in text:
            self.ended_at = time.monotonic()
            self.is_ended.set()
            text = b""
        self._tail = text[-max(len(self._end), len(self._last_token)) + 1 :]

    def expect_next(self) -> None:
        """Wait for another run."""
        self.is_ended.clear()
        self.has_last_token = False

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


async def watch_server(socket_path: Path, workspace: str, last_token: str, count: int) -> list[Watcher]:
    """Open `count` event streams of a workspace, each as another client."""
    watchers = []
    for _ in range(count):
        target = f"/v1/workspaces/{workspace}/events?client_id={uuid.uuid4()}"
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        watchers.append(await _open(socket_path, Watcher(request.encode(), last_token.encode(), b'"run_complete"')))
    return watchers


async def watch_relay(watch_path: Path, last_token: str, count: int) -> list[Watcher]:
    """Open `count` connections to the bare relay's second socket."""
    return [await _open(watch_path, Watcher(b"", last_token.encode(), b"[DONE]")) for _ in range(count)]


async def _open(path: Path, watcher: Watcher) -> Watcher:
    await asyncio.get_running_loop().create_unix_connection(lambda: watcher, str(path))
    async with asyncio.timeout(OPEN_S_MAX):
        await watcher.is_open.wait()
    return watcher
