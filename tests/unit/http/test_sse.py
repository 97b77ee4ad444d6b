"""The event stream over real sockets: headers at once, framing, keep-alive, slow clients, limits, clean ends."""

import asyncio
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tornado.iostream import IOStream

from protocol.address import UnixAddress
from protocol.base.clock import SystemClock
from protocol.base.tasks import TaskOwner
from protocol.errors import NotFound
from protocol.events import Event
from protocol.limits import Limits
from supervisor.admission import Admission
from supervisor.http.access import TcpAccess, UnixAccess
from supervisor.http.http_listener import HttpListener
from supervisor.http.listeners import open_listener
from supervisor.http.messages import Request
from supervisor.http.routes import RouteTable
from supervisor.http.sse import EventStreams
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import ManagedWorkspace
from tests.support.clients.http_client import head, read_chunk, read_head
from tests.support.harness.stub_worker import workspace_at
from tests.support.run_coroutine import run

LOG = logging.getLogger("bulkhead.test")
TARGET = "/v1/workspaces/w/events"


class OneWorkspace:
    """A registry of exactly one."""

    def __init__(self, workspace: ManagedWorkspace) -> None:
        self.workspace = workspace

    async def wait_open(self) -> None:
        return

    def find(self, workspace_id: str) -> ManagedWorkspace:
        if workspace_id != "w":
            raise NotFound("nobody", code="workspace_unknown")
        return self.workspace


class Place:
    """One workspace behind a door."""

    def __init__(self, path: Path, workspace: ManagedWorkspace, tasks: TaskOwner) -> None:
        self.path = path
        self.workspace = workspace
        self.tasks = tasks
        self.number = 0

    async def open(
        self, target: str = TARGET, **headers: str
    ) -> tuple[int, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
        writer.write(head("GET", target, headers))
        status, found = await read_head(reader)
        return status, found, reader, writer

    def event(self, text: str = "x") -> None:
        """The worker tells of one more numbered event."""
        self.number += 1
        data = b'{"type":"message","payload":{"type":"created","payload":{"text":"%b"}}}' % text.encode()
        self.workspace.hub.take([Event(kind="message", data=data, number=self.number)])


@asynccontextmanager
async def place(
    path: Path,
    *,
    listening: socket.socket | None = None,
    look: Callable[[IOStream], IOStream] = lambda stream: stream,
    **limits: Any,
) -> AsyncIterator[Place]:
    """`look` gets each connection that a stream takes over."""
    workspace, _ = workspace_at(path, **limits)
    workspace.hub.log_opened("log", 0)
    tasks = TaskOwner("test", LOG)
    streams = EventStreams(
        registry=cast(Registry, OneWorkspace(workspace)),
        admission=Admission(idle_exit_s=None),
        limits=Limits(**limits),
        clock=SystemClock(),
        random=random.Random(1),
        log=LOG,
    )

    async def answer(request: Request) -> None:
        detach = request.detach
        request.detach = lambda: look(detach())
        await streams(request)

    door = HttpListener(
        listening=listening or open_listener(UnixAddress(path / "s")).socket,
        access=TcpAccess(frozenset(["bulkhead"]), None) if listening else UnixAccess(),
        answer=answer,
        table=RouteTable(),
        limits=Limits(**limits),
        random=random.Random(1),
        log=LOG,
        tasks=tasks,
    )
    door.open()
    try:
        yield Place(path / "s", workspace, tasks)
    finally:
        await workspace.close("end")
        door.close()
        await tasks.join(5)
        await tasks.close()
        await door.close_connections()


def test_headers_at_once_then_events_then_a_clean_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            status, headers, reader, writer = await here.open()
            assert status == 200
            assert headers["connection"] == "close"
            assert "transfer-encoding" not in headers
            here.event("one")
            assert (await reader.readline()).startswith(b'data: {"type":"message"')
            assert await reader.readline() == b"\n"
            here.workspace.hub.close()
            assert await reader.read() == b""
            writer.close()

    run(main())


def test_stream_with_ids_is_chunked_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            _, headers, reader, writer = await here.open(f"{TARGET}?ids=1")
            assert headers["transfer-encoding"] == "chunked"
            text = await read_chunk(reader)
            assert text.startswith(b"retry: ")
            here.event()
            while b"id: log.1\n" not in text:
                text += await read_chunk(reader)
            here.workspace.hub.close()
            rest = b""
            while chunk := await read_chunk(reader):
                rest += chunk
            assert rest.rsplit(b"retry: ", 1)[1].strip().isdigit()
            writer.close()

    run(main())


def test_last_event_id_asks_for_ids_and_a_bad_one_for_a_reset(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            here.event()
            _, headers, reader, writer = await here.open(TARGET, **{"Last-Event-ID": "what is this"})
            assert headers["transfer-encoding"] == "chunked"
            text = b""
            while b'"type":"reset"' not in text:
                text += await read_chunk(reader)
            writer.close()

    run(main())


def test_quiet_stream_is_kept_alive_by_empty_lines(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path, stream_keepalive_s=0.01) as here:
            _, _, reader, writer = await here.open()
            assert await reader.readexactly(3) == b"\n\n\n"
            writer.close()

    run(main())


def test_C01_client_that_takes_nothing_is_cut_and_others_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path, stream_write_deadline_s=0.2) as here:
            _, _, slow, slow_writer = await here.open()
            _, _, quick, writer = await here.open()
            slow_writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(100):
                here.event("y" * 20_000)
            for _ in range(100):
                await quick.readline()
                await quick.readline()
            async with asyncio.timeout(10):
                while here.workspace.hub.streams > 1:  # noqa: ASYNC110 - the server's own deadline ends this
                    await asyncio.sleep(0.01)
            here.event("last")
            assert b"last" in await quick.readline()
            writer.close()
            slow_writer.close()
            slow.feed_eof()

    run(main())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can be told how long to wait")
def test_C02_peer_that_vanished_is_given_up_when_a_slow_one_would_be(tmp_path: Path) -> None:
    """Such a peer takes keep-alives without a word: they rest in the kernel, which is told how long."""

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        found: list[int] = []

        def look(stream: IOStream) -> IOStream:
            assert stream.socket is not None
            found.append(stream.socket.fileno())
            return stream

        async with place(tmp_path, listening=listening, look=look, stream_write_deadline_s=7.5) as here:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(head("GET", TARGET, {}))
            assert (await read_head(reader))[0] == 200
            with socket.socket(fileno=os.dup(found[0])) as connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
            here.event("one")
            assert b"one" in await reader.readline()
            writer.close()

    run(main())


def test_C02_streams_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path, detach_grace_s=0.0) as here:
            for _ in range(50):
                _, _, _, writer = await here.open()
                writer.close()
            async with asyncio.timeout(10):
                while here.workspace.hub.streams or len(here.tasks) or here.workspace.is_used:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    run(main())


def test_C03_streams_beyond_the_cap_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path, clients_max=1) as here:
            _, _, _, writer = await here.open()
            status, headers, _, refused = await here.open()
            assert status == 503
            assert headers["retry-after"] == "5"
            refused.close()
            writer.close()

    run(main())


def test_old_client_without_chunks(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            reader, writer = await asyncio.open_unix_connection(here.path)
            writer.write(f"GET {TARGET}?ids=1 HTTP/1.0\r\n\r\n".encode())
            status, headers = await read_head(reader)
            assert status == 200
            assert "transfer-encoding" not in headers
            writer.close()

    run(main())
