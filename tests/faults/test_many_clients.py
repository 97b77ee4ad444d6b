"""Fault matrix 9: very many clients at one workspace (C03), and all of them coming back at once (C05)."""

import asyncio
import resource
from collections.abc import Iterator

import pytest

from tests.support.clients.http_client import ConnectionLost
from tests.support.clients.light_reader import LightReader, all_saw_end, assert_exact, closed_at_end, open_all
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.process_usage import resident_bytes

CROWD = 1000
STEPS = (250, 500, CROWD)
BYTES_A_CLIENT_MAX = 100_000
SHAPE_SLACK_BYTES = 8_000_000
"""What an allocator takes and gives in lots; a growth with the square of the clients is far above it."""

RETURNING = 200


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for a crowd in this process and in what it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a crowd needs {wanted} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.house(limits={"clients_max": CROWD + 2})  # and the room's own, and the bystander's
async def test_C03_a_thousand_clients_on_one_run(house: ServerHarness, many_descriptors: None) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt("/tokens 100000 5")
    crowd: list[LightReader] = []
    memory: dict[int, int] = {}
    with closed_at_end(crowd):
        for size in STEPS:
            crowd += [LightReader(house.server.socket_path, workspace.id) for _ in range(size - len(crowd))]
            for begin in range(0, size, 50):
                await open_all([reader for reader in crowd[begin : begin + 50] if not reader.is_open])
            await text_at_everybody(crowd)
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
        await all_saw_end(crowd, last)
        stored = house.stored(workspace)
        for reader in crowd:
            assert_exact(reader, stored, after=reader.base)
    print(f"resident bytes of the supervisor by clients: {memory}")
    first, second = memory[500] - memory[250], memory[1000] - memory[500]
    assert (memory[1000] - memory[250]) / 750 < BYTES_A_CLIENT_MAX, memory
    assert second < 4 * max(first, 0) + SHAPE_SLACK_BYTES, memory


@pytest.mark.house(limits={"stream_retry_ms": 50, "stream_retry_jitter_ms": 400})
async def test_C05_two_hundred_come_back_after_a_restart(house: ServerHarness, many_descriptors: None) -> None:
    workspace = await house.workspace(model="openai")
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    crowd = [LightReader(house.server.socket_path, workspace.id) for _ in range(RETURNING)]
    with closed_at_end(crowd):
        await open_all(crowd)
        await eventually(lambda: all(one.base and one.retries_ms for one in crowd), what="where each of them stands")
        waits = [reader.retries_ms[0] for reader in crowd]
        assert all(50 <= wait <= 450 for wait in waits)
        assert len(set(waits)) > 50, "all come back in the same moment"
        assert max(waits) - min(waits) > 200
        await house.server.kill9()
        await eventually(lambda: not any(one.is_open for one in crowd), what="everybody cut")
        await call.tokens("meanwhile ")
        back = [asyncio.ensure_future(come_back(reader)) for reader in crowd]
        try:
            await house.server.restart()
            async with asyncio.timeout(20):
                await asyncio.gather(*back)
        finally:
            for task in back:
                task.cancel()
            await asyncio.wait(back)
        await call.reply("after")
        assert (await workspace.ended(run))["text"] == "before meanwhile after"
        assert (await workspace.worker()).identity == worker.identity, "adoption was starved: not the same worker"
        assert (await house.worker(workspace.id))["restarts"] == 0
        last = await workspace.prompt("the last")
        await (await house.provider.next_call()).reply("the last")
        await all_saw_end(crowd, last)
        stored = house.stored(workspace)
        for reader in crowd:
            assert_exact(reader, stored, after=reader.base)


async def text_at_everybody(crowd: list[LightReader]) -> None:
    """The run streams to each of them now."""
    for reader in crowd:
        reader.snapshots = 0
    await eventually(lambda: all(one.snapshots > 5 for one in crowd), timeout_s=15.0, what="text at everybody")


async def come_back(reader: LightReader) -> None:
    """As a client does that was told `retry`: wait so long before each attempt."""
    for _ in range(100):
        await asyncio.sleep(reader.retries_ms[-1] / 1000)
        try:
            if await reader.open() == 200:
                return
        except (OSError, ConnectionLost):
            continue
        reader.close()
    raise AssertionError("not let in again")
