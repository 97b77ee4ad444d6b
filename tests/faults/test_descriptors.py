"""Let the supervisor run out of descriptors: new connections get 503, and existing ones are still served."""

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
"""More connections than the server refuses in one pass of its loop."""

BODY_BYTES = 1024 * 1024
"""More than the buffers of a connection hold while the server does not read."""

SHELL_LIMIT = 512

CPU_SHARE_MAX = 0.05
"""Share of one core, with two runs and many refused connections; a loop that retries at once would take all of it."""


async def test_H02_new_connections_get_503_and_existing_ones_are_served(house: ServerHarness) -> None:
    workspace = await house.workspace()
    async with wire(house.server.socket_path) as existing:
        await check_works(house, workspace, existing)
        async with no_descriptors_left(house):
            cpu, began = cpu_s(house.server.pid), time.monotonic()
            for _ in range(ROUNDS):
                await asyncio.gather(*(check_refused(house) for _ in range(AT_ONCE)))
            share = (cpu_s(house.server.pid) - cpu) / (time.monotonic() - began)
            print(f"refusing {ROUNDS * AT_ONCE} connections took {share:.1%} of a core")
            assert share < CPU_SHARE_MAX, "accepting must pause and not spin"
            assert house.server.log.count("accepting pauses") == 1, (
                "the pause must be logged once, however long it lasts"
            )
            await check_works(house, workspace, existing)
        await workspace.works()
    assert "accepting again" in house.server.log


async def test_H02_a_client_that_still_writes_can_read_its_answer(house: ServerHarness) -> None:
    async with no_descriptors_left(house):
        reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
        writer.write(head("POST", "/v1/workspaces", {"Content-Length": str(BODY_BYTES)}))
        # Not 503: the Crush client would take it for the end of the server, and put its own in its place.
        assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.write(bytes(BODY_BYTES))
        await writer.drain()
        writer.write_eof()
        assert b'"code":"unavailable"' in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_H02_a_client_that_sends_nothing_gets_503_too(house: ServerHarness) -> None:
    async with no_descriptors_left(house), wire(house.server.socket_path) as silent:
        status, _, _ = await silent.answer()
        assert status == 503
        assert await silent.rest() == b""
        assert await house.server.stop() == 0, "SIGTERM must not be lost while a client is being refused"


@pytest.mark.house(neighbour=False)
async def test_H02_the_server_shuts_down_in_order_without_descriptors(house: ServerHarness) -> None:
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
async def test_H02_a_small_soft_limit_is_raised_at_the_start(house: ServerHarness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL_LIMIT, hard))
    try:
        await house.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expected = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    assert resource.prlimit(house.server.pid, resource.RLIMIT_NOFILE) == (expected, hard)


async def check_refused(house: ServerHarness) -> None:
    """Check that a new connection gets 503 and is closed."""
    async with wire(house.server.socket_path) as connection:
        connection.send(head("GET", "/v1/health", {}))
        status, headers, body = await connection.answer()
        assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "1", "unavailable")
        assert await connection.rest() == b""


async def check_works(house: ServerHarness, workspace: WorkspaceFixture, existing: RawConnection) -> None:
    """Check that a run works over an existing connection."""
    run = str(uuid.uuid4())
    house.client_log.submitted(workspace.id, workspace.session, run)
    body = json.dumps({"session_id": workspace.session, "run_id": run, "prompt": "/say still here"}).encode()
    existing.send(head("POST", f"/v1/workspaces/{workspace.id}/agent", {"Content-Length": str(len(body))}) + body)
    status, _, answer = await existing.answer()
    assert status == 202, answer
    assert (await workspace.ended(run))["text"] == "still here"


@contextlib.asynccontextmanager
async def no_descriptors_left(house: ServerHarness) -> AsyncIterator[None]:
    """Lower the server's limit to below the first descriptor that it could open."""
    pid = house.server.pid
    used = descriptors(pid)
    free = next(number for number in range(len(used) + 1) if number not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    async with contextlib.AsyncExitStack() as stack:
        try:
            status = 0
            while status != 503:  # a connection that is being closed may free a descriptor for the next
                connection = await stack.enter_async_context(wire(house.server.socket_path))
                connection.send(head("GET", "/v1/health", {}))
                status, _, _ = await connection.answer()
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
