"""Relay bytes between clients and the provider and do nothing else: the floor of every figure about tokens.

`python -m benchmarks.token_path.bare_relay PROVIDER_PORT RELAY_SOCKET WATCH_SOCKET` listens on two Unix sockets. Each
connection to the first gets a connection to the provider, and bytes are copied both ways. Each connection to the second
gets a newline and then all bytes that the provider sends to any connection of the first, for the floor of one run with
many clients. Exits when standard input closes.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.token_path.helper_process import helper


@dataclass(frozen=True)
class BareRelay:
    """A running relay."""

    pid: int
    relay_path: Path
    watch_path: Path


@asynccontextmanager
async def bare_relay(directory: Path, provider_port: int) -> AsyncIterator[BareRelay]:
    """Run the relay with its sockets in `directory`."""
    relay_path, watch_path = directory / "relay.sock", directory / "watch.sock"
    name = "benchmarks.token_path.bare_relay"
    async with helper(name, str(provider_port), str(relay_path), str(watch_path)) as process:
        yield BareRelay(process.pid, relay_path, watch_path)


_watchers: set[asyncio.Transport] = set()


class _Upstream(asyncio.Protocol):
    """Copies what the provider sends."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)
        for watcher in _watchers:
            watcher.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()


class _Client(asyncio.Protocol):
    """Copies what a client sends; the first bytes wait until its connection to the provider is open."""

    def __init__(self, provider_port: int) -> None:
        self._provider_port = provider_port
        self._upstream: asyncio.Transport | None = None
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        if self._upstream is None:
            self._waiting += data
        else:
            self._upstream.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        upstream, _ = await loop.create_connection(lambda: _Upstream(self._transport), "127.0.0.1", self._provider_port)
        upstream.write(self._waiting)
        self._upstream = upstream


class _Watcher(asyncio.Protocol):
    """Receives everything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"\n")
        _watchers.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        _watchers.discard(self._transport)


async def _serve(provider_port: int, relay_path: str, watch_path: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: _Client(provider_port), relay_path)
    await loop.create_unix_server(_Watcher, watch_path)
    print("ready", flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
