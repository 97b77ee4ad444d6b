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
    workspace = await house.workspace()
    house.failpoints.arm("permission.requested", workspace=workspace.id)
    run = await workspace.prompt(bash("touch made.txt"))
    hit = await house.failpoints.reached("permission.requested")
    request = await requested(workspace.watcher)
    worker = await workspace.worker()
    assert hit.pid == worker.pid
    await worker.kill()
    end = await workspace.ended(run)
    assert "nterrupted" in end["error"]
    # The dialogue is closed before the end is told, and nobody can answer any more.
    assert outcomes(workspace.watcher, request["tool_call_id"]) == ["waiting", "denied"]
    kinds = [event.kind for event in workspace.watcher.seen]
    assert kinds.index("run_complete") > max(n for n, kind in enumerate(kinds) if kind == "permission_notification")
    late = (await grant(workspace, request, "allow_session")).expect(409)
    assert late.code == "no_longer_asked"
    assert await waiting(workspace) == []
    assert not (workspace.path / "made.txt").exists()
    again = await workspace.prompt(bash("touch made.txt"))
    other = await requested(workspace.watcher, other_than=request["id"])  # the late answer granted nothing
    assert await resolved(workspace, other, "deny")
    await workspace.ended(again)
    await workspace.works()


async def test_W06_killed_while_a_question_waits(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, True)
    run = await workspace.prompt(
        '/tool question {"questions": [{"type": "yes_no", "question": "Go?", "description": "d"}]}'
    )
    batch = await requested(workspace.watcher, kind="question_batch_request")
    await (await workspace.worker()).kill()
    await workspace.ended(run)
    told = [event.payload for event in workspace.watcher.seen if event.kind == "question_batch_notification"]
    assert told == [{"batch_id": batch["id"]}]
    body = {"batch_request_id": batch["id"], "responses": None}
    late = await workspace.client.post(f"/v1/workspaces/{workspace.id}/questions/answer", body)
    assert late.expect(409).code == "no_longer_asked"
    await workspace.works()


async def test_W06_killed_while_the_answer_is_stored(house: ServerHarness) -> None:
    """Whoever was told that the answer counts was told the truth; who was not told asks again."""
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch made.txt"))
    request = await requested(workspace.watcher)
    house.failpoints.arm("answer.before_send", workspace=workspace.id)
    worker = await workspace.worker()
    asking = house.new_client()
    answer = await _while_killed(house, worker, grant(workspace, request, "allow", client=asking))
    assert answer.status in (200, 409, 503)
    if answer.status == 503:
        assert not await resolved(workspace, request, "allow"), "it was decided before the worker died"
    await workspace.ended(run)
    assert outcomes(workspace.watcher, request["tool_call_id"]) == ["waiting", "granted"]
    await workspace.works()


async def _while_killed(house: ServerHarness, worker: Process, asking: Awaitable[Response]) -> Response:
    """What a client hears whose answer was stored by a worker that dies before it can say so."""
    task = asyncio.ensure_future(asking)
    await house.failpoints.reached("answer.before_send")
    house.failpoints.disarm()
    await worker.kill()
    return await task


async def test_S02_killed_while_a_permission_waits(house: ServerHarness) -> None:
    workspace = await house.workspace()
    house.failpoints.arm("permission.requested", workspace=workspace.id)
    run = await workspace.prompt(bash("touch made.txt"))
    hit = await house.failpoints.reached("permission.requested")
    request = await requested(workspace.watcher)
    house.neighbour.may_reconnect = True
    await house.server.kill9()
    hit.release()
    await house.server.restart()
    # An old client and a new one: both find the request, the old one without hearing of it twice.
    fresh = await house.watch(workspace.id, name="fresh")
    assert (await requested(fresh))["id"] == request["id"]
    workspace.watcher.resumes = False
    back = await house.watch(workspace.id, name="back", ids=False)
    assert (await requested(back))["id"] == request["id"]
    assert [one["id"] for one in await waiting(workspace)] == [request["id"]]
    assert await resolved(workspace, request, "allow")
    assert "error" not in await fresh.ended(run)
    assert (workspace.path / "made.txt").exists()
    workspace.watcher = fresh
    await workspace.works()


@pytest.mark.house(limits={"permission_wait_s": 600.0})
async def test_C11_a_client_that_comes_later_answers(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    run = await workspace.prompt(bash("touch made.txt"))
    await eventually(lambda: waiting(workspace), what="an open request")
    [request] = await waiting(workspace)
    workspace.watcher = await house.watch(workspace.id, name="later")
    assert await requested(workspace.watcher) == request
    assert await resolved(workspace, request, "allow")
    await workspace.ended(run)
    assert (workspace.path / "made.txt").exists()


@pytest.mark.house(limits={"permission_wait_s": 0.5})
async def test_C11_nobody_ever_comes(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    run = await workspace.prompt(bash("touch made.txt"))

    async def is_over() -> bool:
        return bool((await workspace.run(run))["state"] == "ended")

    await eventually(is_over, timeout_s=15, what="the end of the run")
    [result] = [r for m in await workspace.messages() for r in parts_of(m, "tool_result")]
    assert "no client answered within 0.5 s" in result["content"]
    assert not (workspace.path / "made.txt").exists()
    workspace.watcher = await house.watch(workspace.id, name="too late")
    await workspace.works()


@pytest.mark.house(limits={"permission_wait_s": 0.5})
async def test_C11_somebody_who_is_there_may_take_time(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch made.txt"))
    request = await requested(workspace.watcher)
    # As long as the time of others: what waits meanwhile for nobody is denied.
    other = await house.workspace("other")
    await other.watcher.close()
    lonely = await other.prompt(bash("touch made.txt"))

    async def is_over() -> bool:
        return bool((await other.run(lonely))["state"] == "ended")

    await eventually(is_over, timeout_s=15, what="the end of the lonely run")
    assert [one["id"] for one in await waiting(workspace)] == [request["id"]]
    await workspace.watcher.close()
    workspace.watcher = await house.watch(workspace.id, name="next")
    assert (await requested(workspace.watcher))["id"] == request["id"]
    assert await resolved(workspace, request, "allow")
    await workspace.ended(run)
    assert (workspace.path / "made.txt").exists()
