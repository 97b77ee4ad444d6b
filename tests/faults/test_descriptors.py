"""Fault matrix 8: the supervisor has no descriptors left (H02)."""

import asyncio
import contextlib
import json
import resource
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from supervisor.runtime import DESCRIPTORS_WANTED
from tests.support.clients.http_client import head
from tests.support.clients.raw_connection import RawConnection, wire
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.process_usage import cpu_s, descriptors

ROUNDS = 10
AT_ONCE = 20
"""More than are told in one turn."""

BODY_BYTES = 1024 * 1024
"""More than the buffers of a connection take while nothing reads from it."""

SHELL_LIMIT = 512

CPU_SHARE_MAX = 0.05
"""Of one core, beside two runs and a crowd that is turned away; a loop that asks again at once takes all of it."""


async def test_H02_those_who_come_are_told_and_those_who_are_here_go_on(house: ServerHarness) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as inside:
        await still_works(house, workspace, inside)
        async with no_descriptors_left(house):
            cpu, began = cpu_s(house.server.pid), time.monotonic()
            for _ in range(ROUNDS):
                await asyncio.gather(*(is_turned_away(house) for _ in range(AT_ONCE)))
            share = (cpu_s(house.server.pid) - cpu) / (time.monotonic() - began)
            print(f"turning away {ROUNDS * AT_ONCE} connections took {share:.1%} of a core")
            assert share < CPU_SHARE_MAX, "accepting is not paused but spun"
            assert house.server.log.count("accepting pauses") == 1, "once, however long it lasts"
            await still_works(house, workspace, inside)
        await workspace.works()
    assert "accepting again" in house.server.log


async def test_H02_a_client_that_still_writes_can_read_its_answer(house: ServerHarness) -> None:
    async with no_descriptors_left(house):
        reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
        writer.write(head("POST", "/v1/workspaces", {"Content-Length": str(BODY_BYTES)}))
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        writer.write(bytes(BODY_BYTES))
        await writer.drain()
        writer.write_eof()
        assert b'"code":"unavailable"' in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_H02_a_client_that_says_nothing_is_answered_too(house: ServerHarness) -> None:
    async with no_descriptors_left(house), wire(house.server.socket_path) as silent:
        status, _, _ = await silent.answer()
        assert status == 503
        assert await silent.rest() == b""
        assert await house.server.stop() == 0, "no order to end is lost while a client is being turned away"


@pytest.mark.house(neighbour=False)
async def test_H02_told_to_leave_without_descriptors(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    worker = await workspace.worker()
    await workspace.streaming("cut ")
    async with no_descriptors_left(house):
        assert await house.server.stop() == 0
    assert not worker.is_alive
    assert workspace.watcher.ends == ["clean"]
    [run] = house.stored(workspace).runs
    assert (run.state, run.outcome) == ("ended", "cancelled")


@pytest.mark.house(start=False, neighbour=False)
async def test_H02_a_shells_small_limit_is_raised_at_the_start(house: ServerHarness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL_LIMIT, hard))
    try:
        await house.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    assert resource.prlimit(house.server.pid, resource.RLIMIT_NOFILE) == (wanted, hard)


async def is_turned_away(house: ServerHarness) -> None:
    """A connection is answered 503 before long, and closed."""
    async with wire(house.server.socket_path) as outside:
        outside.send(head("GET", "/v1/health", {}))
        status, headers, body = await outside.answer()
        assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "1", "unavailable")
        assert await outside.rest() == b""


async def still_works(house: ServerHarness, workspace: WorkspaceFixture, inside: RawConnection) -> None:
    """A run over a connection that was there before."""
    run = str(uuid.uuid4())
    house.client_log.submitted(workspace.id, workspace.session, run)
    body = json.dumps({"session_id": workspace.session, "run_id": run, "prompt": "/say still here"}).encode()
    inside.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(len(body))}) + body)
    status, _, answer = await inside.answer()
    assert status == 202, answer
    assert (await workspace.ended(run))["text"] == "still here"


@contextlib.asynccontextmanager
async def no_descriptors_left(house: ServerHarness) -> AsyncIterator[None]:
    """The server's limit is below the first descriptor that it could open."""
    pid = house.server.pid
    taken = descriptors(pid)
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    async with contextlib.AsyncExitStack() as stack:
        try:
            status = 0
            while status != 503:  # a connection that was about to be closed leaves its descriptor to the next
                outside = await stack.enter_async_context(wire(house.server.socket_path))
                outside.send(head("GET", "/v1/health", {}))
                status, _, _ = await outside.answer()
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
