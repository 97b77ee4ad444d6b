"""A small HTTP client for a Unix socket: one persistent connection for requests, one for each event stream."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

WAIT_S = 60.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One event of a stream. `at` is its time of arrival on the monotonic clock, in seconds."""

    at: float
    kind: str
    change: str
    payload: Json
    id: str

    @property
    def text(self) -> str:
        """Return the text of a message event."""
        return "".join(part["data"]["text"] for part in self.payload.get("parts") or () if part["type"] == "text")


class Client:
    """A client of the API, with an id of its own."""

    def __init__(self, socket_path: Path) -> None:
        self.id = str(uuid.uuid4())
        self._path = socket_path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, target: str, body: object = None) -> tuple[int, bytes]:
        """Send a request; return status and body. Raises OSError, IncompleteReadError, TimeoutError."""
        data = b"" if body is None else msgspec.json.encode(body)
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=1 << 26)
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)
        async with asyncio.timeout(WAIT_S):
            status, headers = await read_head(self._reader)
            content = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, content

    async def ask(self, method: str, target: str, body: object = None) -> Any:
        """Send a request; return the decoded JSON of a successful response. Raises RuntimeError for any other."""
        status, content = await self.request(method, target, body)
        if status >= 300:
            raise RuntimeError(f"{method} {target}: {status} {content[:500]!r}")
        return msgspec.json.decode(content) if content.strip() else None

    async def create(self, path: Path) -> str:
        """Create the workspace of a directory and wait until its worker is ready; return its id."""
        body = {"path": str(path), "client_id": self.id, "version": "bench", "yolo": True}
        return str((await self.ask("POST", "/v1/workspaces", body))["id"])

    async def session(self, workspace: str) -> str:
        """Create a session; return its id."""
        return str((await self.ask("POST", f"/v1/workspaces/{workspace}/sessions", {"title": "bench"}))["id"])

    async def prompt(self, workspace: str, session: str, prompt: str, *, run: str = "") -> str:
        """Submit a prompt; return the id of its run, which is `run` if that is given."""
        body = {"session_id": session, "prompt": prompt, "run_id": run or str(uuid.uuid4())}
        return str((await self.ask("POST", f"/v1/workspaces/{workspace}/agent", body))["run_id"])

    async def worker(self, workspace: str, *, memory: bool = False) -> Json:
        """Return the worker's status as the server reports it."""
        workers: list[Json] = await self.ask("GET", f"/v1/workers{'?memory=full' if memory else ''}")
        return next(each for each in workers if each["id"] == workspace)

    async def events(self, workspace: str, *, cursor: str = "", ids: bool = True) -> "Events":
        """Open the event stream of a workspace."""
        query = f"client_id={self.id}" + ("&ids=1" if ids else "")
        return await Events.open(self._path, f"/v1/workspaces/{workspace}/events?{query}", cursor)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Events:
    """One open event stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path, target: str, cursor: str = "") -> "Events":
        """Request the stream and read the head of the response."""
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
        last = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
        async with asyncio.timeout(WAIT_S):
            status, _ = await read_head(reader)
        if status != 200:
            raise RuntimeError(f"GET {target}: {status}")
        return cls(reader, writer)

    async def __aiter__(self) -> AsyncIterator[Event]:
        event_id = ""
        while line := await self.reader.readline():
            # Chunk sizes and empty lines are skipped: an event is never split over two chunks.
            if line.startswith(b"id: "):
                event_id = line[4:].strip().decode()
            elif line.startswith(b"data: "):
                at = time.monotonic()
                outer = msgspec.json.decode(line[6:])
                inner = outer["payload"]
                yield Event(at, outer["type"], inner["type"], inner["payload"], event_id)
                event_id = ""

    async def until(self, matches: Callable[[Event], bool]) -> Event:
        """Return the next event that matches."""
        async with asyncio.timeout(WAIT_S):
            async for event in self:
                if matches(event):
                    return event
        raise RuntimeError("the stream ended")

    async def first_text(self) -> Event:
        """Return the next message event with text of the model."""
        return await self.until(lambda e: e.kind == "message" and e.payload["role"] == "assistant" and e.text != "")

    async def end_of(self, run_id: str) -> Event:
        """Return the event that ends a run."""
        return await self.until(lambda e: e.kind == "run_complete" and e.payload.get("run_id") == run_id)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read the head of a response; return its status and headers, names in lower case."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
