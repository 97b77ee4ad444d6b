"""Summarise over the wire: an accepted run that its caller waits for, and what the conversation is afterwards."""

import asyncio
import signal

import pytest

from tests.support.clients.http_client import Response, finish_of, head, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import House, Room

pytestmark = pytest.mark.house(bystander=False)


async def told(house: House) -> Room:
    """A room in which something was said."""
    room = await house.room(model="openai")
    house.diary.asked(room.id, room.session, "")  # a summary's run has an id that no client chose
    run = await room.prompt("remember the word apple")
    await (await house.provider.next_call()).reply("noted")
    await room.ended(run)
    return room


def path(room: Room, session: str = "") -> str:
    return f"/v1/workspaces/{room.id}/agent/sessions/{session or room.session}/summarize"


def summarize(room: Room) -> "asyncio.Task[Response]":
    return asyncio.get_running_loop().create_task(room.client.post(path(room)))


async def test_a_summary_becomes_the_beginning_of_the_conversation(house: House) -> None:
    room = await told(house)
    asked = summarize(room)
    call = await house.provider.next_call()
    assert "remember the word apple" in str(call.body["messages"])
    await call.tokens("the word ")
    shown = await room.watcher.text(room.session, "the word")
    assert shown["is_summary_message"] is True
    assert (await room.client.agent(room.id))["is_busy"] is True
    assert (await room.client.post(path(room))).expect(409).code == "busy"
    queued = await room.prompt("which word?")
    await call.reply("is apple")
    assert (await asked).expect(200).body == b""
    next_call = await house.provider.next_call()
    assert "the word is apple" in str(next_call.body["messages"])
    assert "remember the word" not in str(next_call.body["messages"])
    await next_call.reply("apple")
    assert (await room.ended(queued))["text"] == "apple"
    session = await room.client.session(room.id, room.session)
    assert session["summary_message_id"] == shown["id"]
    assert session["message_count"] == len(await room.messages()) == 5
    updates = [e.payload for e in room.watcher.seen if e.kind == "session" and e.payload["summary_message_id"]]
    assert updates[0]["prompt_tokens"] == 0
    assert updates[0]["completion_tokens"] > 0


async def test_nothing_to_summarise(house: House) -> None:
    room = await house.room()
    (await room.client.post(path(room))).expect(200)
    assert await room.messages() == []
    assert (await room.client.post(path(room, "none"))).expect(404).code == "session_unknown"


async def test_a_busy_session_is_not_summarised(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming()
    assert (await room.client.post(path(room))).expect(409).code == "busy"
    await call.reply("")
    await room.ended(run)


async def test_a_cancel_leaves_no_trace(house: House) -> None:
    room = await told(house)
    before = await room.messages()
    asked = summarize(room)
    call = await house.provider.next_call()
    await call.tokens("half a")
    await room.watcher.text(room.session, "half a")
    (await room.client.cancel(room.id, room.session)).expect(200)
    (await asked).expect(200)
    assert await room.messages() == before
    session = await room.client.session(room.id, room.session)
    assert (session["summary_message_id"], session["message_count"]) == ("", 2)
    await room.watcher.wait(lambda e: e.kind == "message" and e.change == "deleted", what="the deleted row")


async def test_a_caller_that_leaves_cancels_it(house: House) -> None:
    room = await told(house)
    before = await room.messages()
    _, writer = await asyncio.open_unix_connection(house.server.socket_path)
    writer.write(head("POST", path(room), {"Content-Length": "0"}))
    call = await house.provider.next_call()
    await call.tokens("half a")
    await room.watcher.text(room.session, "half a")
    writer.close()
    await writer.wait_closed()

    async def is_idle() -> bool:
        return not (await room.client.session(room.id, room.session))["is_busy"]

    await eventually(is_idle, what="the end of the summary")
    assert await room.messages() == before
    await room.works()


async def test_a_failure_is_told_and_stored(house: House) -> None:
    room = await told(house)
    asked = summarize(room)
    await (await house.provider.next_call()).refuse(400)
    refused = (await asked).expect(502)
    assert refused.code == "provider_failed"
    last = await room.last_assistant()
    assert (finish_of(last) or {})["reason"] == "error"
    assert last["is_summary_message"] is True
    assert (await room.client.session(room.id, room.session))["summary_message_id"] == ""
    assert not any(event.kind == "agent_event" and event.payload.get("error") for event in room.watcher.seen)
    await room.works()


async def test_a_worker_that_dies_takes_the_half_summary_with_it(house: House) -> None:
    room = await told(house)
    asked = summarize(room)
    call = await house.provider.next_call()
    await call.tokens("half a")
    await room.watcher.text(room.session, "half a")
    (await room.worker()).send(signal.SIGKILL)
    assert (await asked).expect(503).code == "worker_lost"
    assert [texts(message) for message in await room.messages()] == ["remember the word apple", "noted"]
    runs = (await room.client.get(f"/v1/workspaces/{room.id}/runs")).expect(200).json()
    assert [run["outcome"] for run in runs] == ["interrupted", "completed"]
    await room.works()


async def test_a_summary_that_had_not_begun_is_done_by_the_next_worker(house: House) -> None:
    room = await told(house)
    house.failpoints.arm("run.before_start", "kill", workspace=room.id)
    assert (await summarize(room)).expect(503).code == "worker_lost"
    await (await house.provider.next_call()).reply("the word is apple")
    await room.watcher.wait(lambda e: e.kind == "session" and bool(e.payload["summary_message_id"]), what="the summary")
    assert [texts(message) for message in await room.messages()][-1] == "the word is apple"
    await room.works()
