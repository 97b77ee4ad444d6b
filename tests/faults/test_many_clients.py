"""Connect a thousand clients to one workspace, and let hundreds reconnect at once (C03, C05)."""

import asyncio
import resource
from collections.abc import Iterator

import pytest

from tests.support.clients.http_client import ConnectionLost
from tests.support.clients.light_reader import LightReader, all_saw_end, assert_exact, closed_at_end, open_all
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.process_usage import resident_bytes

CLIENTS = 1000
STEPS = (250, 500, CLIENTS)
BYTES_A_CLIENT_MAX = 100_000
SHAPE_SLACK_BYTES = 8_000_000
"""Noise of the allocator; memory that grows with the square of the clients is far above it."""

RECONNECTING = 200


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise the descriptor limit of this process and of the server that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4096
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the test needs {needed} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.house(limits={"clients_max": CLIENTS + 2})  # and the workspace's own stream, and the neighbour's
async def test_C03_a_thousand_clients_follow_one_run(house: ServerHarness, many_descriptors: None) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt("/tokens 100000 5")
    readers: list[LightReader] = []
    memory: dict[int, int] = {}
    with closed_at_end(readers):
        for size in STEPS:
            readers += [LightReader(house.server.socket_path, workspace.id) for _ in range(size - len(readers))]
            for begin in range(0, size, 50):
                await open_all([reader for reader in readers[begin : begin + 50] if not reader.is_open])
            await text_at_every_client(readers)
            memory[size] = resident_bytes(house.server.pid)
        refused = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/events")).expect(503)
        assert refused.code == "too_many_clients"
        assert int(refused.headers["retry-after"]) >= 1
        beside = await workspace.client.create_session(workspace.id, "beside")
        for word in ("one", "two", "three"):
            await workspace.client.prompt(workspace.id, beside, f"/say {word}")
        (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
        assert (await workspace.ended(run))["cancelled"] is True
        await workspace.works()
        last = await workspace.prompt("/say the last")
        await all_saw_end(readers, last)
        stored = house.stored(workspace)
        for reader in readers:
            assert_exact(reader, stored, after=reader.base)
    print(f"resident bytes of the supervisor by clients: {memory}")
    first, second = memory[500] - memory[250], memory[1000] - memory[500]
    assert (memory[1000] - memory[250]) / 750 < BYTES_A_CLIENT_MAX, memory
    assert second < 4 * max(first, 0) + SHAPE_SLACK_BYTES, memory


@pytest.mark.house(limits={"stream_retry_ms": 50, "stream_retry_jitter_ms": 400})
async def test_C05_two_hundred_clients_reconnect_after_a_restart(house: ServerHarness, many_descriptors: None) -> None:
    workspace = await house.workspace(model="openai")
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    readers = [LightReader(house.server.socket_path, workspace.id) for _ in range(RECONNECTING)]
    with closed_at_end(readers):
        await open_all(readers)
        await eventually(
            lambda: all(reader.base and reader.retries_ms for reader in readers), what="the first id of each stream"
        )
        waits = [reader.retries_ms[0] for reader in readers]
        assert all(50 <= wait <= 450 for wait in waits)
        assert len(set(waits)) > 50, "all clients reconnect at the same moment"
        assert max(waits) - min(waits) > 200
        await house.server.kill9()
        await eventually(lambda: not any(reader.is_open for reader in readers), what="all streams cut")
        await call.tokens("meanwhile ")
        reconnects = [asyncio.ensure_future(reconnect(reader)) for reader in readers]
        try:
            await house.server.restart()
            async with asyncio.timeout(20):
                await asyncio.gather(*reconnects)
        finally:
            for task in reconnects:
                task.cancel()
            await asyncio.wait(reconnects)
        await call.reply("after")
        assert (await workspace.ended(run))["text"] == "before meanwhile after"
        assert (await workspace.worker()).identity == worker.identity, (
            "the reconnects delayed the adoption: not the same worker"
        )
        assert (await house.worker(workspace.id))["restarts"] == 0
        last = await workspace.prompt("the last")
        await (await house.provider.next_call()).reply("the last")
        await all_saw_end(readers, last)
        stored = house.stored(workspace)
        for reader in readers:
            assert_exact(reader, stored, after=reader.base)


async def text_at_every_client(readers: list[LightReader]) -> None:
    """Wait until the run streams to each of the readers."""
    for reader in readers:
        reader.snapshots = 0
    await eventually(
        lambda: all(reader.snapshots > 5 for reader in readers), timeout_s=15.0, what="text at every client"
    )


async def reconnect(reader: LightReader) -> None:
    """Reconnect as a client should: wait for the time in `retry` before each attempt."""
    for _ in range(100):
        await asyncio.sleep(reader.retries_ms[-1] / 1000)
        try:
            if await reader.open() == 200:
                return
        except (OSError, ConnectionLost):
            continue
        reader.close()
    raise AssertionError("the client was not accepted again")
