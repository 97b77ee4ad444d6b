"""An event stream reader cheap enough for a thousand of them: it keeps numbered events as bytes and decodes nothing."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.checks.history import Stored
from tests.support.eventually import eventually

OPEN_S = 15.0


class LightReader:
    """One client of one workspace over all its connections; goes on after `last_id`."""

    def __init__(self, socket_path: Path, workspace: str, last_id: str = "") -> None:
        self.last_id = last_id
        self.base = ""  # the id in front of the first event
        self.events: list[tuple[str, bytes]] = []  # id and data, in the order they came
        self.resets: list[bytes] = []
        self.snapshots = 0
        self.retries_ms: list[int] = []
        self.on_event: Callable[[], object] | None = None
        self._socket_path = socket_path
        self._workspace = workspace
        self._connection: _Connection | None = None

    async def open(self, *, receive_buffer: int = 0) -> int:
        """Connect with the last id, if there is one; the status, once it is here. `last_id` is kept over this."""
        assert self._connection is None, "it is open already"
        loop = asyncio.get_running_loop()
        found = self._connection = _Connection(self)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            if receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            async with asyncio.timeout(OPEN_S):
                await loop.sock_connect(connection, str(self._socket_path))
                await loop.create_connection(lambda: found, sock=connection)
                found.ask(self._request())
                return await found.status
        except BaseException:
            found.leave()
            connection.close()
            self._connection = None
            raise

    def close(self) -> None:
        """Leave without a word. What is already in the buffers of this connection is not read any more."""
        if self._connection is not None:
            self._connection.leave()
        self._connection = None

    def pause(self) -> None:
        """Read nothing from now on."""
        assert self._connection is not None
        self._connection.stop(True)

    def resume(self) -> None:
        """Read again."""
        assert self._connection is not None
        self._connection.stop(False)

    @property
    def is_open(self) -> bool:
        """Does the stream go on, as far as the client can see?"""
        return self._connection is not None and self._connection.status.done()

    def lost(self, connection: "_Connection") -> None:
        """The other side ended this connection."""
        if connection is self._connection:
            self._connection = None

    def _request(self) -> bytes:
        # By HTTP/1.0 the body is the bare stream; chunks are what the other clients of these tests read.
        lines = [f"GET /v1/workspaces/{self._workspace}/events?ids=1 HTTP/1.0", "Host: bulkhead"]
        if self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        return "\r\n".join([*lines, "", ""]).encode()

    def block(self, block: bytes) -> None:
        """One block of the stream came."""
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

    # --- what was seen ----------------------------------------------------------------------------------------------

    def saw(self, text: bytes) -> bool:
        """Is there a numbered event with these words?"""
        return any(text in data for _, data in reversed(self.events))

    def saw_end(self, run_id: str) -> bool:
        """Did the end of this run come?"""
        wanted = run_id.encode()
        return any(data.startswith(b'{"type":"run_complete"') and wanted in data for _, data in reversed(self.events))


class _Connection(asyncio.Protocol):
    """One connection of an reader."""

    def __init__(self, owner: LightReader) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._owner = owner
        self._head = b""
        self._rest = b""

    def ask(self, request: bytes) -> None:
        assert self.transport is not None
        self.transport.write(request)

    def stop(self, stops: bool) -> None:
        assert self.transport is not None
        if stops:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def leave(self) -> None:
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
    """Let all of them connect at once; each has to be let in."""
    statuses = await asyncio.gather(*(reader.open() for reader in readers))
    assert set(statuses) <= {200}, sorted(statuses)


async def all_saw_end(readers: Sequence[LightReader], run_id: str, timeout_s: float = 15.0) -> None:
    """Wait until the end of this run has come to each of them."""
    await eventually(
        lambda: all(reader.saw_end(run_id) for reader in readers),
        timeout_s=timeout_s,
        what=f"the end of {run_id} at all {len(readers)}",
        state=lambda: sum(not reader.saw_end(run_id) for reader in readers),
    )


def assert_exact(reader: LightReader, stored: Stored, *, after: str) -> None:
    """What came is exactly what the file holds after the id `after`, in order, none twice, none of another log."""
    log, _, number = after.partition(".")
    assert log == stored.log, (after, stored.log)
    wanted = [(f"{log}.{row.number}", row.data) for row in stored.events if row.number > int(number)]
    assert reader.resets == []
    got = reader.events
    if got != wanted:
        ids, wanted_ids = [event[0] for event in got], [event[0] for event in wanted]
        assert ids == wanted_ids, f"after {after}"
        raise AssertionError(f"after {after}: {[a for a, b in zip(got, wanted, strict=True) if a != b]}")


@contextlib.contextmanager
def closed_at_end(readers: Sequence[LightReader]) -> Iterator[None]:
    """Close all of them, however the story ends."""
    try:
        yield
    finally:
        for reader in readers:
            reader.close()
