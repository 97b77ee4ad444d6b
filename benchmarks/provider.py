"""Serve scripted replies in OpenAI's chat format over HTTP, as a process of its own: `python -m benchmarks.provider`.

Prints its port in one line and exits when standard input closes. A prompt chooses its reply with `[tokens=N]` or
`[tokens=N rate=R]`; the last such text in the body counts, and without one the reply has 20 tokens at full speed.

- At full speed the tokens are `w000000 w000001 …`, up to 64 of them in one write and one HTTP chunk.
- At a rate of R tokens per second each token is an HTTP chunk, and its text is the time at which it was due, in seconds
  of the monotonic clock, which all processes of a machine share: the reader computes the delay from it.

The model `title` answers everything with 4 tokens, so that naming a session does not repeat the reply of its prompt.
"""

import asyncio
import functools
import json
import re
import socket
import sys
import time

TOKENS = 20  # of a reply to a prompt that chooses none
TITLE_TOKENS = 4
TOKENS_PER_WRITE = 64
HEAD_MAX_BYTES = 65_536

_DIRECTIVE = re.compile(rb"\[tokens=(\d+)(?: rate=(\d+))?\]")
_TITLE = re.compile(rb'"model":\s*"title"')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def directive(tokens: int, rate: int = 0) -> str:
    """Return the text that makes a prompt be answered with so many tokens, at `rate` per second or 0 for full speed."""
    return f"[tokens={tokens} rate={rate}]" if rate else f"[tokens={tokens}]"


def chosen(body: bytes) -> tuple[int, int]:
    """Return the number of tokens and the rate that a request asks for."""
    if _TITLE.search(body):
        return TITLE_TOKENS, 0
    position = body.rfind(b"[tokens=")
    match = _DIRECTIVE.match(body, position) if position >= 0 else None
    return (int(match[1]), int(match[2] or 0)) if match else (TOKENS, 0)


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": choices}
    return b"data: " + json.dumps(chunk | more, separators=(",", ":")).encode() + b"\n\n"


def _delta(finish: str | None = None, **delta: str) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": finish}])


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_OPENING = _chunked(_delta(role="assistant", content=""))
_BEFORE, _AFTER = _delta(content="TEXT").split(b"TEXT")


def _ending(tokens: int) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
    return _chunked(_delta("stop") + _event([], usage=usage) + b"data: [DONE]\n\n") + b"0\r\n\r\n"


@functools.cache
def _writes(tokens: int) -> tuple[bytes, ...]:
    """Return the writes of a reply at full speed; they are the same for each request."""
    events = [_BEFORE + b"w%06d " % number + _AFTER for number in range(tokens)]
    blocks = [b"".join(events[at : at + TOKENS_PER_WRITE]) for at in range(0, tokens, TOKENS_PER_WRITE)]
    return (_HEAD + _OPENING, *map(_chunked, blocks), _ending(tokens))


class Connection(asyncio.Protocol):
    """Answers the requests of one persistent connection, one after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._reply: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; send small writes at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the reply that is being sent."""
        if self._reply is not None:
            self._reply.cancel()

    def data_received(self, data: bytes) -> None:
        """Start the reply when a whole request has arrived."""
        self._buffer += data
        if self._reply is None:
            self._start()

    def _start(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_MAX_BYTES:
                self._transport.abort()
            return
        head = bytes(self._buffer[: end + 2])
        length = _LENGTH.search(head)
        if not head.startswith(b"POST ") or length is None or b"/chat/completions " not in head.split(b"\r\n", 1)[0]:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        size = end + 4 + int(length[1])
        if len(self._buffer) < size:
            return
        body = bytes(self._buffer[end + 4 : size])
        del self._buffer[:size]
        self._reply = asyncio.get_running_loop().create_task(self._send(*chosen(body)))

    async def _send(self, tokens: int, rate: int) -> None:
        if rate:
            await self._send_paced(tokens, rate)
        else:
            for block in _writes(tokens):
                self._transport.write(block)
                await asyncio.sleep(0)  # lets the other streams continue
        self._reply = None
        self._start()

    async def _send_paced(self, tokens: int, rate: int) -> None:
        self._transport.write(_HEAD + _OPENING)
        started = time.monotonic()
        for number in range(tokens):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._transport.write(_chunked(_BEFORE + b"%.6f " % due + _AFTER))
        self._transport.write(_ending(tokens))


async def serve() -> None:
    """Serve on a free port of loopback until standard input closes."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(listener.sockets[0].getsockname()[1], flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()
    listener.close()


if __name__ == "__main__":
    asyncio.run(serve())
