"""Kill the worker or the server while a request for permission is open, or leave the request without a client."""

import asyncio
from collections.abc import Awaitable

import pytest

from tests.support.clients.http_client import Response, parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.permission_requests import bash, grant, init, outcomes, requested, resolved, waiting
from tests.support.processes import Process


async def test_W06_killed_while_a_permission_request_is_open(house: ServerHarness) -> None:
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
    # The dialogue is closed before the end of the run is published, and a later answer is refused.
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


async def test_W06_killed_while_a_question_is_open(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, True)
    run = await workspace.prompt(
        '/tool question {"questions": [{"type": "yes_no", "question": "Go?", "description": "d"}]}'
    )
    batch = await requested(workspace.watcher, kind="question_batch_request")
    await (await workspace.worker()).kill()
    await workspace.ended(run)
    notifications = [event.payload for event in workspace.watcher.seen if event.kind == "question_batch_notification"]
    assert notifications == [{"batch_id": batch["id"]}]
    body = {"batch_request_id": batch["id"], "responses": None}
    late = await workspace.client.post(f"/v1/workspaces/{workspace.id}/questions/answer", body)
    assert late.expect(409).code == "no_longer_asked"
    await workspace.works()


async def test_W06_killed_while_the_answer_is_stored(house: ServerHarness) -> None:
    """Check that an acknowledged answer counts, and that a client without an acknowledgement can repeat it."""
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch made.txt"))
    request = await requested(workspace.watcher)
    house.failpoints.arm("answer.before_send", workspace=workspace.id)
    worker = await workspace.worker()
    other = house.new_client()
    answer = await _while_killed(house, worker, grant(workspace, request, "allow", client=other))
    assert answer.status in (200, 409, 503)
    if answer.status == 503:
        assert not await resolved(workspace, request, "allow"), "the answer had been stored before the worker died"
    await workspace.ended(run)
    assert outcomes(workspace.watcher, request["tool_call_id"]) == ["waiting", "granted"]
    await workspace.works()


async def _while_killed(house: ServerHarness, worker: Process, request: Awaitable[Response]) -> Response:
    """Kill the worker after it has stored the answer and before it responds; return what the client gets."""
    task = asyncio.ensure_future(request)
    await house.failpoints.reached("answer.before_send")
    house.failpoints.disarm()
    await worker.kill()
    return await task


async def test_S02_killed_while_a_permission_request_is_open(house: ServerHarness) -> None:
    workspace = await house.workspace()
    house.failpoints.arm("permission.requested", workspace=workspace.id)
    run = await workspace.prompt(bash("touch made.txt"))
    hit = await house.failpoints.reached("permission.requested")
    request = await requested(workspace.watcher)
    house.neighbour.may_reconnect = True
    await house.server.kill9()
    hit.release()
    await house.server.restart()
    # A new client and one that reconnects both get the request.
    fresh = await house.watch(workspace.id, name="fresh")
    assert (await requested(fresh))["id"] == request["id"]
    workspace.watcher.resumes = False
    back = await house.watch(workspace.id, name="back", ids=False)
    assert (await requested(back))["id"] == request["id"]
    assert [each["id"] for each in await waiting(workspace)] == [request["id"]]
    assert await resolved(workspace, request, "allow")
    assert "error" not in await fresh.ended(run)
    assert (workspace.path / "made.txt").exists()
    workspace.watcher = fresh
    await workspace.works()


@pytest.mark.house(limits={"permission_wait_s": 600.0})
async def test_C11_a_client_that_connects_later_can_answer(house: ServerHarness) -> None:
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
async def test_C11_a_request_is_denied_at_its_deadline_when_no_client_connects(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    run = await workspace.prompt(bash("touch made.txt"))

    async def has_ended() -> bool:
        return bool((await workspace.run(run))["state"] == "ended")

    await eventually(has_ended, timeout_s=15, what="the end of the run")
    [result] = [r for m in await workspace.messages() for r in parts_of(m, "tool_result")]
    assert "no client answered within 0.5 s" in result["content"]
    assert not (workspace.path / "made.txt").exists()
    workspace.watcher = await house.watch(workspace.id, name="too late")
    await workspace.works()


@pytest.mark.house(limits={"permission_wait_s": 0.5})
async def test_C11_a_request_has_no_deadline_while_a_client_is_connected(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch made.txt"))
    request = await requested(workspace.watcher)
    # Wait until a request of a workspace without clients has reached the same deadline.
    other = await house.workspace("other")
    await other.watcher.close()
    unattended = await other.prompt(bash("touch made.txt"))

    async def has_ended() -> bool:
        return bool((await other.run(unattended))["state"] == "ended")

    await eventually(has_ended, timeout_s=15, what="the end of the unattended run")
    assert [each["id"] for each in await waiting(workspace)] == [request["id"]]
    await workspace.watcher.close()
    workspace.watcher = await house.watch(workspace.id, name="next")
    assert (await requested(workspace.watcher))["id"] == request["id"]
    assert await resolved(workspace, request, "allow")
    await workspace.ended(run)
    assert (workspace.path / "made.txt").exists()
