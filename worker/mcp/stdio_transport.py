"""Messages to and from an MCP server that is a child: a line of JSON each. What is no message is passed over.

The child belongs to the caller; this only gives its pipes the shape that the library wants. Imports the library.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

NOTE_BYTES = 200
_ROUND = 100  # so many lines that are no messages,
_MESSAGES = 20  # or so many messages (long ones count more): a server that never stops must not hold up the worker
_LONG_BYTES = 8192


class Lines:
    """What the child writes, as messages; also the stream that the library reads."""

    def __init__(self, message_max_bytes: int) -> None:
        self._max = message_max_bytes
        self._partial = bytearray()
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._given = 0
        self._news = asyncio.Event()
        self._is_over = False
        self.problem = ""  # why it was broken off
        self.note = ""  # the first line that was no message

    def feed(self, data: bytes) -> None:
        """The next bytes; an empty piece is the end."""
        if self._is_over:
            return
        if not data:
            self.end()
            return
        *lines, rest = (self._partial + data).split(b"\n") if b"\n" in data else (self._partial + data,)
        self._partial = bytearray(rest)
        for line in lines:
            if line.strip():
                self._lines.append(bytes(line))
                self._held += len(line)
        if len(self._partial) > self._max or any(len(line) > self._max for line in lines):
            self.end(f"it sent a message of more than {self._max} bytes")
        elif self._held > 4 * self._max:
            self.end("it sends more than can be read")
        self._news.set()

    def end(self, problem: str = "") -> None:
        """Nothing more comes. With a problem, what waits is dropped as well."""
        if problem:
            self.problem = self.problem or problem
            self._lines.clear()
        self._partial.clear()
        self._is_over = True
        self._news.set()

    async def receive(self) -> SessionMessage | Exception:
        """The next message. Raises anyio.EndOfStream."""
        passed = 0
        while True:
            while self._lines:
                line = self._lines.popleft()
                self._held -= len(line)
                try:
                    message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError:
                    self.note = self.note or line[:NOTE_BYTES].decode(errors="replace")
                else:
                    self._given += 1 + len(line) // _LONG_BYTES
                    if self._given >= _MESSAGES:
                        self._given = 0
                        await asyncio.sleep(0)
                    return message
                passed += 1
                if passed % _ROUND == 0:
                    await asyncio.sleep(0)
            if self._is_over:
                raise anyio.EndOfStream
            self._news.clear()
            await self._news.wait()

    async def aclose(self) -> None:
        """The library reads no more."""
        self.end()

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "Lines":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Input:
    """The stream that the library writes. `write` never waits: what the child does not take is bounded there."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    async def send(self, item: SessionMessage) -> None:
        """Raises anyio.BrokenResourceError when the child takes nothing more."""
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            self._write(text.encode() + b"\n")
        except BrokenPipeError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """The pipe is the caller's."""

    async def __aenter__(self) -> "Input":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
