"""Stream the events of a workspace as Server-Sent Events: headers at once, replayed events, then live events.

A stream without ids is for the Crush client, which never notices that a chunked body was cut off. Its body therefore
ends with the connection: even a killed server is then a regular end, and the client reconnects. Streams with ids are
chunked if the client speaks HTTP/1.1, so that it can distinguish a regular end from a lost connection.
"""

import asyncio
import logging
import socket
from email.utils import formatdate

from tornado.iostream import IOStream, StreamClosedError

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, LimitReached
from protocol.events import parse_event_id
from protocol.ids import ClientId, RandomSource, new_uuid
from protocol.limits import Limits
from supervisor.admission import Admission
from supervisor.events.hub import Stream
from supervisor.http.messages import Request
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import ManagedWorkspace

SEND_BUFFER_BYTES = 64 * 1024
WRITE_AT_ONCE_BYTES = 256 * 1024
"""The write deadline applies to pieces of this size, so that a slow client that still reads is kept."""

KEEP_ALIVE = b"\n"
"""An empty line, which every client ignores."""

_YES = ("1", "true")

IDLE_READ_BYTES = 64 * 1024
"""Limit for bytes that a client sends on an open stream, where none are expected."""


class EventStreams:
    """Handler of the event stream route."""

    def __init__(
        self,
        *,
        registry: Registry,
        admission: Admission,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._open = 0
        self._tasks = TaskOwner("streams", log)

    async def __call__(self, request: Request) -> None:
        """Stream the events of a workspace until either side ends it."""
        client_id = request.client_id() if "client_id" in request.query else ClientId(new_uuid(self._random))
        await self._registry.wait_open()
        workspace = self._registry.find(request.params["id"])
        self._admission.check()
        if self._open >= self._limits.clients_max:
            raise LimitReached(
                f"cannot open more than {self._limits.clients_max} event streams; close some",
                code="too_many_clients",
                retry_after_s=5.0,
            )
        last_id = request.headers.get("Last-Event-ID", "")
        cursor = parse_event_id(last_id)
        wants_ids = bool(last_id) or request.query.get("ids") in _YES
        self._open += 1
        try:
            # Subscribe before sending the first byte, so that a client that has seen the headers misses no event.
            with workspace.attached(
                client_id,
                cursor=cursor,
                cursor_is_bad=bool(last_id) and cursor is None,
                wants_ids=wants_ids,
                wants_deltas=request.query.get("deltas") in _YES,
            ) as events:
                workspace.wake()
                output = _Output(
                    request.detach(),
                    is_chunked=wants_ids and request.version == "HTTP/1.1",
                    limits=self._limits,
                )
                requests = None
                if cursor is None:  # a client with a cursor has them, or gets them by replay
                    requests = self._tasks.start(self._send_open_requests(workspace, events), "open requests")
                try:
                    await self._stream(events, output, wants_ids, workspace, requests)
                finally:
                    if requests is not None:
                        requests.cancel()
        finally:
            self._open -= 1

    async def _send_open_requests(self, workspace: ManagedWorkspace, events: Stream) -> None:
        """Send the client the permission requests and questions that were opened before it connected."""
        try:
            events.add_open_requests(await workspace.open_requests())
        except BulkheadError as error:  # without a worker none is open
            self._log.debug(
                "open requests not sent", extra=fields(workspace=workspace.registration.id, error=error.message)
            )

    async def _stream(
        self,
        events: Stream,
        output: "_Output",
        wants_ids: bool,
        workspace: ManagedWorkspace,
        requests: "asyncio.Task[None] | None",
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        output.when_closed(task)
        try:
            await output.open()
            if requests is not None and workspace.driver.status().answers:
                # Before later events, so that none of them refers to a request that the client has not seen.
                await asyncio.wait({requests}, timeout=self._limits.stream_asks_s)
            while (chunk := await events.next_chunk(self._limits.stream_keepalive_s, output)) is not None:
                if chunk or not output.has_rest:
                    await output.write(chunk or KEEP_ALIVE)
                else:
                    await output.drain()
            if wants_ids:
                await output.write(b"retry: %d\n\n" % self._retry_ms())
            await output.end()
        except StreamClosedError:
            pass
        except TimeoutError:
            self._log.warning("slow client cut", extra=fields(workspace=workspace.registration.id))
        finally:
            output.close()

    def _retry_ms(self) -> int:
        return self._limits.stream_retry_ms + self._random.getrandbits(32) % (self._limits.stream_retry_jitter_ms + 1)


class _Output:
    """The connection of one event stream, detached from Tornado's HTTP layer."""

    def __init__(self, stream: IOStream, *, is_chunked: bool, limits: Limits) -> None:
        self._stream = stream
        self._is_chunked = is_chunked
        self._deadline_s = limits.stream_write_deadline_s
        self._rest = b""  # of a write that the kernel did not take completely
        stream.max_write_buffer_size = WRITE_AT_ONCE_BYTES * 2
        stream.max_buffer_size = IDLE_READ_BYTES
        stream.set_nodelay(True)
        # A small kernel buffer, so that the backlog of a slow client is in the bounded event log, not in the kernel.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if stream.socket.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Keep-alives to a vanished peer stay in the send buffer; by default the kernel retries for 15 minutes.
            deadline_ms = max(1, int(self._deadline_s * 1000))
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, deadline_ms)

    def when_closed(self, task: "asyncio.Task[None]") -> None:
        """Cancel this task when the client disconnects."""

        def cancel() -> None:
            task.cancel()

        self._stream.set_close_callback(cancel)

    async def open(self) -> None:
        lines = [
            "HTTP/1.1 200 OK",
            "Content-Type: text/event-stream",
            "Cache-Control: no-cache",
            f"Date: {formatdate(usegmt=True)}",
            "Transfer-Encoding: chunked" if self._is_chunked else "Connection: close",
        ]
        await self._send("\r\n".join([*lines, "", ""]).encode())

    @property
    def has_rest(self) -> bool:
        """Return whether a part of what was passed to `try_write` was not sent."""
        return bool(self._rest)

    def try_write(self, data: bytes) -> bool:
        """Send bytes without waiting. Return False if not all was sent: `drain` sends the rest (Output).

        Tornado's stream has nothing to send while this is called, so its socket may be used without it.
        """
        data = self._framed(data)
        if self._rest or self._stream.closed():
            self._rest += data
            return False
        try:
            sent = self._stream.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the connection is broken, which the next regular write reports
            sent = 0
        self._rest = data[sent:]
        return not self._rest

    async def drain(self) -> None:
        """Send what `try_write` left. Raises as `write`."""
        rest, self._rest = self._rest, b""
        for begin in range(0, len(rest), WRITE_AT_ONCE_BYTES):
            await self._send(rest[begin : begin + WRITE_AT_ONCE_BYTES])

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises StreamClosedError, and TimeoutError when the client does not read for too long."""
        if self._rest:
            await self.drain()
        for begin in range(0, len(data), WRITE_AT_ONCE_BYTES):
            piece = data[begin : begin + WRITE_AT_ONCE_BYTES] if len(data) > WRITE_AT_ONCE_BYTES else data
            await self._send(self._framed(piece))

    async def end(self) -> None:
        if self._is_chunked:
            await self._send(b"0\r\n\r\n")

    def close(self) -> None:
        self._stream.set_close_callback(None)
        self._stream.close()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data

    async def _send(self, data: bytes) -> None:
        async with asyncio.timeout(self._deadline_s):
            await self._stream.write(data)
