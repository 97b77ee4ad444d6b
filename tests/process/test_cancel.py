"""A cancel ends what was accepted before it, and nobody's request turns into an error because of it."""

from tests.support.clients.http_client import finish_of, texts
from tests.support.harness.server_harness import House


async def test_another_clients_cancel_gives_nobody_an_error(house: House) -> None:
    room = await house.room(model="openai")
    other = house.new_client()
    watcher = await house.watch(room.id, name="other", client=other)
    run, call = await room.streaming()
    (await other.cancel(room.id, room.session)).expect(200)
    await call.left()
    for end in (await room.ended(run), await watcher.ended(run)):
        assert end["cancelled"] is True
        assert "error" not in end
        assert end["text"] == "one two"
    assert [e for e in room.watcher.seen if e.kind == "agent_event" and e.payload.get("error")] == []
    finish = finish_of(await room.last_assistant())
    assert finish is not None
    assert finish["reason"] == "canceled"
    await room.works()


async def test_a_cancel_right_after_the_202_finds_the_prompt(house: House) -> None:
    room = await house.room(model="openai")
    house.failpoints.arm("run.before_start", workspace=room.id)
    run = await room.prompt("never mind")
    hit = await house.failpoints.reached("run.before_start")
    (await room.client.cancel(room.id, room.session)).expect(200)
    hit.release()
    end = await room.ended(run)
    assert end["cancelled"] is True
    user, answer = await room.messages()
    assert texts(user) == "never mind"
    assert (finish_of(answer) or {})["reason"] == "canceled"
    assert house.provider.exchanges == [], "the model was asked although the prompt was cancelled before it began"
    await room.works()


async def test_a_cancel_of_an_idle_session_does_nothing_to_the_next_prompt(house: House) -> None:
    room = await house.room()
    (await room.client.cancel(room.id, room.session)).expect(200)
    (await room.client.cancel(room.id, "no-such-session")).expect(200)
    await room.works()


async def test_a_cancel_takes_the_queue_with_it(house: House) -> None:
    room = await house.room(model="openai")
    first, call = await room.streaming()
    second, third = await room.prompt("two"), await room.prompt("three")
    (await room.client.cancel(room.id, room.session)).expect(200)
    for run in (first, second, third):
        assert (await room.ended(run))["cancelled"] is True
    await call.left()
    assert len([m for m in await room.messages() if m["role"] == "user"]) == 1, "a dropped prompt writes no messages"
    await room.works()


async def test_clearing_the_queue_leaves_the_active_run_alone(house: House) -> None:
    room = await house.room(model="openai")
    first, call = await room.streaming()
    second = await room.prompt("two")
    below = f"/v1/workspaces/{room.id}/agent/sessions/{room.session}/prompts"
    assert (await room.client.get(f"{below}/queued")).json() == 1
    (await room.client.post(f"{below}/clear")).expect(200)
    assert (await room.ended(second))["cancelled"] is True
    assert (await room.client.get(f"{below}/queued")).json() == 0
    await call.reply(" three")
    assert (await room.ended(first))["text"] == "one two three"


async def test_a_cancel_inside_a_tool_answers_its_call(house: House) -> None:
    room = await house.room(yolo=True)
    pipe = house.pipe()
    run, [child] = await room.tool_running(f"echo $$ > {pipe.path}; sleep 1000", pipe)
    (await room.client.cancel(room.id, room.session)).expect(200)
    end = await room.ended(run)
    assert end["cancelled"] is True
    assert not child.is_alive, "the child of the tool outlives `cancelled`"
    roles = [message["role"] for message in await room.messages()]
    assert roles[:3] == ["user", "assistant", "tool"]  # judged: every call has one result
    await room.works()
