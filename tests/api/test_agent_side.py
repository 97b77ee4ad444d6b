"""http-api 6 over the wire: run ids, what waits, who is busy, and what does not reach into a run."""

import asyncio
import json
import uuid

import pytest

from tests.support.checks import api_shapes
from tests.support.clients.http_client import Response, head, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import House, Room, together

pytestmark = pytest.mark.house(bystander=False)


async def ask(room: Room, method: str, path: str, body: object = None) -> Response:
    return await room.client.request(method, f"/v1/workspaces/{room.id}{path}", body)


async def waiting(room: Room, session: str = "") -> list[str]:
    """The prompts that wait in a session; the count has to agree."""
    base = f"/agent/sessions/{session or room.session}/prompts"
    listed: list[str] = (await ask(room, "GET", f"{base}/list")).expect(200).json()
    assert (await ask(room, "GET", f"{base}/queued")).expect(200).json() == len(listed)
    return listed


async def busy(room: Room, session: str = "") -> tuple[bool, bool]:
    """Is the session busy, by both routes, and is any?"""
    session = session or room.session
    short = (await ask(room, "GET", f"/agent/sessions/{session}")).expect(200).json()
    whole = await room.client.session(room.id, session)
    assert short["is_busy"] == whole["is_busy"]
    return whole["is_busy"], (await room.client.agent(room.id))["is_busy"]


# --- run ids ------------------------------------------------------------------------------------------------------


async def test_a_run_id_is_kept_or_made_up_and_told(house: House) -> None:
    room = await house.room()
    kept = f"K_{uuid.uuid4().hex}.1:$$x-"
    assert await room.prompt("/say one", kept) == kept
    ends = [await room.ended(kept)]  # before the next is sent: one without an id of its own may join a turn
    made = await room.prompt("/say two", "")
    assert uuid.UUID(made).version == 4
    ends.append(await room.ended(made))
    for run, text, end in ((kept, "one", ends[0]), (made, "two", ends[1])):
        assert (end["run_id"], end["session_id"], end["text"]) == (run, room.session, text)
        assert end["message_id"]
    assert [row["id"] for row in (await ask(room, "GET", "/runs")).json()] == [made, kept]


async def test_a_run_id_is_a_key_before_while_and_after_its_run(house: House) -> None:
    room, elsewhere = await house.room("w", model="openai"), await house.room("elsewhere")
    other = await room.client.create_session(room.id, "other")
    run, call = await room.streaming()
    again = [room.client.submit(room.id, room.session, "tell me a story", run) for _ in range(5)]
    for answer in await together(*again):
        assert answer.expect(202).json() == {"run_id": run}
    queued = await room.prompt("second")
    (await room.client.submit(room.id, room.session, "second", queued)).expect(202)
    assert await waiting(room) == ["second"]
    for session, prompt in ((room.session, "another story"), (other, "tell me a story")):
        refused = await room.client.submit(room.id, session, prompt, run)
        assert refused.expect(409).code == "run_id_reused"
    await call.reply(" three")
    await room.ended(run)
    await (await house.provider.next_call()).reply("2")
    await room.ended(queued)
    assert await room.prompt("tell me a story", run) == run
    assert len(await room.messages()) == 4  # nothing was run twice
    assert await elsewhere.prompt("/say mine", run) == run  # a key of one workspace
    assert (await elsewhere.ended(run))["text"] == "mine"
    assert len((await ask(room, "GET", "/runs")).json()) == 2


async def test_every_prompt_has_its_own_end_also_when_it_was_folded(house: House) -> None:
    room = await house.room(model="openai", yolo=True)
    run, call = await room.streaming()
    plain = [await room.prompt(f"plain {number}", "") for number in range(2)]
    keyed = await room.prompt("keyed")
    assert await waiting(room) == ["plain 0", "plain 1", "keyed"]
    await call.tool_call("c-1", "ls", {})
    await call.finish()
    step = await house.provider.next_call()
    sent = json.dumps(step.body["messages"])
    assert "plain 0" in sent
    assert "plain 1" in sent
    assert "keyed" not in sent  # it has a turn of its own
    assert await waiting(room) == ["keyed"]
    await step.reply("for all three")
    own = await house.provider.next_call()
    assert own.prompt == "keyed"
    await own.reply("for one")
    ends = {run_id: await room.ended(run_id) for run_id in (run, *plain, keyed)}
    assert ends[keyed]["text"] == "for one"
    assert {ends[run_id]["message_id"] for run_id in plain} == {ends[run]["message_id"]}
    assert not any(end.get("error") or end.get("cancelled") for end in ends.values())
    assert sum(event.kind == "run_complete" for event in room.watcher.seen) == 4
    users = [texts(message) for message in await room.messages() if message["role"] == "user"]
    assert users == ["tell me a story", "plain 0", "plain 1", "keyed"]


# --- what waits ---------------------------------------------------------------------------------------------------


async def test_the_queue_holds_what_waits_in_one_session(house: House) -> None:
    room = await house.room(model="openai")
    other = await room.client.create_session(room.id, "other")
    run, call = await room.streaming()
    assert await waiting(room) == []  # the active one does not wait
    queued = [await room.prompt(text) for text in ("first", "second", "first")]
    assert await waiting(room) == ["first", "second", "first"]
    assert await waiting(room, other) == []
    assert {row["state"] for row in (await ask(room, "GET", "/runs")).json() if row["id"] in queued} == {"queued"}
    free = await room.client.prompt(room.id, other, "at once")
    await (await house.provider.next_call()).reply("now")
    await room.ended(free)
    (await ask(room, "POST", f"/agent/sessions/{other}/prompts/clear")).expect(200)
    assert len(await waiting(room)) == 3
    assert (await ask(room, "POST", f"/agent/sessions/{room.session}/prompts/clear")).expect(200).body == b""
    assert await waiting(room) == []
    for run_id in queued:
        end = await room.ended(run_id)
        assert (end["cancelled"], end["message_id"]) == (True, "")
    await call.reply(" three")
    assert (await room.ended(run))["text"] == "one two three"
    assert len([message for message in await room.messages() if message["role"] == "user"]) == 1


