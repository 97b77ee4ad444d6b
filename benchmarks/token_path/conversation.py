"""Submit a prompt and read its reply: from the server as an API client, or through the bare relay."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.client import Client, Events, Json, read_head
from benchmarks.provider import directive
from benchmarks.server import Server

REPLY_S_MAX = 120.0


@dataclass
class Reply:
    """The times of one reply on the monotonic clock, and the delay of each of its tokens, in seconds.

    `accepted` is the time of the 202, or of the response's head. Delays exist only for tokens that carry their time.
    """

    posted: float
    accepted: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    delays: list[float] = field(default_factory=list)


class Conversation(Protocol):
    """A source of replies, one at a time."""

    async def reply(self, tokens: int, rate: int = 0) -> Reply:
        """Submit a prompt for a reply of so many tokens, at `rate` per second or 0 for full speed; wait for its end."""
        ...


class ServerConversation:
    """One session of a workspace, with a client and an event stream of its own."""

    def __init__(self, client: Client, workspace: str, session: str, events: Events) -> None:
        self.client = client
        self.workspace = workspace
        self._session = session
        self._events = events
        self._ended_messages: set[str] = set()

    @classmethod
    async def open(cls, server: Server, directory: Path) -> "ServerConversation":
        """Create the workspace of a directory, attach to its events, initialise the agent and create a session."""
        client = server.client()
        workspace = await client.create(directory)
        events = await client.events(workspace, ids=False)
        await client.ask("POST", f"/v1/workspaces/{workspace}/agent/init", {"interactive": False})
        return cls(client, workspace, await client.session(workspace), events)

    async def reply(self, tokens: int, rate: int = 0) -> Reply:
        """Submit a prompt and read events until its run has ended. Raises RuntimeError if the reply is not complete."""
        run, seen, messages = str(uuid.uuid4()), 0, set[str]()
        result = Reply(posted=time.monotonic())
        posting = asyncio.create_task(self._post(directive(tokens, rate), run, result))
        async with asyncio.timeout(REPLY_S_MAX):
            async for event in self._events:
                if event.kind == "message" and event.payload["role"] == "assistant" and (text := event.text):
                    if event.payload["id"] in self._ended_messages:
                        continue
                    messages.add(event.payload["id"])
                    result.first = result.first or event.at
                    if rate:
                        result.delays += [event.at - float(stamp) for stamp in text[seen:].split()]
                    seen = len(text)
                elif event.kind == "run_complete" and event.payload.get("run_id") == run:
                    result.ended = event.at
                    _check_complete(event.payload, tokens)
                    break
            await posting
        self._ended_messages |= messages
        return result

    async def _post(self, prompt: str, run: str, result: Reply) -> None:
        await self.client.prompt(self.workspace, self._session, prompt, run=run)
        result.accepted = time.monotonic()

    async def new_session(self) -> None:
        """Continue in a new session of the same workspace."""
        self._session = await self.client.session(self.workspace)

    def close(self) -> None:
        """Close the connections."""
        self._events.close()
        self.client.close()


def _check_complete(payload: Json, tokens: int) -> None:
    count = len(payload.get("text", "").split())
    if payload.get("error") or count != tokens:
        raise RuntimeError(f"cannot measure: a reply has {count} of {tokens} tokens ({payload.get('error')})")


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


class BareConversation:
    """One connection to the provider through the bare relay: the floor of a conversation with the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> "BareConversation":
        """Connect to the relay's socket."""
        return cls(*await asyncio.open_unix_connection(path))

    async def reply(self, tokens: int, rate: int = 0) -> Reply:
        """Send a request and read its response. Raises RuntimeError if the reply is not complete."""
        result, count = Reply(posted=time.monotonic()), 0
        body = msgspec.json.encode(
            {"model": "bench", "messages": [{"role": "user", "content": directive(tokens, rate)}]}
        )
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        async with asyncio.timeout(REPLY_S_MAX):
            await read_head(self._reader)
            result.accepted = time.monotonic()
            while (line := await self._reader.readline()) != b"0\r\n":
                if not line.startswith(b"data: {"):
                    continue
                choices = _decode(line[6:]).choices
                text = (choices[0].delta.content or "") if choices else ""
                if text:
                    at = time.monotonic()
                    result.first = result.first or at
                    count += 1
                    if rate:
                        result.delays.append(at - float(text))
            await self._reader.readline()
        result.ended = time.monotonic()
        if count != tokens:
            raise RuntimeError(f"cannot measure: the bare relay sent {count} of {tokens} tokens")
        return result

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
