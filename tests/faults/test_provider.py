"""Fault matrix 10: the provider breaks off, stays silent or refuses; the partial text is kept, nothing is doubled."""

import pytest

from tests.support.client import finish_of, parts_of, texts
from tests.support.house import House, Room
from tests.support.provider import Exchange

NO_WAIT = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}
ONE_ATTEMPT = {"model_retries_max": 0}
LONG_WAIT = {"model_retry_delay_s": 300.0, "model_retry_delay_s_max": 300.0}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("how", ["reset", "clean end"])
@pytest.mark.house(limits=NO_WAIT)
async def test_L04_cut_in_the_middle_is_tried_again(house: House, how: str, dialect: str) -> None:
    room = await house.room(model=dialect)
    run, call = await room.streaming("once upon")
    await end(call, how)
    again = await house.provider.next_call()
    assert len(again.body["messages"]) == len(call.body["messages"]), "the broken answer became part of the request"
    await again.reply("once upon ", "a time")
    ended = await room.ended(run)
    assert ended["text"] == "once upon a time", "text was doubled or lost"
    assert "error" not in ended
    assert texts(await room.last_assistant()) == "once upon a time"
    assert len(await room.messages()) == 2


@pytest.mark.parametrize("how", ["reset", "clean end"])
@pytest.mark.house(limits=ONE_ATTEMPT)
async def test_L04_cut_for_good_keeps_and_marks_the_partial_text(house: House, how: str) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("once upon")
    await end(call, how)
    ended = await room.ended(run)
    assert ended["error"], ended
    assert ended["text"] == "once upon"
    answer = await room.last_assistant()
    assert texts(answer) == "once upon"
    assert (finish_of(answer) or {})["reason"] == "error"
    await room.works()


@pytest.mark.house(limits=NO_WAIT)
async def test_L04_cut_after_a_tool_ran_does_not_run_it_again(house: House) -> None:
    room = await house.room(model="openai", yolo=True)
    run = await room.prompt("count")
    call = await house.provider.next_call()
    await call.tool_call("call-1", "bash", {"description": "count", "command": "echo ran >> counted"})
    await call.finish()
    second = await house.provider.next_call()
    await second.tokens("it was")
    await room.watcher.text(room.session, "it was")
    second.reset()
    third = await house.provider.next_call()
    assert third.body["messages"] == second.body["messages"], "the second step was repeated from another history"
    await third.reply("it was one")
    assert (await room.ended(run))["text"] == "it was one"
    assert (room.path / "counted").read_text() == "ran\n"
    assert len([result for m in await room.messages() for result in parts_of(m, "tool_result")]) == 1


@pytest.mark.house(limits=NO_WAIT)
async def test_L04_cut_inside_a_tool_call_does_not_run_it(house: House) -> None:
    room = await house.room(model="openai", yolo=True)
    run = await room.prompt("delete")
    call = await house.provider.next_call()
    await call.tokens("now")
    await call.tool_call("call-1", "bash", '{"description": "half", "command": "touch ra')
    await room.watcher.text(room.session, "now")
    call.reset()
    await (await house.provider.next_call()).reply("no")
    assert (await room.ended(run))["text"] == "no"
    assert parts_of(await room.last_assistant(), "tool_call") == []


@pytest.mark.house(limits=NO_WAIT)
async def test_L02_an_overloaded_provider_is_asked_again_within_bounds(house: House) -> None:
    room = await house.room(model="openai")
    run = await room.prompt("hello?")
    for status in (429, 500, 503):
        await (await house.provider.next_call()).refuse(status)
    await (await house.provider.next_call()).reply("at last")
    assert (await room.ended(run))["text"] == "at last"
    second = await room.prompt("hello again?")
    for _ in range(4):
        await (await house.provider.next_call()).refuse(503)
    assert (await room.ended(second))["error"]
    assert len(house.provider.exchanges) == 8, "there is a second, hidden layer of retries"
    retrying = [e for e in room.watcher.seen if e.kind == "agent_event" and e.payload["type"] == "retrying"]
    assert len(retrying) == 6


async def silent(room: Room, call: Exchange) -> None:
    """L03: the request was taken, nothing came."""


async def headers_only(room: Room, call: Exchange) -> None:
    """L03: headers and the first, empty event; then silence."""
    await call.tokens()


async def comments_only(room: Room, call: Exchange) -> None:
    """L03: keep-alive comments are no progress."""
    await call.garbage(b": still here\n\n" * 20)


async def half_streamed(room: Room, call: Exchange) -> None:
    """L04 before it breaks: some text came."""
    await call.tokens("some text")
    await room.watcher.text(room.session, "some text")


async def backing_off(room: Room, call: Exchange) -> None:
    """L02: told to come back later."""
    await call.refuse(429, retry_after="45")
    await room.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def broken_off(room: Room, call: Exchange) -> None:
    """L04: reset in the middle, waiting for the next attempt."""
    await half_streamed(room, call)
    call.reset()
    await room.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def talking_garbage(room: Room, call: Exchange) -> None:
    """L05: an event that never ends."""
    await call.garbage(b"data: " + b"x" * 100_000)


async def asking_for_tools(room: Room, call: Exchange) -> None:
    """L06: a call whose arguments are still coming."""
    await call.tool_call("call-1", "no_such_tool", '{"half": ')


@pytest.mark.parametrize(
    "trouble",
    [
        silent,
        headers_only,
        comments_only,
        half_streamed,
        backing_off,
        broken_off,
        talking_garbage,
        asking_for_tools,
    ],
    ids=lambda trouble: trouble.__name__,
)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.house(limits=LONG_WAIT)
async def test_L07_cancelled_in_every_trouble(house: House, trouble: object, dialect: str) -> None:
    room = await house.room(model=dialect)
    run = await room.prompt("are you there?")
    call = await house.provider.next_call()
    await trouble(room, call)  # type: ignore[operator]
    (await room.client.cancel(room.id, room.session)).expect(200)
    ended = await room.ended(run, within_s=5.0)
    assert ended["cancelled"] is True
    assert "error" not in ended
    await call.left(within_s=1.0)
    assert (finish_of(await room.last_assistant()) or {})["reason"] == "canceled"
    assert len(house.provider.exchanges) == 1
    await room.works()


async def end(call: Exchange, how: str) -> None:
    """Break the stream off."""
    if how == "reset":
        call.reset()
    else:
        await call.cut()
