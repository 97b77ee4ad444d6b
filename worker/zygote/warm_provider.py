"""Answer the requests of throwaway workers like a provider, on a port of the loopback interface.

One server for all wires: the first request of a prompt is answered with a tool call, the next one with text, in so many
pieces that the interpreter specialises the code that reads them.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable

_CALL_ID = "warm-call"
_ARGUMENTS = json.dumps({"file_path": ".bulkhead/.gitignore"})
_WORDS = 16
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class WarmProvider:
    """The server of one worker; runs on the worker's own loop."""

    def __init__(self) -> None:
        """Listen; connections wait until `start`. Raises OSError."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None

    def configuration(self, kind: str) -> str:
        """Return the content of a `bulkhead.json` that selects this server as a provider of type `kind`."""
        models = [{"id": "warm", "name": "warm", "context_window": 100_000, "default_max_tokens": 1000}]
        selected = {"provider": "warm", "model": "warm"}
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        provider = {"type": kind, "base_url": url, "api_key": "warm", "models": models}
        return json.dumps({"providers": {"warm": provider}, "models": {"large": selected, "small": selected}})

    async def start(self) -> None:
        """Answer requests."""
        self._server = await asyncio.start_server(_answer, sock=self._listener)

    def close(self) -> None:
        """Listen no longer; open connections end with their clients."""
        if self._server is not None:
            self._server.close()
        self._listener.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            may_call = b'"tools"' in body and _CALL_ID.encode() not in body
            if b"/messages" in head:
                events = _messages_events(may_call)
            elif b"/responses" in head:
                events = _responses_events(may_call)
            else:
                events = _chat_events(may_call)
            writer.write(_HEAD)
            for name, event in events:
                text = (f"event: {name}\n" if name else "") + f"data: {json.dumps(event)}\n\n"
                writer.write(f"{len(text):x}\r\n{text}\r\n".encode())
                await writer.drain()
            writer.write(b"0\r\n\r\n")


def _chat_events(may_call: bool) -> Iterable[tuple[str, object]]:
    def chunk(delta: object, finish: str | None = None) -> tuple[str, object]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return "", {"id": "w", "object": "chat.completion.chunk", "created": 1, "model": "warm", "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for _ in range(_WORDS):
        yield chunk({"content": "word "})
    if may_call:
        function = {"name": "view", "arguments": _ARGUMENTS}
        yield chunk({"tool_calls": [{"index": 0, "id": _CALL_ID, "type": "function", "function": function}]})
    yield chunk({}, "tool_calls" if may_call else "stop")
    yield "", {"id": "w", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


def _messages_events(may_call: bool) -> Iterable[tuple[str, object]]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "warm", "content": [], "usage": usage}
    blocks: list[tuple[object, list[object]]] = [
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "word "}] * _WORDS)
    ]
    if may_call:
        call = {"type": "tool_use", "id": _CALL_ID, "name": "view", "input": {}}
        blocks.append((call, [{"type": "input_json_delta", "partial_json": _ARGUMENTS}]))
    events: list[dict[str, object]] = [{"type": "message_start", "message": message}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    reason = "tool_use" if may_call else "end_turn"
    events.append({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage})
    events.append({"type": "message_stop"})
    return [(str(event["type"]), event) for event in events]


def _responses_events(may_call: bool) -> Iterable[tuple[str, object]]:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response = {
        "id": "w",
        "object": "response",
        "created_at": 1,
        "model": "warm",
        "status": "in_progress",
        "output": [],
    }
    message = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": message},
        *({"type": "response.output_text.delta", **place, "delta": "word "} for _ in range(_WORDS)),
        {"type": "response.output_text.done", **place, "text": "word " * _WORDS},
    ]
    if may_call:
        call = {"type": "function_call", "id": "f", "call_id": _CALL_ID, "name": "view", "arguments": _ARGUMENTS}
        events += [
            {"type": "response.output_item.added", "output_index": 1, "item": call},
            {
                "type": "response.function_call_arguments.done",
                "item_id": "f",
                "output_index": 1,
                "arguments": _ARGUMENTS,
            },
            {"type": "response.output_item.done", "output_index": 1, "item": call},
        ]
    events.append({"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}})
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return [(str(event["type"]), event) for event in numbered]
