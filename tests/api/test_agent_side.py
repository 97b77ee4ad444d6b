"""http-api 6 over the wire: run ids, what waits, who is busy, and what does not reach into a run."""

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


async def waiting(workspace: WorkspaceFixture, session: str = "") -> list[str]:
    """The prompts that wait in a session; the count has to agree."""
    base = f"/agent/sessions/{session or workspace.session}/prompts"
    listed: list[str] = (await ask(workspace, "GET", f"{base}/list")).expect(200).json()
    assert (await ask(workspace, "GET", f"{base}/queued")).expect(200).json() == len(listed)
    return listed


async def busy(workspace: WorkspaceFixture, session: str = "") -> tuple[bool, bool]:
    """Is the session busy, by both routes, and is any?"""
    session = session or workspace.session
    short = (await ask(workspace, "GET", f"/agent/sessions/{session}")).expect(200).json()
    whole = await workspace.client.session(workspace.id, session)
    assert short["is_busy"] == whole["is_busy"]
    return whole["is_busy"], (await workspace.client.agent(workspace.id))["is_busy"]


# --- run ids ------------------------------------------------------------------------------------------------------


async def test_a_run_id_is_kept_or_made_up_and_told(house: ServerHarness) -> None:
    workspace = await house.workspace()
    kept = f"K_{uuid.uuid4().hex}.1:$$x-"
    assert await workspace.prompt("/say one", kept) == kept
    ends = [await workspace.ended(kept)]  # before the next is sent: one without an id of its own may join a turn
    made = await workspace.prompt("/say two", "")
    assert uuid.UUID(made).version == 4
    ends.append(await workspace.ended(made))
    for run, text, end in ((kept, "one", ends[0]), (made, "two", ends[1])):
        assert (end["run_id"], end["session_id"], end["text"]) == (run, workspace.session, text)
        assert end["message_id"]
    assert [row["id"] for row in (await ask(workspace, "GET", "/runs")).json()] == [made, kept]


async def test_a_run_id_is_a_key_before_while_and_after_its_run(house: ServerHarness) -> None:
    workspace, elsewhere = await house.workspace("w", model="openai"), await house.workspace("elsewhere")
    other = await workspace.client.create_session(workspace.id, "other")
    run, call = await workspace.streaming()
    again = [workspace.client.submit(workspace.id, workspace.session, "tell me a story", run) for _ in range(5)]
    for answer in await together(*again):
        assert answer.expect(202).json() == {"run_id": run}
    queued = await workspace.prompt("second")
    (await workspace.client.submit(workspace.id, workspace.session, "second", queued)).expect(202)
    assert await waiting(workspace) == ["second"]
    for session, prompt in ((workspace.session, "another story"), (other, "tell me a story")):
        refused = await workspace.client.submit(workspace.id, session, prompt, run)
        assert refused.expect(409).code == "run_id_reused"
    await call.reply(" three")
    await workspace.ended(run)
    await (await house.provider.next_call()).reply("2")
    await workspace.ended(queued)
    assert await workspace.prompt("tell me a story", run) == run
    assert len(await workspace.messages()) == 4  # nothing was run twice
    assert await elsewhere.prompt("/say mine", run) == run  # a key of one workspace
    assert (await elsewhere.ended(run))["text"] == "mine"
    assert len((await ask(workspace, "GET", "/runs")).json()) == 2


