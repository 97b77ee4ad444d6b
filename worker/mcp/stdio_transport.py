"""Exchange messages with an MCP server that is a child process, one line of JSON each; other lines are skipped.

The caller owns the child; this only adapts its pipes to the streams that the library expects. Imports the library.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

STRAY_OUTPUT_BYTES = 200
# Yield to the loop after this many skipped lines, or this many messages (a long one counts once more for each
# `_LONG_BYTES`): a server that never stops sending must not block the worker.
_YIELD_LINES = 100
_YIELD_MESSAGES = 20
_LONG_BYTES = 8192


class StdioTransport:
    """Splits the child's output into messages; also the stream that the library reads.

    `problem` says why the output was cut off; `stray_output` is the first line that was not a message.
    """

    def __init__(self, message_max_bytes: int) -> None:
        self._max = message_max_bytes
        self._partial = bytearray()
        self._lines: deque[bytes] = deque()
        self._buffered = 0  # bytes in `_lines`
        self._delivered = 0  # messages since the last yield, long ones weighted
        self._new_data = asyncio.Event()
        self._is_ended = False
        self.problem = ""
        self.stray_output = ""

    def feed(self, data: bytes) -> None:
        """Add the next bytes of output; empty `data` is the end."""
        if self._is_ended:
            return
        if not data:
            self.end()
            return
        *lines, rest = (self._partial + data).split(b"\n") if b"\n" in data else (self._partial + data,)
        self._partial = bytearray(rest)
        for line in lines:
            if line.strip():
                self._lines.append(bytes(line))
                self._buffered += len(line)
        if len(self._partial) > self._max or any(len(line) > self._max for line in lines):
            self.end(f"it sent a message of more than {self._max} bytes")
        elif self._buffered > 4 * self._max:
            self.end("it sends faster than its messages can be read")
        self._new_data.set()

    def end(self, problem: str = "") -> None:
        """End the stream. With a problem, the lines that were not read yet are dropped."""
        if problem:
            self.problem = self.problem or problem
            self._lines.clear()
        self._partial.clear()
        self._is_ended = True
        self._new_data.set()

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message. Raises anyio.EndOfStream."""
        skipped = 0
        while True:
            while self._lines:
                line = self._lines.popleft()
                self._buffered -= len(line)
                try:
                    message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError:
                    self.stray_output = self.stray_output or line[:STRAY_OUTPUT_BYTES].decode(errors="replace")
                else:
                    self._delivered += 1 + len(line) // _LONG_BYTES
                    if self._delivered >= _YIELD_MESSAGES:
                        self._delivered = 0
                        await asyncio.sleep(0)
                    return message
                skipped += 1
                if skipped % _YIELD_LINES == 0:
                    await asyncio.sleep(0)
            if self._is_ended:
                raise anyio.EndOfStream
            self._new_data.clear()
            await self._new_data.wait()

    async def aclose(self) -> None:
        """End the stream: the library reads no more."""
        self.end()

    def __aiter__(self) -> "StdioTransport":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "StdioTransport":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class StdinStream:
    """The stream that the library writes to. `write` never waits, and bounds what the child has not read yet."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    async def send(self, item: SessionMessage) -> None:
        """Write one message. Raises anyio.BrokenResourceError when the child's input is closed."""
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            self._write(text.encode() + b"\n")
        except BrokenPipeError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Do nothing: the caller owns the pipe."""

    async def __aenter__(self) -> "StdinStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
