"""Test that a cancel ends all prompts accepted before it, and causes no error for any client."""

from tests.support.clients.http_client import finish_of, texts
from tests.support.harness.server_harness import ServerHarness


async def test_a_cancel_by_another_client_is_not_an_error_for_any_client(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    other = house.new_client()
    watcher = await house.watch(workspace.id, name="other", client=other)
    run, call = await workspace.streaming()
    (await other.cancel(workspace.id, workspace.session)).expect(200)
    await call.wait_closed()
    for end in (await workspace.ended(run), await watcher.ended(run)):
        assert end["cancelled"] is True
        assert "error" not in end
        assert end["text"] == "one two"
    assert [e for e in workspace.watcher.seen if e.kind == "agent_event" and e.payload.get("error")] == []
    finish = finish_of(await workspace.last_assistant())
    assert finish is not None
    assert finish["reason"] == "canceled"
    await workspace.works()


async def test_a_cancel_right_after_the_202_cancels_the_prompt(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    house.failpoints.arm("run.before_start", workspace=workspace.id)
    run = await workspace.prompt("never mind")
    hit = await house.failpoints.reached("run.before_start")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    hit.release()
    end = await workspace.ended(run)
    assert end["cancelled"] is True
    user, answer = await workspace.messages()
    assert texts(user) == "never mind"
    assert (finish_of(answer) or {})["reason"] == "canceled"
    assert house.provider.exchanges == [], "the model was called although the prompt was cancelled before its run began"
    await workspace.works()


async def test_a_cancel_of_an_idle_session_does_nothing_to_the_next_prompt(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    (await workspace.client.cancel(workspace.id, "no-such-session")).expect(200)
    await workspace.works()


async def test_a_cancel_also_cancels_the_queued_prompts(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    first, call = await workspace.streaming()
    second, third = await workspace.prompt("two"), await workspace.prompt("three")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    for run in (first, second, third):
        assert (await workspace.ended(run))["cancelled"] is True
    await call.wait_closed()
    assert len([m for m in await workspace.messages() if m["role"] == "user"]) == 1, (
        "a dropped prompt writes no messages"
    )
    await workspace.works()


async def test_clearing_the_queue_leaves_the_active_run_alone(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    first, call = await workspace.streaming()
    second = await workspace.prompt("two")
    below = f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/prompts"
    assert (await workspace.client.get(f"{below}/queued")).json() == 1
    (await workspace.client.post(f"{below}/clear")).expect(200)
    assert (await workspace.ended(second))["cancelled"] is True
    assert (await workspace.client.get(f"{below}/queued")).json() == 0
    await call.reply(" three")
    assert (await workspace.ended(first))["text"] == "one two three"


async def test_a_cancel_during_a_tool_call_ends_the_tool_and_stores_a_result(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    run, [child] = await workspace.tool_running(f"echo $$ > {pipe.path}; sleep 1000", pipe)
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    end = await workspace.ended(run)
    assert end["cancelled"] is True
    assert not child.is_alive, "the child of the tool outlives its cancelled run"
    roles = [message["role"] for message in await workspace.messages()]
    assert roles[:3] == ["user", "assistant", "tool"]  # the harness checks that every call has one result
    await workspace.works()