# --- who is busy --------------------------------------------------------------------------------------------------


async def test_busy_is_the_session_that_works_and_the_agent_of_its_workspace(house: House) -> None:
    room, neighbour = await house.room("w", model="openai"), await house.room("neighbour")
    other = await room.client.create_session(room.id, "other")
    assert await busy(room) == (False, False)
    run, call = await room.streaming()
    assert await busy(room) == (True, True)
    assert await busy(room, other) == (False, True)
    assert await busy(neighbour) == (False, False)
    listed = (await ask(room, "GET", "/sessions")).json()
    assert {session["id"]: session["is_busy"] for session in listed} == {room.session: True, other: False}
    await call.reply(" three")
    await room.ended(run)
    assert await busy(room) == (False, False)


async def test_a_failed_and_a_cancelled_run_leave_nobody_busy(house: House) -> None:
    room = await house.room()
    failed = await room.prompt("/fail 400")
    assert (await room.ended(failed))["error"]
    assert await busy(room) == (False, False)
    hanging = await room.prompt("/hang")

    async def works() -> bool:
        return (await busy(room))[0]

    await eventually(works, what="a run that works")
    (await room.client.cancel(room.id, room.session)).expect(200)
    assert (await room.ended(hanging))["cancelled"] is True
    assert await busy(room) == (False, False)
    errors = [event for event in room.watcher.seen if event.kind == "agent_event" and event.payload.get("error")]
    assert [event.payload["run_id"] for event in errors] == [failed]  # a cancel is no error


# --- the agent ----------------------------------------------------------------------------------------------------


async def test_agent_info_names_the_model_that_would_answer(house: House) -> None:
    room = await house.room(model="openai")
    info = await room.client.agent(room.id)
    config = (await ask(room, "GET", "/config")).json()
    assert info["is_ready"] is True
    assert info["model_cfg"] == config["models"]["large"]
    provider = config["providers"][info["model_cfg"]["provider"]]
    assert info["model"] in provider["models"]
    assert info["model"]["context_window"] > 0
    small = (await ask(room, "GET", f"/agent/default-small-model?provider_id={provider['id']}")).expect(200).json()
    api_shapes.SELECTED_MODEL(small, "small model")
    assert small["provider"] == provider["id"]
    assert small["model"] in [model["id"] for model in provider["models"]]
    for query in ("", "?provider_id=nobody"):
        found = (await ask(room, "GET", f"/agent/default-small-model{query}")).expect(200).json()
        assert found["model"]


async def test_init_and_update_never_touch_a_run_or_its_queue(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming()
    queued = await room.prompt("second")
    for path, body in (
        ("/agent/init", {"interactive": False}),
        ("/agent/init", {"interactive": True}),
        ("/agent/init", {}),
        ("/agent/init", None),
        ("/agent/update", None),
    ):
        assert (await ask(room, "POST", path, body)).expect(200).body == b""
        assert await busy(room) == (True, True)
        assert await waiting(room) == ["second"]
    for raw in (b"{", b'{"interactive":1}', b"[]"):
        answer = await room.client.post(f"/v1/workspaces/{room.id}/agent/init", raw=raw)
        assert answer.expect(400).code == "bad_input"
    good = (room.path / "bulkhead.json").read_text()
    (room.path / "bulkhead.json").write_text("{")
    refused = (await ask(room, "POST", "/agent/update")).expect(400)
    assert "bulkhead.json: line 1" in refused.json()["message"]
    assert await waiting(room) == ["second"]
    await call.reply(" three")
    assert (await room.ended(run))["text"] == "one two three"
    await (await house.provider.next_call()).reply("2")
    assert (await room.ended(queued))["text"] == "2"  # with what was read before
    (room.path / "bulkhead.json").write_text(good)
    (await ask(room, "POST", "/agent/update")).expect(200)


# --- commands of the user -----------------------------------------------------------------------------------------


async def test_a_command_of_the_user_needs_no_agent_and_waits_for_none(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming()
    path = f"/agent/sessions/{room.session}/shell"
    result = (await ask(room, "POST", path, {"command": "echo hi; exit 7"})).expect(200).json()
    assert result == {"output": "hi", "exit_code": 7}
    assert await busy(room) == (True, True)
    await call.reply(" three")
    assert (await room.ended(run))["text"] == "one two three"
    (await room.client.cancel(room.id, room.session)).expect(200)


async def test_all_that_a_command_started_ends_with_its_caller(house: House) -> None:
    room = await house.room()
    pipe = house.pipe()
    command = f"setsid sleep 1000 & first=$!; (trap '' TERM; echo $$ $first $BASHPID > {pipe.path}; sleep 1000); wait"
    body = json.dumps({"command": command}).encode()
    _, writer = await asyncio.open_unix_connection(house.server.socket_path)
    path = f"/v1/workspaces/{room.id}/agent/sessions/{room.session}/shell"
    writer.write(head("POST", path, {"Content-Length": str(len(body))}) + body)
    children = [house.hold(int(pid)) for pid in (await pipe.line()).split()]
    assert len(children) == 3
    writer.close()
    for child in children:
        await child.gone()
    await room.works()
