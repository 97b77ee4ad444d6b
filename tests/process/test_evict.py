"""An idle worker may sleep, and nobody can tell but by the clock (P11, W10, W19)."""

import asyncio

import pytest

from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together

QUICK = {"evict_idle_s": 0.2, "create_grace_s": 0.2, "detach_grace_s": 0.1}


async def alone(house: ServerHarness) -> WorkspaceFixture:
    """A room that nobody watches."""
    room = await house.room()
    await room.watcher.close()
    return room


async def asleep(house: ServerHarness, room: WorkspaceFixture) -> None:
    async def is_asleep() -> bool:
        return (await house.worker(room.id))["state"] == "asleep"

    await eventually(is_asleep, timeout_s=10.0)


async def completed(room: WorkspaceFixture, run_id: str) -> None:
    async def is_completed() -> bool:
        return (await room.run(run_id))["outcome"] == "completed"

    await eventually(is_completed, timeout_s=10.0)


@pytest.mark.house(limits=QUICK)
async def test_an_idle_worker_sleeps_and_the_next_request_wakes_it(house: ServerHarness) -> None:
    room = await alone(house)
    worker = await room.worker()
    await asleep(house, room)
    assert not worker.is_alive
    run_id = await room.prompt("/say awake again")
    await completed(room, run_id)
    assert (await house.worker(room.id))["restarts"] == 0


async def test_P11_a_worker_with_a_run_is_not_evicted(house: ServerHarness) -> None:
    room = await house.room(model="openai")
    run_id, call = await room.streaming("before ")
    refused = (await room.client.post(f"/v1/workspaces/{room.id}/evict")).expect(409)
    assert refused.code == "busy"
    await call.reply("after")
    assert (await room.ended(run_id))["text"] == "before after"


@pytest.mark.house(limits=QUICK)
async def test_W19_a_prompt_that_meets_an_eviction_is_run(house: ServerHarness) -> None:
    house.failpoints.arm("evict.decided")
    room = await alone(house)
    hit = await house.failpoints.reached("evict.decided")
    worker = await room.worker()
    run_id = await room.prompt("/tokens 40 40")
    hit.release()
    await completed(room, run_id)
    assert (await house.worker(room.id))["generation"] == 1
    assert worker.is_alive


@pytest.mark.house(limits=QUICK)
async def test_W10_a_worker_killed_when_its_eviction_was_decided(house: ServerHarness) -> None:
    house.failpoints.arm("evict.decided")
    room = await alone(house)
    hit = await house.failpoints.reached("evict.decided")
    await (await room.worker()).kill()
    hit.release()
    run_id = await room.prompt("/say here")
    await completed(room, run_id)


@pytest.mark.house(limits=QUICK)
async def test_W19_two_requests_wake_one_worker(house: ServerHarness) -> None:
    room = await alone(house)
    await asleep(house, room)
    house.failpoints.arm("wake.before_spawn")
    asking = [asyncio.ensure_future(room.client.get(f"/v1/workspaces/{room.id}/sessions")) for _ in range(2)]
    hit = await house.failpoints.reached("wake.before_spawn")
    before = dict(house.failpoints.counts)
    hit.release()
    for answer in await together(*asking):
        answer.expect(200)
    assert {key: n for key, n in house.failpoints.counts.items() if key[0] == "wake.before_spawn"} == {
        key: n for key, n in before.items() if key[0] == "wake.before_spawn"
    }
    assert (await house.worker(room.id))["generation"] == 2
