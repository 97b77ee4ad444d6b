"""Serve web pages on loopback: pages, redirects, endless, missing and incomplete responses, as a test defines them."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def page(body: str | bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", *more: str) -> Answer:
    """Make a complete response."""
    data = body.encode() if isinstance(body, str) else body

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(data)}", *more]
        writer.write(("\r\n".join([*head, "Connection: close"]) + "\r\n\r\n").encode() + data)
        await writer.drain()

    return answer


def redirect(to: str) -> Answer:
    """Make a redirect."""
    return page("", "text/plain", "302 Found", f"Location: {to}")


async def flood(writer: asyncio.StreamWriter) -> None:
    """Send a response that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def silence(writer: asyncio.StreamWriter) -> None:
    """Never respond."""
    await asyncio.Event().wait()


async def cut(writer: asyncio.StreamWriter) -> None:
    """Send a response that is shorter than its Content-Length."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nhalf of it")
    await writer.drain()


@dataclass
class Pages:
    """The server. `answers` maps paths; `requested` are the targets in order, `bodies` the non-empty request bodies."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    port: int = 0

    async def __aenter__(self) -> "Pages":
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, path: str = "/") -> str:
        """Return a URL on this server."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split()[1].decode()
            self.requested.append(target)
            if length := _LENGTH.search(head):
                self.bodies.append(await reader.readexactly(int(length[1])))
            await self.answers.get(target.partition("?")[0], page("nothing", status="404 Not Found"))(writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
