"""Fault matrix W06, C11, S02 at M5: what becomes of a request when worker or server die, or nobody is there."""

import asyncio
from collections.abc import Awaitable

import pytest

from tests.support.clients.http_client import Response, parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.permission_requests import bash, grant, init, outcomes, requested, resolved, waiting
from tests.support.processes import Process


async def test_W06_killed_while_a_permission_waits(house: ServerHarness) -> None:
    room = await house.room()
    house.failpoints.arm("permission.requested", workspace=room.id)
    run = await room.prompt(bash("touch made.txt"))
    hit = await house.failpoints.reached("permission.requested")
    request = await requested(room.watcher)
    worker = await room.worker()
    assert hit.pid == worker.pid
    await worker.kill()
    end = await room.ended(run)
    assert "nterrupted" in end["error"]
    # The dialogue is closed before the end is told, and nobody can answer any more.
    assert outcomes(room.watcher, request["tool_call_id"]) == ["waiting", "denied"]
    kinds = [event.kind for event in room.watcher.seen]
    assert kinds.index("run_complete") > max(n for n, kind in enumerate(kinds) if kind == "permission_notification")
    late = (await grant(room, request, "allow_session")).expect(409)
    assert late.code == "no_longer_asked"
    assert await waiting(room) == []
    assert not (room.path / "made.txt").exists()
    again = await room.prompt(bash("touch made.txt"))
    other = await requested(room.watcher, other_than=request["id"])  # the late answer granted nothing
    assert await resolved(room, other, "deny")
    await room.ended(again)
    await room.works()


async def test_W06_killed_while_a_question_waits(house: ServerHarness) -> None:
    room = await house.room()
    await init(room, True)
    run = await room.prompt('/tool question {"questions": [{"type": "yes_no", "question": "Go?", "description": "d"}]}')
    batch = await requested(room.watcher, kind="question_batch_request")
    await (await room.worker()).kill()
    await room.ended(run)
    told = [event.payload for event in room.watcher.seen if event.kind == "question_batch_notification"]
    assert told == [{"batch_id": batch["id"]}]
    body = {"batch_request_id": batch["id"], "responses": None}
    late = await room.client.post(f"/v1/workspaces/{room.id}/questions/answer", body)
    assert late.expect(409).code == "no_longer_asked"
    await room.works()


async def test_W06_killed_while_the_answer_is_stored(house: ServerHarness) -> None:
    """Whoever was told that the answer counts was told the truth; who was not told asks again."""
    room = await house.room()
    run = await room.prompt(bash("touch made.txt"))
    request = await requested(room.watcher)
    house.failpoints.arm("answer.before_send", workspace=room.id)
    worker = await room.worker()
    asking = house.new_client()
    answer = await _while_killed(house, worker, grant(room, request, "allow", client=asking))
    assert answer.status in (200, 409, 503)
    if answer.status == 503:
        assert not await resolved(room, request, "allow"), "it was decided before the worker died"
    await room.ended(run)
    assert outcomes(room.watcher, request["tool_call_id"]) == ["waiting", "granted"]
    await room.works()


async def _while_killed(house: ServerHarness, worker: Process, asking: Awaitable[Response]) -> Response:
    """What a client hears whose answer was stored by a worker that dies before it can say so."""
    task = asyncio.ensure_future(asking)
    await house.failpoints.reached("answer.before_send")
    house.failpoints.disarm()
    await worker.kill()
    return await task


async def test_S02_killed_while_a_permission_waits(house: ServerHarness) -> None:
    room = await house.room()
    house.failpoints.arm("permission.requested", workspace=room.id)
    run = await room.prompt(bash("touch made.txt"))
    hit = await house.failpoints.reached("permission.requested")
    request = await requested(room.watcher)
    house.bystander.may_reconnect = True
    await house.server.kill9()
    hit.release()
    await house.server.restart()
    # An old client and a new one: both find the request, the old one without hearing of it twice.
    fresh = await house.watch(room.id, name="fresh")
    assert (await requested(fresh))["id"] == request["id"]
    room.watcher.resumes = False
    back = await house.watch(room.id, name="back", ids=False)
    assert (await requested(back))["id"] == request["id"]
    assert [one["id"] for one in await waiting(room)] == [request["id"]]
    assert await resolved(room, request, "allow")
    assert "error" not in await fresh.ended(run)
    assert (room.path / "made.txt").exists()
    room.watcher = fresh
    await room.works()


@pytest.mark.house(limits={"permission_wait_s": 600.0})
async def test_C11_a_client_that_comes_later_answers(house: ServerHarness) -> None:
    room = await house.room()
    await room.watcher.close()
    run = await room.prompt(bash("touch made.txt"))
    await eventually(lambda: waiting(room), what="an open request")
    [request] = await waiting(room)
    room.watcher = await house.watch(room.id, name="later")
    assert await requested(room.watcher) == request
    assert await resolved(room, request, "allow")
    await room.ended(run)
    assert (room.path / "made.txt").exists()


@pytest.mark.house(limits={"permission_wait_s": 0.5})
async def test_C11_nobody_ever_comes(house: ServerHarness) -> None:
    room = await house.room()
    await room.watcher.close()
    run = await room.prompt(bash("touch made.txt"))

    async def is_over() -> bool:
        return bool((await room.run(run))["state"] == "ended")

    await eventually(is_over, timeout_s=15, what="the end of the run")
    [result] = [r for m in await room.messages() for r in parts_of(m, "tool_result")]
    assert "no client answered within 0.5 s" in result["content"]
    assert not (room.path / "made.txt").exists()
    room.watcher = await house.watch(room.id, name="too late")
    await room.works()


@pytest.mark.house(limits={"permission_wait_s": 0.5})
async def test_C11_somebody_who_is_there_may_take_time(house: ServerHarness) -> None:
    room = await house.room()
    run = await room.prompt(bash("touch made.txt"))
    request = await requested(room.watcher)
    # As long as the time of others: what waits meanwhile for nobody is denied.
    other = await house.room("other")
    await other.watcher.close()
    lonely = await other.prompt(bash("touch made.txt"))

    async def is_over() -> bool:
        return bool((await other.run(lonely))["state"] == "ended")

    await eventually(is_over, timeout_s=15, what="the end of the lonely run")
    assert [one["id"] for one in await waiting(room)] == [request["id"]]
    await room.watcher.close()
    room.watcher = await house.watch(room.id, name="next")
    assert (await requested(room.watcher))["id"] == request["id"]
    assert await resolved(room, request, "allow")
    await room.ended(run)
    assert (room.path / "made.txt").exists()
