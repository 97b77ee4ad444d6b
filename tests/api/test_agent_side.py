"""Test prompts over HTTP: run ids, the queue, `is_busy`, and what must not change a run in progress."""

import asyncio
import json
import uuid

import pytest

from tests.support.checks import api_shapes
from tests.support.clients.http_client import Response, head, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together

pytestmark = pytest.mark.house(neighbour=False)


async def ask(workspace: WorkspaceFixture, method: str, path: str, body: object = None) -> Response:
    return await workspace.client.request(method, f"/v1/workspaces/{workspace.id}{path}", body)


async def queued_prompts(workspace: WorkspaceFixture, session: str = "") -> list[str]:
    """Return the queued prompts of a session, after checking that the count agrees."""
    base = f"/agent/sessions/{session or workspace.session}/prompts"
    prompts: list[str] = (await ask(workspace, "GET", f"{base}/list")).expect(200).json()
    assert (await ask(workspace, "GET", f"{base}/queued")).expect(200).json() == len(prompts)
    return prompts


async def busy(workspace: WorkspaceFixture, session: str = "") -> tuple[bool, bool]:
    """Return whether the session is busy (both routes must agree), and whether any session of the workspace is."""
    session = session or workspace.session
    summary = (await ask(workspace, "GET", f"/agent/sessions/{session}")).expect(200).json()
    full = await workspace.client.session(workspace.id, session)
    assert summary["is_busy"] == full["is_busy"]
    return full["is_busy"], (await workspace.client.agent(workspace.id))["is_busy"]


# --- run ids ------------------------------------------------------------------------------------------------------


async def test_a_run_id_is_kept_or_generated_and_returned(house: ServerHarness) -> None:
    workspace = await house.workspace()
    given = f"K_{uuid.uuid4().hex}.1:$$x-"
    assert await workspace.prompt("/say one", given) == given
    ends = [await workspace.ended(given)]  # before the next prompt: a prompt without an id may join a turn in progress
    generated = await workspace.prompt("/say two", "")
    assert uuid.UUID(generated).version == 4
    ends.append(await workspace.ended(generated))
    for run, text, end in ((given, "one", ends[0]), (generated, "two", ends[1])):
        assert (end["run_id"], end["session_id"], end["text"]) == (run, workspace.session, text)
        assert end["message_id"]
    assert [row["id"] for row in (await ask(workspace, "GET", "/runs")).json()] == [generated, given]


async def test_a_run_id_is_an_idempotency_key_before_during_and_after_its_run(house: ServerHarness) -> None:
    workspace, elsewhere = await house.workspace("w", model="openai"), await house.workspace("elsewhere")
    other = await workspace.client.create_session(workspace.id, "other")
    run, call = await workspace.streaming()
    again = [workspace.client.submit(workspace.id, workspace.session, "tell me a story", run) for _ in range(5)]
    for answer in await together(*again):
        assert answer.expect(202).json() == {"run_id": run}
    queued = await workspace.prompt("second")
    (await workspace.client.submit(workspace.id, workspace.session, "second", queued)).expect(202)
    assert await queued_prompts(workspace) == ["second"]
    for session, prompt in ((workspace.session, "another story"), (other, "tell me a story")):
        refused = await workspace.client.submit(workspace.id, session, prompt, run)
        assert refused.expect(409).code == "run_id_reused"
    await call.reply(" three")
    await workspace.ended(run)
    await (await house.provider.next_call()).reply("2")
    await workspace.ended(queued)
    assert await workspace.prompt("tell me a story", run) == run
    assert len(await workspace.messages()) == 4  # no prompt ran twice
    assert await elsewhere.prompt("/say mine", run) == run  # a run id belongs to one workspace
    assert (await elsewhere.ended(run))["text"] == "mine"
    assert len((await ask(workspace, "GET", "/runs")).json()) == 2


