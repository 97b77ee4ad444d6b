"""Test prompts over HTTP: a run belongs to its workspace, not to the connection that sent the prompt."""

import asyncio
import json

from tests.support.clients.http_client import Client, finish_of, head, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness


async def test_a_prompt_is_answered_and_stored(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("how are you?")
    call = await house.provider.next_call()
    assert "how are you?" in call.prompt
    await call.reply("fine, ", "thank you")
    end = await workspace.ended(run)
    assert end == {
        "session_id": workspace.session,
        "run_id": run,
        "message_id": (await workspace.last_assistant())["id"],
        "text": "fine, thank you",
    }
    user, answer = await workspace.messages()
    assert (user["role"], texts(user)) == ("user", "how are you?")
    assert (finish_of(answer) or {})["reason"] == "end_turn"
    assert (await workspace.run(run))["outcome"] == "completed"
    assert (await workspace.client.session(workspace.id, workspace.session))["prompt_tokens"] == 11


async def test_the_same_prompt_goes_to_an_anthropic_model(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic")
    run = await workspace.prompt("how are you?")
    call = await house.provider.next_call()
    assert call.dialect == "anthropic"
    await call.reply("fine, ", "thank you")
    assert (await workspace.ended(run))["text"] == "fine, thank you"


async def test_a_prompt_is_accepted_before_its_run_has_ended(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("take your time")  # accepted although the model has not answered
    call = await house.provider.next_call()
    assert (await workspace.client.agent(workspace.id))["is_busy"] is True
    assert (await workspace.client.session(workspace.id, workspace.session))["is_busy"] is True
    other = await workspace.client.create_session(workspace.id, "another")
    second = await workspace.client.prompt(workspace.id, other, "me too")
    await (await house.provider.next_call()).reply("second")
    assert (await workspace.ended(second))["text"] == "second"
    assert (await workspace.run(run))["state"] == "active"
    await call.reply("first")
    assert (await workspace.ended(run))["text"] == "first"
    assert (await workspace.client.agent(workspace.id))["is_busy"] is False


async def test_a_run_continues_when_the_client_of_its_prompt_disconnects(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    client = house.new_client()
    house.client_log.submitted(workspace.id, workspace.session, "r-left")
    await _send_and_disconnect(
        client, workspace.id, {"session_id": workspace.session, "run_id": "r-left", "prompt": "go on"}
    )
    call = await house.provider.next_call()
    await call.tokens("still ")
    await workspace.watcher.text(workspace.session, "still")
    await call.reply("here")
    assert (await workspace.ended("r-left"))["text"] == "still here"


async def test_a_run_continues_without_clients(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("go on")
    call = await house.provider.next_call()
    await workspace.watcher.close()
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    await call.reply("alone")
    state = await eventually(
        lambda: _outcome(house, workspace.id, run), what="end of the run", state=lambda: house.provider.exchanges
    )
    assert state == "completed"


async def test_a_failed_run_is_reported_by_an_event(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("fail, please")
    await (await house.provider.next_call()).refuse(401, message="no such key")
    end = await workspace.ended(run)
    assert end.get("error"), end
    assert "cancelled" not in end
    error = await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload.get("type") == "error", what="error event"
    )
    assert error.payload["run_id"] == run
    finish = finish_of(await workspace.last_assistant())
    assert finish is not None
    assert finish["reason"] == "error"
    await workspace.works()


async def test_prompts_of_a_busy_session_run_one_after_the_other(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    first, second, third = [await workspace.prompt(f"number {n}") for n in (1, 2, 3)]
    call = await house.provider.next_call()
    queued = (
        await workspace.client.get(f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/prompts/list")
    ).json()
    assert queued == ["number 2", "number 3"]
    for run, exchange in ((first, call), (second, None), (third, None)):
        exchange = exchange or await house.provider.next_call()
        await exchange.reply(f"answer to {exchange.prompt}")
        end = await workspace.ended(run)
        assert end["text"] == f"answer to {exchange.prompt}"
    ends = [e.payload["run_id"] for e in workspace.watcher.seen if e.kind == "run_complete"]
    assert ends == [first, second, third]


async def test_an_invalid_prompt_is_refused_and_not_stored(house: ServerHarness) -> None:
    workspace = await house.workspace()
    agent = f"/v1/workspaces/{workspace.id}/agent"
    body = {"session_id": workspace.session, "run_id": "r-bad", "prompt": "hi"}
    assert (await workspace.client.post(agent, body | {"session_id": "unknown"})).expect(404).code == "session_unknown"
    assert (await workspace.client.post(agent, body | {"prompt": ""})).expect(400).code == "empty_prompt"
    assert (await workspace.client.post(agent, body | {"session_id": ""})).expect(400).code == "session_missing"
    unknown = await workspace.client.post("/v1/workspaces/00000000-0000-4000-8000-000000000000/agent", body)
    assert unknown.expect(404).code == "workspace_unknown"
    assert house.stored(workspace).runs == []
    await workspace.works()


async def _send_and_disconnect(client: Client, workspace: str, body: dict[str, str]) -> None:
    """Send a prompt and close the connection before the response can arrive."""
    data = json.dumps(body).encode()
    _, writer = await asyncio.open_unix_connection(client.socket_path)
    writer.write(head("POST", f"/v1/workspaces/{workspace}/agent", {"Content-Length": str(len(data))}) + data)
    await writer.drain()
    writer.close()


async def _outcome(house: ServerHarness, workspace: str, run: str) -> str:
    row = (await house.new_client().get(f"/v1/workspaces/{workspace}/runs/{run}")).expect(200).json()
    return str(row["outcome"])
