"""Serve a model on loopback, with both interfaces of OpenAI and that of Anthropic, whose tokens the test sends.

Each request waits as an `Exchange` until the test takes it with `next_call` and streams the answer. `model_requests`
checks that a real provider would accept each request.
"""

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.support.checks.model_requests import CHECKS, InvalidRequest
from tests.support.clients.http_client import read_head
from tests.support.fakes.openai_responses import ResponseEvents

API_KEY = "canary-key-do-not-log-0123456789"
MODEL = "scripted-1"
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_STREAM = ("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", "Connection: close")


@dataclass(eq=False)
class Exchange:
    """One request of a worker, and the answer that the test streams."""

    dialect: str  # `openai` (chat completions), `responses` or `anthropic`
    body: dict[str, Any]
    headers: dict[str, str]
    _reader: asyncio.StreamReader = field(repr=False)
    _writer: asyncio.StreamWriter = field(repr=False)
    _closed: asyncio.Event = field(repr=False, default_factory=asyncio.Event)
    _is_open: bool = False
    _blocks: int = 0
    _in_text: bool = False
    _tools: int = 0
    usage: tuple[int, int, int, int] = (11, 7, 0, 0)
    """Tokens: the whole input, the output, and the parts of the input read from and written to a cache."""
    cost: float | None = None
    _response: ResponseEvents = field(repr=False, default_factory=lambda: ResponseEvents(MODEL))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation in the request, in the format of the dialect."""
        messages: list[dict[str, Any]] = self.body["input" if self.dialect == "responses" else "messages"]
        return messages

    @property
    def prompt(self) -> str:
        """The text of the newest user message."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return _text(message["content"])
        return ""

    async def tokens(self, *texts: str) -> None:
        """Stream text, one event for each piece."""
        await self.open()
        for text in texts:
            if self.dialect == "openai":
                await self.send_chunk({"content": text})
            elif self.dialect == "responses":
                await self.send_events(self._response.text(text))
            else:
                await self._begin_text()
                await self.send_event(
                    "content_block_delta", {"index": self._blocks, "delta": {"type": "text_delta", "text": text}}
                )

    async def tool_call(self, call_id: str, name: str, arguments: object) -> None:
        """Call a tool. A string in `arguments` is sent unchanged, valid JSON or not."""
        await self.open()
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        if self.dialect == "openai":
            function = {"name": name, "arguments": text}
            call = {"index": self._tools, "id": call_id, "type": "function", "function": function}
            await self.send_chunk({"tool_calls": [call]})
        elif self.dialect == "responses":
            await self.send_events(self._response.call(call_id, name, text))
        else:
            await self._end_text()
            index, self._blocks = self._blocks, self._blocks + 1
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            await self.send_event("content_block_start", {"index": index, "content_block": block})
            delta = {"type": "input_json_delta", "partial_json": text}
            await self.send_event("content_block_delta", {"index": index, "delta": delta})
            await self.send_event("content_block_stop", {"index": index})
        self._tools += 1

    async def thinking(self, item_id: str, texts: list[str], signature: str) -> None:
        """Stream reasoning: summaries of one item for `responses`, else one block per text, all with the signature."""
        await self.open()
        if self.dialect == "responses":
            await self.send_events(self._response.reasoning(item_id, texts, signature))
            return
        for text in texts:
            await self._end_text()
            index, self._blocks = self._blocks, self._blocks + 1
            block = {"type": "thinking", "thinking": "", "signature": ""}
            await self.send_event("content_block_start", {"index": index, "content_block": block})
            for delta in (
                {"type": "thinking_delta", "thinking": text},
                {"type": "signature_delta", "signature": signature},
            ):
                await self.send_event("content_block_delta", {"index": index, "delta": delta})
            await self.send_event("content_block_stop", {"index": index})

    async def finish(self, reason: str | None = None) -> None:
        """End the answer; the default reason is `stop`, or after a tool call `tool_calls`, or what the dialect uses."""
        await self.open()
        if self.dialect == "openai":
            await self.send_chunk({}, reason or ("tool_calls" if self._tools else "stop"))
            input_tokens, output_tokens, cached, _ = self.usage
            usage: dict[str, Any] = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
            usage["total_tokens"] = input_tokens + output_tokens
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            usage |= {"cost": self.cost} if self.cost is not None else {}
            await self._data(_CHUNK | {"choices": [], "usage": usage})
            await self._write(b"data: [DONE]\n\n")
        elif self.dialect == "responses":
            input_tokens, output_tokens, cached, _ = self.usage
            details = {"input_tokens_details": {"cached_tokens": cached}}
            self._response.usage |= {"input_tokens": input_tokens, "output_tokens": output_tokens, **details}
            await self.send_events(self._response.end(reason or "completed"))
        else:
            await self._end_text()
            delta = {"stop_reason": reason or ("tool_use" if self._tools else "end_turn"), "stop_sequence": None}
            await self.send_event("message_delta", {"delta": delta, "usage": {"output_tokens": self.usage[1]}})
            await self.send_event("message_stop", {})
        await self.cut()

    async def reply(self, *texts: str) -> None:
        """Stream a whole answer."""
        await self.tokens(*texts)
        await self.finish()

    async def cut(self) -> None:
        """End the HTTP body cleanly; without `finish` before, the final event is missing."""
        await self.open()
        await self._write_raw(b"0\r\n\r\n")
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def garbage(self, data: bytes) -> None:
        """Send bytes inside the event stream that no provider would send."""
        await self.open()
        await self._write(data)

    async def refuse(
        self,
        status: int,
        *,
        retry_after: str | None = None,
        message: str = "scripted failure",
        kind: str = "scripted",
        code: str | None = None,
    ) -> None:
        """Answer with an error status instead of a stream."""
        body = json.dumps({"type": "error", "error": {"message": message, "type": kind, "code": code}}).encode()
        lines = [f"HTTP/1.1 {status} Scripted", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if retry_after is not None:
            lines.append(f"Retry-After: {retry_after}")
        await self._write_raw(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode() + body)
        self._writer.close()

    @property
    def is_closed(self) -> bool:
        """Return whether the worker has closed the connection."""
        return self._closed.is_set()

    async def wait_closed(self, timeout_s: float = 5.0) -> None:
        """Wait until the worker has closed the connection."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()
        except TimeoutError:
            raise AssertionError(f"the worker did not close its connection to the model within {timeout_s} s") from None

    async def open(self) -> None:
        """Send the headers and the opening events of the answer, once."""
        if self._is_open:
            return
        self._is_open = True
        await self._write_raw(("\r\n".join(_STREAM) + "\r\n\r\n").encode())
        if self.dialect == "openai":
            await self.send_chunk({"role": "assistant", "content": ""})
        elif self.dialect == "responses":
            await self.send_events(self._response.begin())
        else:
            total, _, read, written = self.usage
            cached = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
            usage = {"input_tokens": total - read - written, "output_tokens": 1, **cached}
            message = {"id": "m", "type": "message", "role": "assistant", "model": MODEL, "content": []}
            await self.send_event(
                "message_start", {"message": message | {"stop_reason": None, "stop_sequence": None, "usage": usage}}
            )

    async def send_chunk(self, delta: dict[str, Any], reason: str | None = None) -> None:
        """Send a chunk of OpenAI's chat completions."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        await self._data(_CHUNK | {"choices": [choice]})

    async def _begin_text(self) -> None:
        if not self._in_text:
            self._in_text = True
            block = {"type": "text", "text": ""}
            await self.send_event("content_block_start", {"index": self._blocks, "content_block": block})

    async def _end_text(self) -> None:
        if self._in_text:
            self._in_text = False
            await self.send_event("content_block_stop", {"index": self._blocks})
            self._blocks += 1

    async def send_event(self, name: str, value: dict[str, Any]) -> None:
        """Send a named event of Anthropic's or OpenAI's Responses interface."""
        await self._write(f"event: {name}\ndata: {json.dumps({'type': name} | value)}\n\n".encode())

    async def send_events(self, events: list[dict[str, Any]]) -> None:
        """Send events of OpenAI's Responses interface."""
        for event in events:
            await self.send_event(event["type"], event)

    async def _data(self, value: dict[str, Any]) -> None:
        await self._write(f"data: {json.dumps(value)}\n\n".encode())

    async def _write(self, data: bytes) -> None:
        await self._write_raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def _write_raw(self, data: bytes) -> None:
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while await self._reader.read(65536):
                pass
        self._closed.set()


class Provider:
    """The server. `exchanges` are all requests; an invalid one is in `violations` and fails the test at its end."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.violations: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._waiting: asyncio.Queue[Exchange] = asyncio.Queue()

    async def __aenter__(self) -> "Provider":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for exchange in self.exchanges:
            exchange._writer.close()

    async def next_call(self, timeout_s: float = 10.0) -> Exchange:
        """Wait for the next request that was not yet taken and return it. Raises AssertionError on timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._waiting.get()
        except TimeoutError:
            raise AssertionError(
                f"no request to the model within {timeout_s} s; so far {len(self.exchanges)}"
            ) from None

    def config(self, dialect: str = "openai") -> dict[str, Any]:
        """Return the content of a `bulkhead.json` that selects this model."""
        kind = {"anthropic": "anthropic", "responses": "openai"}.get(dialect, "openai-compat")
        url = self.url if dialect == "anthropic" else f"{self.url}/v1"
        model = {"id": MODEL, "name": "Scripted", "context_window": 100_000, "default_max_tokens": 1000}
        provider = {"id": "loop", "name": "Loop", "type": kind, "base_url": url, "api_key": API_KEY, "models": [model]}
        choice = {"model": MODEL, "provider": "loop"}
        return {"providers": {"loop": provider}, "models": {"large": choice, "small": choice}}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n")).decode()
            _, headers = await read_head(_Prefixed(reader))  # type: ignore[arg-type]
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        dialect = "anthropic" if "/messages" in request else "responses" if "/responses" in request else "openai"
        exchange = Exchange(dialect, body, headers, reader, writer)
        try:
            CHECKS[dialect](body)
        except InvalidRequest as error:
            self.violations.append(f"{error}: {json.dumps(exchange.messages)[:2000]}")
        self.exchanges.append(exchange)
        self._waiting.put_nowait(exchange)
        await exchange._watch()


class _Prefixed:
    """Put a status line before a header block whose first line was read already, because `read_head` expects one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readuntil(self, separator: bytes) -> bytes:
        return b"X 0\r\n" + await self._reader.readuntil(separator)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if block.get("type") in ("text", "input_text"))