async def test_every_prompt_gets_its_own_end_even_when_it_joined_another_turn(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    run, call = await workspace.streaming()
    plain = [await workspace.prompt(f"plain {number}", "") for number in range(2)]
    keyed = await workspace.prompt("keyed")
    assert await queued_prompts(workspace) == ["plain 0", "plain 1", "keyed"]
    await call.tool_call("c-1", "ls", {})
    await call.finish()
    step = await house.provider.next_call()
    sent = json.dumps(step.body["messages"])
    assert "plain 0" in sent
    assert "plain 1" in sent
    assert "keyed" not in sent  # a prompt with an id gets its own turn
    assert await queued_prompts(workspace) == ["keyed"]
    await step.reply("for all three")
    own = await house.provider.next_call()
    assert own.prompt == "keyed"
    await own.reply("for one")
    ends = {run_id: await workspace.ended(run_id) for run_id in (run, *plain, keyed)}
    assert ends[keyed]["text"] == "for one"
    assert {ends[run_id]["message_id"] for run_id in plain} == {ends[run]["message_id"]}
    assert not any(end.get("error") or end.get("cancelled") for end in ends.values())
    assert sum(event.kind == "run_complete" for event in workspace.watcher.seen) == 4
    users = [texts(message) for message in await workspace.messages() if message["role"] == "user"]
    assert users == ["tell me a story", "plain 0", "plain 1", "keyed"]


# --- the queue ----------------------------------------------------------------------------------------------------


async def test_the_queue_holds_the_waiting_prompts_of_one_session(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    other = await workspace.client.create_session(workspace.id, "other")
    run, call = await workspace.streaming()
    assert await queued_prompts(workspace) == []  # the active prompt is not queued
    queued = [await workspace.prompt(text) for text in ("first", "second", "first")]
    assert await queued_prompts(workspace) == ["first", "second", "first"]
    assert await queued_prompts(workspace, other) == []
    assert {row["state"] for row in (await ask(workspace, "GET", "/runs")).json() if row["id"] in queued} == {"queued"}
    free = await workspace.client.prompt(workspace.id, other, "at once")
    await (await house.provider.next_call()).reply("now")
    await workspace.ended(free)
    (await ask(workspace, "POST", f"/agent/sessions/{other}/prompts/clear")).expect(200)
    assert len(await queued_prompts(workspace)) == 3
    assert (await ask(workspace, "POST", f"/agent/sessions/{workspace.session}/prompts/clear")).expect(200).body == b""
    assert await queued_prompts(workspace) == []
    for run_id in queued:
        end = await workspace.ended(run_id)
        assert (end["cancelled"], end["message_id"]) == (True, "")
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    assert len([message for message in await workspace.messages() if message["role"] == "user"]) == 1


# --- is_busy ------------------------------------------------------------------------------------------------------


async def test_a_running_session_is_busy_and_so_is_its_workspace(house: ServerHarness) -> None:
    workspace, neighbour = await house.workspace("w", model="openai"), await house.workspace("neighbour")
    other = await workspace.client.create_session(workspace.id, "other")
    assert await busy(workspace) == (False, False)
    run, call = await workspace.streaming()
    assert await busy(workspace) == (True, True)
    assert await busy(workspace, other) == (False, True)
    assert await busy(neighbour) == (False, False)
    listed = (await ask(workspace, "GET", "/sessions")).json()
    assert {session["id"]: session["is_busy"] for session in listed} == {workspace.session: True, other: False}
    await call.reply(" three")
    await workspace.ended(run)
    assert await busy(workspace) == (False, False)


async def test_no_session_is_busy_after_a_failed_or_cancelled_run(house: ServerHarness) -> None:
    workspace = await house.workspace()
    failed = await workspace.prompt("/fail 400")
    assert (await workspace.ended(failed))["error"]
    assert await busy(workspace) == (False, False)
    hanging = await workspace.prompt("/hang")

    async def is_busy() -> bool:
        return (await busy(workspace))[0]

    await eventually(is_busy, what="a busy session")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(hanging))["cancelled"] is True
    assert await busy(workspace) == (False, False)
    errors = [event for event in workspace.watcher.seen if event.kind == "agent_event" and event.payload.get("error")]
    assert [event.payload["run_id"] for event in errors] == [failed]  # a cancel is not an error


# --- the agent ----------------------------------------------------------------------------------------------------


async def test_agent_info_names_the_model_that_would_be_used(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    info = await workspace.client.agent(workspace.id)
    config = (await ask(workspace, "GET", "/config")).json()
    assert info["is_ready"] is True
    assert info["model_cfg"] == config["models"]["large"]
    provider = config["providers"][info["model_cfg"]["provider"]]
    assert info["model"] in provider["models"]
    assert info["model"]["context_window"] > 0
    small = (await ask(workspace, "GET", f"/agent/default-small-model?provider_id={provider['id']}")).expect(200).json()
    api_shapes.SELECTED_MODEL(small, "small model")
    assert small["provider"] == provider["id"]
    assert small["model"] in [model["id"] for model in provider["models"]]
    for query in ("", "?provider_id=unknown"):
        model = (await ask(workspace, "GET", f"/agent/default-small-model{query}")).expect(200).json()
        assert model["model"]


async def test_agent_init_and_update_change_neither_a_run_nor_its_queue(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    queued = await workspace.prompt("second")
    for path, body in (
        ("/agent/init", {"interactive": False}),
        ("/agent/init", {"interactive": True}),
        ("/agent/init", {}),
        ("/agent/init", None),
        ("/agent/update", None),
    ):
        assert (await ask(workspace, "POST", path, body)).expect(200).body == b""
        assert await busy(workspace) == (True, True)
        assert await queued_prompts(workspace) == ["second"]
    for raw in (b"{", b'{"interactive":1}', b"[]"):
        answer = await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/init", raw=raw)
        assert answer.expect(400).code == "bad_input"
    good = (workspace.path / "bulkhead.json").read_text()
    (workspace.path / "bulkhead.json").write_text("{")
    refused = (await ask(workspace, "POST", "/agent/update")).expect(400)
    assert "bulkhead.json: line 1" in refused.json()["message"]
    assert await queued_prompts(workspace) == ["second"]
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    await (await house.provider.next_call()).reply("2")
    assert (await workspace.ended(queued))["text"] == "2"  # with the last valid configuration
    (workspace.path / "bulkhead.json").write_text(good)
    (await ask(workspace, "POST", "/agent/update")).expect(200)


# --- commands of the user -----------------------------------------------------------------------------------------


async def test_a_shell_command_of_the_user_does_not_wait_for_a_running_agent(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    path = f"/agent/sessions/{workspace.session}/shell"
    result = (await ask(workspace, "POST", path, {"command": "echo hi; exit 7"})).expect(200).json()
    assert result == {"output": "hi", "exit_code": 7}
    assert await busy(workspace) == (True, True)
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)


async def test_all_processes_of_a_shell_command_end_when_the_client_disconnects(house: ServerHarness) -> None:
    workspace = await house.workspace()
    pipe = house.pipe()
    command = f"setsid sleep 1000 & first=$!; (trap '' TERM; echo $$ $first $BASHPID > {pipe.path}; sleep 1000); wait"
    body = json.dumps({"command": command}).encode()
    _, writer = await asyncio.open_unix_connection(house.server.socket_path)
    path = f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/shell"
    writer.write(head("POST", path, {"Content-Length": str(len(body))}) + body)
    children = [house.hold(int(pid)) for pid in (await pipe.line()).split()]
    assert len(children) == 3
    writer.close()
    for child in children:
        await child.gone()
    await workspace.works()
