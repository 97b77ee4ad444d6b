"""Test eviction of idle workers: later requests are served as if it had not happened (P11, W10, W19)."""

import asyncio

import pytest

from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together

ATTACHED = {"evict_idle_s": 0.1, "evict_attached_idle_s": 0.3, "heartbeat_interval_s": 0.05}
QUICK = {"evict_idle_s": 0.2, "create_grace_s": 0.2, "detach_grace_s": 0.1}


async def unwatched_workspace(house: ServerHarness) -> WorkspaceFixture:
    """Open a workspace without an event stream."""
    workspace = await house.workspace()
    await workspace.watcher.close()
    return workspace


async def asleep(house: ServerHarness, workspace: WorkspaceFixture) -> None:
    async def is_asleep() -> bool:
        return (await house.worker(workspace.id))["state"] == "asleep"

    await eventually(is_asleep, timeout_s=10.0)


async def completed(workspace: WorkspaceFixture, run_id: str) -> None:
    async def is_completed() -> bool:
        return (await workspace.run(run_id))["outcome"] == "completed"

    await eventually(is_completed, timeout_s=10.0)


@pytest.mark.house(limits=QUICK)
async def test_an_idle_worker_is_evicted_and_the_next_request_wakes_it(house: ServerHarness) -> None:
    workspace = await unwatched_workspace(house)
    worker = await workspace.worker()
    await asleep(house, workspace)
    assert not worker.is_alive
    run_id = await workspace.prompt("/say awake again")
    await completed(workspace, run_id)
    assert (await house.worker(workspace.id))["restarts"] == 0


async def test_P11_a_worker_with_a_run_is_not_evicted(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run_id, call = await workspace.streaming("before ")
    refused = (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).expect(409)
    assert refused.code == "busy"
    await call.reply("after")
    assert (await workspace.ended(run_id))["text"] == "before after"


@pytest.mark.house(limits=QUICK)
async def test_W19_a_prompt_that_meets_an_eviction_is_run(house: ServerHarness) -> None:
    house.failpoints.arm("evict.decided")
    workspace = await unwatched_workspace(house)
    hit = await house.failpoints.reached("evict.decided")
    worker = await workspace.worker()
    run_id = await workspace.prompt("/tokens 40 40")
    hit.release()
    await completed(workspace, run_id)
    assert (await house.worker(workspace.id))["generation"] == 1
    assert worker.is_alive


@pytest.mark.house(limits=QUICK)
async def test_W10_a_worker_killed_after_its_eviction_was_decided_is_replaced(house: ServerHarness) -> None:
    house.failpoints.arm("evict.decided")
    workspace = await unwatched_workspace(house)
    hit = await house.failpoints.reached("evict.decided")
    await (await workspace.worker()).kill()
    hit.release()
    run_id = await workspace.prompt("/say here")
    await completed(workspace, run_id)


@pytest.mark.house(limits=QUICK)
async def test_W19_two_requests_wake_one_worker(house: ServerHarness) -> None:
    workspace = await unwatched_workspace(house)
    await asleep(house, workspace)
    house.failpoints.arm("wake.before_spawn")
    requests = [
        asyncio.ensure_future(workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")) for _ in range(2)
    ]
    hit = await house.failpoints.reached("wake.before_spawn")
    before = dict(house.failpoints.counts)
    hit.release()
    for answer in await together(*requests):
        answer.expect(200)
    assert {key: n for key, n in house.failpoints.counts.items() if key[0] == "wake.before_spawn"} == {
        key: n for key, n in before.items() if key[0] == "wake.before_spawn"
    }
    assert (await house.worker(workspace.id))["generation"] == 2


@pytest.mark.house(limits=ATTACHED, neighbour=False)
async def test_an_idle_worker_sleeps_while_a_client_stays_attached(house: ServerHarness) -> None:
    workspace = await house.workspace()
    first = await workspace.prompt("/say one")
    await workspace.ended(first)
    worker = await workspace.worker()
    await asleep(house, workspace)
    assert not worker.is_alive
    second = await workspace.prompt("/say two")
    await workspace.ended(second)  # on the same stream, and the checks after the test find its numbers complete
    assert [run["outcome"] for run in (await workspace.run(first), await workspace.run(second))] == ["completed"] * 2


@pytest.mark.house(limits=ATTACHED, neighbour=False)
async def test_P11_a_worker_that_skips_permissions_for_an_attached_client_does_not_sleep(house: ServerHarness) -> None:
    workspace = await house.workspace()
    path = f"/v1/workspaces/{workspace.id}/permissions/skip"
    (await workspace.client.post(path, {"skip": True})).expect(200)
    other = await house.workspace("other")
    await asleep(house, other)
    assert (await house.worker(workspace.id))["state"] == "ready"
    (await workspace.client.post(path, {"skip": False})).expect(200)
    await asleep(house, workspace)
