"""Test summaries over HTTP: the call waits for its run, and the conversation continues from the summary."""

import asyncio
import signal

import pytest

from tests.support.clients.http_client import Response, finish_of, head, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

pytestmark = pytest.mark.house(neighbour=False)


async def workspace_with_messages(house: ServerHarness) -> WorkspaceFixture:
    """Open a workspace whose session has one prompt and one answer."""
    workspace = await house.workspace(model="openai")
    house.client_log.submitted(workspace.id, workspace.session, "")  # the server chooses the run id of a summary
    run = await workspace.prompt("remember the word apple")
    await (await house.provider.next_call()).reply("noted")
    await workspace.ended(run)
    return workspace


def path(workspace: WorkspaceFixture, session: str = "") -> str:
    return f"/v1/workspaces/{workspace.id}/agent/sessions/{session or workspace.session}/summarize"


def summarize(workspace: WorkspaceFixture) -> "asyncio.Task[Response]":
    return asyncio.get_running_loop().create_task(workspace.client.post(path(workspace)))


async def test_a_summary_replaces_the_earlier_conversation(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    request = summarize(workspace)
    call = await house.provider.next_call()
    assert "remember the word apple" in str(call.body["messages"])
    await call.tokens("the word ")
    shown = await workspace.watcher.text(workspace.session, "the word")
    assert shown["is_summary_message"] is True
    assert (await workspace.client.agent(workspace.id))["is_busy"] is True
    assert (await workspace.client.post(path(workspace))).expect(409).code == "busy"
    queued = await workspace.prompt("which word?")
    await call.reply("is apple")
    assert (await request).expect(200).body == b""
    next_call = await house.provider.next_call()
    assert "the word is apple" in str(next_call.body["messages"])
    assert "remember the word" not in str(next_call.body["messages"])
    await next_call.reply("apple")
    assert (await workspace.ended(queued))["text"] == "apple"
    session = await workspace.client.session(workspace.id, workspace.session)
    assert session["summary_message_id"] == shown["id"]
    assert session["message_count"] == len(await workspace.messages()) == 5
    updates = [e.payload for e in workspace.watcher.seen if e.kind == "session" and e.payload["summary_message_id"]]
    assert updates[0]["prompt_tokens"] == 0
    assert updates[0]["completion_tokens"] > 0


async def test_summarising_an_empty_session_does_nothing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (await workspace.client.post(path(workspace))).expect(200)
    assert await workspace.messages() == []
    assert (await workspace.client.post(path(workspace, "none"))).expect(404).code == "session_unknown"


async def test_a_busy_session_is_not_summarised(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    assert (await workspace.client.post(path(workspace))).expect(409).code == "busy"
    await call.reply("")
    await workspace.ended(run)


async def test_a_cancelled_summary_leaves_no_trace(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    before = await workspace.messages()
    request = summarize(workspace)
    call = await house.provider.next_call()
    await call.tokens("half a")
    await workspace.watcher.text(workspace.session, "half a")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    (await request).expect(200)
    assert await workspace.messages() == before
    session = await workspace.client.session(workspace.id, workspace.session)
    assert (session["summary_message_id"], session["message_count"]) == ("", 2)
    await workspace.watcher.wait(lambda e: e.kind == "message" and e.change == "deleted", what="the deleted row")


async def test_a_summary_is_cancelled_when_its_client_disconnects(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    before = await workspace.messages()
    _, writer = await asyncio.open_unix_connection(house.server.socket_path)
    writer.write(head("POST", path(workspace), {"Content-Length": "0"}))
    call = await house.provider.next_call()
    await call.tokens("half a")
    await workspace.watcher.text(workspace.session, "half a")
    writer.close()
    await writer.wait_closed()

    async def is_idle() -> bool:
        return not (await workspace.client.session(workspace.id, workspace.session))["is_busy"]

    await eventually(is_idle, what="the end of the summary")
    assert await workspace.messages() == before
    await workspace.works()


async def test_a_failed_summary_is_reported_and_stored(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    request = summarize(workspace)
    await (await house.provider.next_call()).refuse(400)
    refused = (await request).expect(502)
    assert refused.code == "provider_failed"
    last = await workspace.last_assistant()
    assert (finish_of(last) or {})["reason"] == "error"
    assert last["is_summary_message"] is True
    assert (await workspace.client.session(workspace.id, workspace.session))["summary_message_id"] == ""
    assert not any(event.kind == "agent_event" and event.payload.get("error") for event in workspace.watcher.seen)
    await workspace.works()


async def test_a_partial_summary_is_removed_when_the_worker_dies(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    request = summarize(workspace)
    call = await house.provider.next_call()
    await call.tokens("half a")
    await workspace.watcher.text(workspace.session, "half a")
    (await workspace.worker()).send(signal.SIGKILL)
    assert (await request).expect(503).code == "worker_lost"
    assert [texts(message) for message in await workspace.messages()] == ["remember the word apple", "noted"]
    runs = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/runs")).expect(200).json()
    assert [run["outcome"] for run in runs] == ["interrupted", "completed"]
    await workspace.works()


async def test_a_summary_that_had_not_started_is_made_by_the_next_worker(house: ServerHarness) -> None:
    workspace = await workspace_with_messages(house)
    house.failpoints.arm("run.before_start", "kill", workspace=workspace.id)
    assert (await summarize(workspace)).expect(503).code == "worker_lost"
    await (await house.provider.next_call()).reply("the word is apple")
    await workspace.watcher.wait(
        lambda e: e.kind == "session" and bool(e.payload["summary_message_id"]), what="the summary"
    )
    assert [texts(message) for message in await workspace.messages()][-1] == "the word is apple"
    await workspace.works()
