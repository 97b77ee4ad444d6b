"""Test the shutdown protocol (refuse, cancel, drain, flush, exit): streamed text is kept and marked as canceled."""

import asyncio
import json
import signal

from tests.support.checks.history_checks import check_history
from tests.support.clients.http_client import finish_of
from tests.support.harness.server_harness import ServerHarness


async def test_shutdown_while_streaming_keeps_the_partial_text_as_canceled(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("half an answer")
    assert await house.server.stop() == 0
    await call.wait_closed()
    assert workspace.watcher.ends == ["clean"] or await workspace.watcher.connection_ended() == "clean"
    file = house.stored(workspace)
    [row] = file.runs
    assert (row.id, row.state, row.outcome) == (run, "ended", "cancelled")
    role, parts = file.messages[row.message_id]
    kinds = {part["type"]: part["data"] for part in json.loads(parts)}
    assert role == "assistant"
    assert kinds["text"]["text"] == "half an answer"
    assert kinds["finish"]["reason"] == "canceled"


async def test_the_end_of_a_run_cancelled_by_shutdown_is_still_sent_to_clients(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming()
    house.server.send(signal.SIGTERM)
    end = await workspace.ended(run)
    assert end["cancelled"] is True
    assert await workspace.watcher.connection_ended() == "clean"
    assert await house.server.ended() == 0


async def test_a_stopping_server_refuses_prompts_with_503(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming()
    house.failpoints.arm("close.c", workspace=workspace.id)
    house.server.send(signal.SIGTERM)
    hit = await house.failpoints.reached("close.c")
    refused = await workspace.client.submit(workspace.id, workspace.session, "one more")
    assert refused.status == 503, refused
    assert "retry-after" in refused.headers
    created = await workspace.client.post(
        "/v1/workspaces", {"path": str(workspace.path), "client_id": workspace.client.client_id}
    )
    assert created.expect(503).code == "server_exiting"
    hit.release()
    assert await house.server.ended() == 0
    assert [row.id for row in house.stored(workspace).runs] == [run]


async def test_a_stopping_worker_refuses_a_prompt_with_409(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming()
    worker = await workspace.worker()
    house.failpoints.arm("close.a", workspace=workspace.id)
    worker.send(signal.SIGTERM)  # SIGTERM starts the same drain as a shutdown message
    hit = await house.failpoints.reached("close.a")
    refused = await workspace.client.submit(workspace.id, workspace.session, "one more")
    assert refused.expect(409).code == "workspace_closing"
    hit.release()
    assert (await workspace.ended(run))["cancelled"] is True
    await worker.gone()
    await workspace.watcher.state("asleep")
    await workspace.works()
    assert len(house.stored(workspace).runs) == 2, "the refused prompt was stored"


async def test_a_prompt_during_a_restart_is_run_by_the_successor(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming()
    worker = await workspace.worker()
    house.failpoints.arm("close.c", workspace=workspace.id)
    restarted = asyncio.ensure_future(workspace.client.post(f"/v1/workspaces/{workspace.id}/restart", timeout_s=20))
    hit = await house.failpoints.reached("close.c")
    prompted = asyncio.ensure_future(workspace.prompt("one more"))
    hit.release()
    (await restarted).expect(200)
    await (await house.provider.next_call()).reply("done")
    assert (await workspace.ended(await prompted))["text"] == "done"
    assert (await workspace.ended(run))["cancelled"] is True
    assert (await workspace.worker()).pid != worker.pid


async def test_the_next_start_after_a_stop_serves_the_stored_sessions(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt("/say remember me")
    await workspace.ended(run)
    assert await house.server.stop() == 0
    assert check_history(house.client_log, [house.stored(workspace)]) == []
    house.neighbour.was_ended = True
    await house.server.restart()
    again = await workspace.client.create(workspace.path)
    assert again["id"] == workspace.id, "a workspace keeps its id"
    assert (await workspace.run(run))["outcome"] == "completed"
    assert finish_of(await workspace.last_assistant()) is not None
