"""The event stream of a workspace: opened once, resumed by itself, without a hole or a double.

After a lost connection it comes back with `Last-Event-ID` after a jittered delay that grows, and gives an event of
kind `resumed`. When the server cannot go on from there it gives `reset`: what was known must be read again.
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
"""Not of the server: this stream lost its connection and has a new one."""

OPEN_S = 30.0
SILENCE_S = 60.0
"""The server says something every 15 s; a connection that is silent for four times as long is dead."""

DELAY_S, DELAY_S_MAX = 0.25, 10.0

ErrorOf = Callable[[int, Mapping[str, str], bytes], BulkheadError]


class Reset(msgspec.Struct, frozen=True):
    """The payload of `reset`: why the stream does not go on from where it was."""

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
        """The payload as a shape. Raises Internal when the server sent something else."""
        try:
            return msgspec.json.decode(self.payload, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Internal(f"cannot read an event of kind {self.kind}: {error}") from None


class EventStream:
    """An async context manager that is open from its first line on, and an async iterator of events.

    Raises what the server answers to the first opening. Later losses are healed for `patience_s` seconds each; then,
    or when the server refuses for good, the error is raised.
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
        """The next event. May be cancelled and called again: nothing is lost by that."""
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
            return  # a kind of event that came after this client was written
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
        """Open again, waiting longer after each failure. Raises the last error when patience is over."""
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
