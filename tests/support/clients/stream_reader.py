"""Read the event stream of one client in a task: decode strictly, record in the client log, resume by the last id."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from protocol.events import EVENTS
from tests.support.checks import api_shapes, responses
from tests.support.checks.history import Seen, Stream
from tests.support.clients.http_client import Client, head, read_chunk, read_head
from tests.support.eventually import POLL_S

OPEN_S = 10.0


class StreamReader:
    """One event stream. Use as `async with`: on entry the headers of the response have arrived."""

    def __init__(
        self, client: Client, workspace: str, *, name: str = "client", ids: bool = True, deltas: bool = False
    ) -> None:
        self.client = client
        self.deltas = deltas
        self.workspace = workspace
        self.ids = ids
        self.stream = Stream(name, workspace)
        self.ends: list[str] = []  # how each connection ended: `clean` or `cut`
        self.resumes = False  # connect again when the stream ends
        self.retry_ms = 0
        self.on_event: Callable[[Seen], object] | None = None  # called when an event arrives
        self._last_id = ""
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        client.client_log.streams.append(self.stream)

    @property
    def seen(self) -> list[Seen]:
        """Every event so far."""
        return self.stream.seen

    async def __aenter__(self) -> "StreamReader":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, last_id: str | None = None) -> None:
        """Connect, after `last_id` if one is given, and start reading."""
        if last_id is not None:
            self._last_id = last_id
        reader = await self._connect()
        self._reading = asyncio.get_running_loop().create_task(self._read(reader), name=f"watch {self.stream.name}")

    async def close(self) -> None:
        """Close the stream; raise its failure, if there is one."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def wait(self, matches: Callable[[Seen], bool], *, what: str, timeout_s: float = 10.0, skip: int = 0) -> Seen:
        """Wait for the first matching event after the first `skip` events and return it. Raises AssertionError."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for event in self.seen[skip:]:
                        if matches(event):
                            return event
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.stream.name}: no {what} within {timeout_s} s\n{self.summary()}") from None

    async def ended(self, run_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for the `run_complete` of a run and return its payload."""
        return (
            await self.wait(
                lambda e: e.kind == "run_complete" and e.payload.get("run_id") == run_id,
                what=f"end of run {run_id}",
                timeout_s=timeout_s,
            )
        ).payload

    async def state(self, state: str, *, timeout_s: float = 10.0, skip: int = 0) -> dict[str, Any]:
        """Wait for the `workspace_state` event with this state and return its payload."""
        return (
            await self.wait(
                lambda e: e.kind == "workspace_state" and e.payload["state"] == state,
                what=f"state {state}",
                timeout_s=timeout_s,
                skip=skip,
            )
        ).payload

    async def text(self, session: str, text: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for an assistant message of `session` that contains `text` and return it."""

        def matches(event: Seen) -> bool:
            message = event.payload
            return (
                event.kind == "message"
                and message["session_id"] == session
                and message["role"] == "assistant"
                and any(part["type"] == "text" and text in part["data"]["text"] for part in message["parts"])
            )

        return (await self.wait(matches, what=f"assistant text {text!r}", timeout_s=timeout_s)).payload

    async def connection_ended(self, timeout_s: float = 10.0) -> str:
        """Wait until the current connection has ended; return `clean` or `cut`."""
        count = len(self.ends)
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.ends) <= count and not (self._reading is not None and self._reading.done()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.stream.name}: the stream does not end within {timeout_s} s") from None
        return self.ends[-1]

    def summary(self) -> str:
        """Return the last events, one line each, for failure messages."""
        lines = []
        for event in self.seen[-60:]:
            lines.append(f"  {event.number:5} {event.kind} {event.change} {str(event.payload)[:200]}")
        return f"connections={self.stream.connections} ends={self.ends}\n" + "\n".join(lines)

    async def _connect(self) -> asyncio.StreamReader:
        query = f"?client_id={self.client.client_id}" + ("&ids=1" if self.ids else "")
        query += "&deltas=1" if self.deltas else ""
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        async with asyncio.timeout(OPEN_S):
            reader, writer = await asyncio.open_unix_connection(self.client.socket_path, limit=1 << 26)
            try:
                writer.write(head("GET", f"/v1/workspaces/{self.workspace}/events{query}", headers))
                status, received = await read_head(reader)
                assert status == 200, (status, await reader.read(2000))
                responses.check_stream(received)
            except BaseException:
                writer.close()
                raise
        self._writer = writer
        self._is_chunked = received.get("transfer-encoding", "").lower() == "chunked"
        self.stream.connections += 1
        return reader

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self.ends.append(await self._read_one(reader))
                if self._writer is not None:
                    self._writer.close()
                self._changed.set()
                if not self.resumes:
                    return
                reader = await self._reconnect()
        except (AssertionError, ValueError, KeyError) as error:
            self._failure = error
        finally:
            self._changed.set()

    async def _reconnect(self) -> asyncio.StreamReader:
        while True:
            try:
                return await self._connect()
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                await asyncio.sleep(POLL_S)  # no event announces that a server is back
            except AssertionError as error:
                if "503" not in str(error):
                    raise
                await asyncio.sleep(POLL_S)

    async def _read_one(self, reader: asyncio.StreamReader) -> str:
        rest = b""
        try:
            while True:
                data = await read_chunk(reader) if self._is_chunked else await reader.read(65536)
                if not data:
                    assert not rest, f"the stream ended inside a line: {rest[:200]!r}"
                    return "clean"
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._line(line)
                self._changed.set()
        except (OSError, asyncio.IncompleteReadError):
            return "cut"

    def _line(self, line: bytes) -> None:
        if not line:
            if self._pending_id:  # a block with an id alone is a cursor, not an event
                self._last_id, self._pending_id = self._pending_id, ""
            return
        name, _, value = line.partition(b": ")
        if name == b"data":
            self._event(value)
        elif not self.ids:
            raise api_shapes.ShapeError(f"a plain stream holds nothing but data and empty lines: {line[:120]!r}")
        elif name == b"id":
            self._pending_id = value.decode()
        elif name == b"retry":
            self.retry_ms = int(value)
        else:
            raise api_shapes.ShapeError(f"not a line of an event stream: {line[:120]!r}")

    _pending_id = ""
    _is_chunked = False

    def _block_ended(self) -> None:
        """Handle an id without data: it moves the cursor to the number after which no event is missing."""
        if self._pending_id:
            self._last_id, self._pending_id = self._pending_id, ""
            log, _, number = self._last_id.partition(".")
            self.seen.append(Seen("base", "", {}, log, int(number)))

    def _event(self, data: bytes) -> None:
        value = api_shapes.event(data)
        asked = {"ids": self.ids, "deltas": self.deltas}
        if (needs := EVENTS[value["type"]].needs) and not asked[needs]:
            raise api_shapes.ShapeError(f"{value['type']} on a stream without {needs}")
        log, _, number = self._pending_id.partition(".")
        if self._pending_id:
            self._last_id, self._pending_id = self._pending_id, ""
        inner = value["payload"]
        seen = Seen(value["type"], inner["type"], inner["payload"], log, int(number or 0), data)
        self.seen.append(seen)
        if self.on_event is not None:
            self.on_event(seen)
