"""Read the event stream of a workspace, and resume it after a lost connection without losing or repeating events.

It reconnects with `Last-Event-ID` after a growing, jittered delay and then returns an event of kind `resumed`. When the
server cannot continue from that id, it sends `reset`, and the client must read its data again.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import msgspec

from protocol.errors import BulkheadError, Internal, LimitReached, Unavailable
from supervisor.client.sse import Parser, ServerSent, StreamUnreadable
from supervisor.client.transport import Body, ConnectionLost, Transport

T = TypeVar("T")

RESUMED = "resumed"
"""Kind of an event that the client itself adds after it has reconnected."""

OPEN_S = 30.0
SILENCE_S = 60.0
"""The server writes at least every 15 s; a connection that is silent for four times as long is dead."""

DELAY_S, DELAY_S_MAX = 0.25, 10.0

ErrorOf = Callable[[int, Mapping[str, str], bytes], BulkheadError]


class Reset(msgspec.Struct, frozen=True):
    """The payload of `reset`: why the stream cannot continue from the client's cursor."""

    reason: str = ""
    cursor: str = ""


class _Inner(msgspec.Struct, frozen=True):
    payload: msgspec.Raw
    type: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    payload: _Inner


_decoder = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event. `data` is the whole envelope on one line, `id` the cursor after it ("" for a snapshot)."""

    kind: str
    change: str
    data: bytes
    payload: msgspec.Raw
    id: str = ""

    def read(self, kind: type[T]) -> T:
        """Decode the payload. Raises Internal when the server sent something else."""
        try:
            return msgspec.json.decode(self.payload, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Internal(f"cannot read an event of kind {self.kind}: {error}") from None


class EventStream:
    """Async context manager and async iterator of events.

    Entering it raises the server's error if the stream cannot be opened. A connection that is lost later is reopened
    for up to `patience_s` seconds; after that, or when the server refuses permanently, the error is raised.
    """

    def __init__(
        self,
        transport: Transport,
        target: str,
        *,
        source: random.Random,
        error_of: ErrorOf,
        cursor: str = "",
        patience_s: float = 30.0,
    ) -> None:
        self.cursor = cursor
        self._transport = transport
        self._target = target
        self._source = source
        self._error_of = error_of
        self._patience_s = patience_s
        self._retry_s = DELAY_S
        self._waiting: deque[StreamEvent] = deque()
        self._stack = AsyncExitStack()
        self._body: Body | None = None
        self._parser = Parser()

    async def __aenter__(self) -> "EventStream":
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> StreamEvent:
        return await self.next()

    async def next(self) -> StreamEvent:
        """Return the next event. May be cancelled and called again without losing an event."""
        while not self._waiting:
            if self._body is None:
                await self._resume()
                continue
            try:
                async with asyncio.timeout(SILENCE_S):
                    data = await self._body()
                blocks = self._parser.feed(data)
            except (ConnectionLost, TimeoutError, StreamUnreadable):
                await self._drop()
                continue
            for block in blocks:
                self._take(block)
            if not data:
                await self._drop()
        return self._waiting.popleft()

    def _take(self, block: ServerSent) -> None:
        if block.retry_ms is not None:
            self._retry_s = min(block.retry_ms / 1000, DELAY_S_MAX)
        if block.id:
            self.cursor = block.id
        if block.data is None:
            return
        try:
            envelope = _decoder.decode(block.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # an event of a later version of the server
        inner = envelope.payload
        self._waiting.append(StreamEvent(envelope.type, inner.type, block.data, inner.payload, block.id or ""))

    async def _open(self) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.cursor} if self.cursor else {})
        stack = AsyncExitStack()
        try:
            head, body = await stack.enter_async_context(
                self._transport.stream(self._target, timeout_s=OPEN_S, headers=headers)
            )
            if head.status != 200:
                async with asyncio.timeout(OPEN_S):
                    raise self._error_of(head.status, head.headers, await body())
        except TimeoutError:
            await stack.aclose()
            raise Unavailable(f"{self._transport.address} opened no event stream within {OPEN_S:g} s") from None
        except BaseException:
            await stack.aclose()
            raise
        self._stack, self._body, self._parser = stack, body, Parser()

    async def _drop(self) -> None:
        self._body = None
        await self._stack.aclose()

    async def _resume(self) -> None:
        """Open again, waiting longer after each failure. Raises the last error after `patience_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        delay_s = self._retry_s
        while True:
            await asyncio.sleep(delay_s * (0.5 + self._source.random() / 2))
            try:
                await self._open()
            except (Unavailable, LimitReached) as error:
                if loop.time() + delay_s > deadline:
                    raise
                delay_s = max(min(delay_s * 2, DELAY_S_MAX), error.retry_after_s or 0.0)
                continue
            empty = msgspec.Raw(b"{}")
            line = b'{"type":"%b","payload":{"type":"updated","payload":{}}}' % RESUMED.encode()
            self._waiting.append(StreamEvent(RESUMED, "updated", line, empty))
            return
