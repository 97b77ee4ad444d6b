"""The event stream over real sockets: immediate headers, framing, keep-alive, slow clients, limits, orderly ends."""

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

LOG = logging.getLogger("bulkhead.test")
TARGET = "/v1/workspaces/w/events"


class OneWorkspace:
    """Stands in for a registry that has exactly one workspace."""

    def __init__(self, workspace: ManagedWorkspace) -> None:
        self.workspace = workspace

    async def wait_open(self) -> None:
        return

    def find(self, workspace_id: str) -> ManagedWorkspace:
        if workspace_id != "w":
            raise NotFound("unknown", code="workspace_unknown")
        return self.workspace


class StreamHarness:
    """One workspace behind a listener that serves event streams."""

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
        status, response_headers = await read_head(reader)
        return status, response_headers, reader, writer

    def event(self, text: str = "x") -> None:
        """Deliver the next numbered event, as if the worker had sent it."""
        self.number += 1
        data = b'{"type":"message","payload":{"type":"created","payload":{"text":"%b"}}}' % text.encode()
        self.workspace.hub.take([Event(kind="message", data=data, number=self.number)])


@asynccontextmanager
async def serving(
    path: Path,
    *,
    listening: socket.socket | None = None,
    on_detached: Callable[[IOStream], object] = lambda stream: None,
    **limits: Any,
) -> AsyncIterator[StreamHarness]:
    """Serve one workspace; `on_detached` is called with each connection that a stream takes over."""
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

        def detach_and_report() -> IOStream:
            stream = detach()
            on_detached(stream)
            return stream

        request.detach = detach_and_report
        await streams(request)

    listener = HttpListener(
        listening=listening or open_listener(UnixAddress(path / "s")).socket,
        access=TcpAccess(frozenset(["bulkhead"]), None) if listening else UnixAccess(),
        answer=answer,
        table=RouteTable(),
        limits=Limits(**limits),
        random=random.Random(1),
        log=LOG,
        tasks=tasks,
    )
    listener.open()
    try:
        yield StreamHarness(path / "s", workspace, tasks)
    finally:
        await workspace.close("end")
        listener.close()
        await tasks.join(5)
        await tasks.close()
        await listener.close_connections()


async def test_headers_are_sent_at_once_then_events_then_an_orderly_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        status, headers, reader, writer = await server.open()
        assert status == 200
        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        server.event("one")
        assert (await reader.readline()).startswith(b'data: {"type":"message"')
        assert await reader.readline() == b"\n"
        server.workspace.hub.close()
        assert await reader.read() == b""
        writer.close()


async def test_a_stream_with_ids_is_chunked_and_ends_with_a_reconnect_delay(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _, headers, reader, writer = await server.open(f"{TARGET}?ids=1")
        assert headers["transfer-encoding"] == "chunked"
        text = await read_chunk(reader)
        assert text.startswith(b"retry: ")
        server.event()
        while b"id: log.1\n" not in text:
            text += await read_chunk(reader)
        server.workspace.hub.close()
        rest = b""
        while chunk := await read_chunk(reader):
            rest += chunk
        assert rest.rsplit(b"retry: ", 1)[1].strip().isdigit()
        writer.close()


async def test_last_event_id_turns_ids_on_and_an_invalid_one_gets_a_reset(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.event()
        _, headers, reader, writer = await server.open(TARGET, **{"Last-Event-ID": "what is this"})
        assert headers["transfer-encoding"] == "chunked"
        text = b""
        while b'"type":"reset"' not in text:
            text += await read_chunk(reader)
        writer.close()


async def test_a_stream_without_events_is_kept_alive_by_empty_lines(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_keepalive_s=0.01) as server:
        _, _, reader, writer = await server.open()
        assert await reader.readexactly(3) == b"\n\n\n"
        writer.close()


async def test_C01_a_client_that_does_not_read_is_disconnected_and_others_continue(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_write_deadline_s=0.2) as server:
        _, _, slow, slow_writer = await server.open()
        _, _, quick, writer = await server.open()
        slow_writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            server.event("y" * 20_000)
        for _ in range(100):
            await quick.readline()
            await quick.readline()
        async with asyncio.timeout(10):
            while server.workspace.hub.streams > 1:  # noqa: ASYNC110 - the server's own deadline ends this
                await asyncio.sleep(0.01)
        server.event("last")
        assert b"last" in await quick.readline()
        writer.close()
        slow_writer.close()
        slow.feed_eof()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has TCP_USER_TIMEOUT")
async def test_C02_a_vanished_peer_has_the_same_write_deadline_as_a_slow_one(tmp_path: Path) -> None:
    """The kernel keeps unacknowledged keep-alives for such a peer; TCP_USER_TIMEOUT limits for how long."""
    listening = socket.create_server(("127.0.0.1", 0))
    descriptors: list[int] = []

    def record_descriptor(stream: IOStream) -> None:
        assert stream.socket is not None
        descriptors.append(stream.socket.fileno())

    async with serving(
        tmp_path, listening=listening, on_detached=record_descriptor, stream_write_deadline_s=7.5
    ) as server:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(head("GET", TARGET, {}))
        assert (await read_head(reader))[0] == 200
        with socket.socket(fileno=os.dup(descriptors[0])) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
        server.event("one")
        assert b"one" in await reader.readline()
        writer.close()


async def test_C02_closed_streams_leave_no_task_and_no_claim(tmp_path: Path) -> None:
    async with serving(tmp_path, detach_grace_s=0.0) as server:
        for _ in range(50):
            _, _, _, writer = await server.open()
            writer.close()
        async with asyncio.timeout(10):
            while server.workspace.hub.streams or len(server.tasks) or server.workspace.is_used:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_C03_streams_above_the_limit_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, clients_max=1) as server:
        _, _, _, writer = await server.open()
        status, headers, _, refused = await server.open()
        assert status == 503
        assert headers["retry-after"] == "5"
        refused.close()
        writer.close()


async def test_an_http_1_0_client_gets_a_stream_without_chunks(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(f"GET {TARGET}?ids=1 HTTP/1.0\r\n\r\n".encode())
        status, headers = await read_head(reader)
        assert status == 200
        assert "transfer-encoding" not in headers
        writer.close()