async def test_every_prompt_has_its_own_end_also_when_it_was_folded(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    run, call = await workspace.streaming()
    plain = [await workspace.prompt(f"plain {number}", "") for number in range(2)]
    keyed = await workspace.prompt("keyed")
    assert await waiting(workspace) == ["plain 0", "plain 1", "keyed"]
    await call.tool_call("c-1", "ls", {})
    await call.finish()
    step = await house.provider.next_call()
    sent = json.dumps(step.body["messages"])
    assert "plain 0" in sent
    assert "plain 1" in sent
    assert "keyed" not in sent  # it has a turn of its own
    assert await waiting(workspace) == ["keyed"]
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


# --- what waits ---------------------------------------------------------------------------------------------------


async def test_the_queue_holds_what_waits_in_one_session(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    other = await workspace.client.create_session(workspace.id, "other")
    run, call = await workspace.streaming()
    assert await waiting(workspace) == []  # the active one does not wait
    queued = [await workspace.prompt(text) for text in ("first", "second", "first")]
    assert await waiting(workspace) == ["first", "second", "first"]
    assert await waiting(workspace, other) == []
    assert {row["state"] for row in (await ask(workspace, "GET", "/runs")).json() if row["id"] in queued} == {"queued"}
    free = await workspace.client.prompt(workspace.id, other, "at once")
    await (await house.provider.next_call()).reply("now")
    await workspace.ended(free)
    (await ask(workspace, "POST", f"/agent/sessions/{other}/prompts/clear")).expect(200)
    assert len(await waiting(workspace)) == 3
    assert (await ask(workspace, "POST", f"/agent/sessions/{workspace.session}/prompts/clear")).expect(200).body == b""
    assert await waiting(workspace) == []
    for run_id in queued:
        end = await workspace.ended(run_id)
        assert (end["cancelled"], end["message_id"]) == (True, "")
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    assert len([message for message in await workspace.messages() if message["role"] == "user"]) == 1


# --- who is busy --------------------------------------------------------------------------------------------------


async def test_busy_is_the_session_that_works_and_the_agent_of_its_workspace(house: ServerHarness) -> None:
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


async def test_a_failed_and_a_cancelled_run_leave_nobody_busy(house: ServerHarness) -> None:
    workspace = await house.workspace()
    failed = await workspace.prompt("/fail 400")
    assert (await workspace.ended(failed))["error"]
    assert await busy(workspace) == (False, False)
    hanging = await workspace.prompt("/hang")

    async def works() -> bool:
        return (await busy(workspace))[0]

    await eventually(works, what="a run that works")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(hanging))["cancelled"] is True
    assert await busy(workspace) == (False, False)
    errors = [event for event in workspace.watcher.seen if event.kind == "agent_event" and event.payload.get("error")]
    assert [event.payload["run_id"] for event in errors] == [failed]  # a cancel is no error


# --- the agent ----------------------------------------------------------------------------------------------------


async def test_agent_info_names_the_model_that_would_answer(house: ServerHarness) -> None:
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
    for query in ("", "?provider_id=nobody"):
        found = (await ask(workspace, "GET", f"/agent/default-small-model{query}")).expect(200).json()
        assert found["model"]


async def test_init_and_update_never_touch_a_run_or_its_queue(house: ServerHarness) -> None:
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
        assert await waiting(workspace) == ["second"]
    for raw in (b"{", b'{"interactive":1}', b"[]"):
        answer = await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/init", raw=raw)
        assert answer.expect(400).code == "bad_input"
    good = (workspace.path / "bulkhead.json").read_text()
    (workspace.path / "bulkhead.json").write_text("{")
    refused = (await ask(workspace, "POST", "/agent/update")).expect(400)
    assert "bulkhead.json: line 1" in refused.json()["message"]
    assert await waiting(workspace) == ["second"]
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    await (await house.provider.next_call()).reply("2")
    assert (await workspace.ended(queued))["text"] == "2"  # with what was read before
    (workspace.path / "bulkhead.json").write_text(good)
    (await ask(workspace, "POST", "/agent/update")).expect(200)


# --- commands of the user -----------------------------------------------------------------------------------------


async def test_a_command_of_the_user_needs_no_agent_and_waits_for_none(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    path = f"/agent/sessions/{workspace.session}/shell"
    result = (await ask(workspace, "POST", path, {"command": "echo hi; exit 7"})).expect(200).json()
    assert result == {"output": "hi", "exit_code": 7}
    assert await busy(workspace) == (True, True)
    await call.reply(" three")
    assert (await workspace.ended(run))["text"] == "one two three"
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)


async def test_all_that_a_command_started_ends_with_its_caller(house: ServerHarness) -> None:
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
