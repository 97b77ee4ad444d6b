"""Read event streams so cheaply that a test can use a thousand: keep numbered events as bytes, decode nothing."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.checks.history import Stored
from tests.support.eventually import eventually

OPEN_S = 15.0


class LightReader:
    """One client of one workspace, over all its connections; each continues after `last_id`."""

    def __init__(self, socket_path: Path, workspace: str, last_id: str = "") -> None:
        self.last_id = last_id
        self.base = ""  # the id before the first event
        self.events: list[tuple[str, bytes]] = []  # id and data, in the order of arrival
        self.resets: list[bytes] = []
        self.snapshots = 0
        self.retries_ms: list[int] = []
        self.on_event: Callable[[], object] | None = None
        self._socket_path = socket_path
        self._workspace = workspace
        self._connection: _Connection | None = None

    async def open(self, *, receive_buffer: int = 0) -> int:
        """Connect with `last_id`, if it is set; return the status of the response."""
        assert self._connection is None, "the stream is already open"
        loop = asyncio.get_running_loop()
        connection = self._connection = _Connection(self)
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.setblocking(False)
        try:
            if receive_buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            async with asyncio.timeout(OPEN_S):
                await loop.sock_connect(raw, str(self._socket_path))
                await loop.create_connection(lambda: connection, sock=raw)
                connection.send(self._request())
                return await connection.status
        except BaseException:
            connection.abort()
            raw.close()
            self._connection = None
            raise

    def close(self) -> None:
        """Abort the connection; data in its buffers is not read."""
        if self._connection is not None:
            self._connection.abort()
        self._connection = None

    def pause(self) -> None:
        """Stop reading."""
        assert self._connection is not None
        self._connection.set_reading(False)

    def resume(self) -> None:
        """Start reading again."""
        assert self._connection is not None
        self._connection.set_reading(True)

    @property
    def is_open(self) -> bool:
        """Return whether the stream is open, as far as the client can see."""
        return self._connection is not None and self._connection.status.done()

    def lost(self, connection: "_Connection") -> None:
        """Forget a connection that the server has closed."""
        if connection is self._connection:
            self._connection = None

    def _request(self) -> bytes:
        # With HTTP/1.0 the body is not chunked; the other clients of the tests read chunked bodies.
        lines = [f"GET /v1/workspaces/{self._workspace}/events?ids=1 HTTP/1.0", "Host: bulkhead"]
        if self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        return "\r\n".join([*lines, "", ""]).encode()

    def block(self, block: bytes) -> None:
        """Record one block of the stream."""
        if self._connection is None:
            return  # closed by the block before it
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line)
        if b"retry" in fields:
            self.retries_ms.append(int(fields[b"retry"]))
        event_id, data = fields.get(b"id", b"").decode(), fields.get(b"data", b"")
        if data.startswith(b'{"type":"reset"'):
            self.resets.append(data)
        elif event_id and data:
            self.events.append((event_id, data))
        elif event_id:
            self.base = self.base or event_id
        elif data:
            self.snapshots += 1
        if event_id:
            self.last_id = event_id
        if event_id and data and self.on_event is not None:
            self.on_event()

    # --- events received --------------------------------------------------------------------------------------------

    def saw(self, text: bytes) -> bool:
        """Return whether a numbered event contains `text`."""
        return any(text in data for _, data in reversed(self.events))

    def saw_end(self, run_id: str) -> bool:
        """Return whether the `run_complete` of a run has arrived."""
        needle = run_id.encode()
        return any(data.startswith(b'{"type":"run_complete"') and needle in data for _, data in reversed(self.events))


class _Connection(asyncio.Protocol):
    """One connection of a reader."""

    def __init__(self, owner: LightReader) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._owner = owner
        self._head = b""
        self._rest = b""

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self.transport.write(request)

    def set_reading(self, is_reading: bool) -> None:
        assert self.transport is not None
        if is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.status.done():
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self.status.set_result(int(head.split()[1]))
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            self._owner.block(block.lstrip(b"\n"))

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self)
        if not self.status.done():
            self.status.set_exception(ConnectionError(f"closed before the head of the answer: {error}"))
            self.status.exception()


async def open_all(readers: Sequence[LightReader]) -> None:
    """Connect all readers concurrently; each must be answered with 200."""
    statuses = await asyncio.gather(*(reader.open() for reader in readers))
    assert set(statuses) <= {200}, sorted(statuses)


async def all_saw_end(readers: Sequence[LightReader], run_id: str, timeout_s: float = 15.0) -> None:
    """Wait until all readers have received the end of a run."""
    await eventually(
        lambda: all(reader.saw_end(run_id) for reader in readers),
        timeout_s=timeout_s,
        what=f"the end of {run_id} at all {len(readers)} readers",
        state=lambda: sum(not reader.saw_end(run_id) for reader in readers),
    )


def assert_exact(reader: LightReader, stored: Stored, *, after: str) -> None:
    """Check that the reader received exactly the stored events after the id `after`, in order, without duplicates."""
    log, _, number = after.partition(".")
    assert log == stored.log, (after, stored.log)
    expected = [(f"{log}.{row.number}", row.data) for row in stored.events if row.number > int(number)]
    assert reader.resets == []
    received = reader.events
    if received != expected:
        ids, expected_ids = [event[0] for event in received], [event[0] for event in expected]
        assert ids == expected_ids, f"after {after}"
        raise AssertionError(f"after {after}: {[a for a, b in zip(received, expected, strict=True) if a != b]}")


@contextlib.contextmanager
def closed_at_end(readers: Sequence[LightReader]) -> Iterator[None]:
    """Close all readers when the block ends."""
    try:
        yield
    finally:
        for reader in readers:
            reader.close()
