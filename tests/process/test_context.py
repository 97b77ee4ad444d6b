"""Test session titles, and summaries of conversations that are too long for the model."""

import pytest

from tests.support.clients.http_client import texts
from tests.support.fakes.scripted_provider import Exchange
from tests.support.harness.server_harness import ServerHarness

OVERFLOW = {
    "openai": {"message": "maximum context length", "kind": "invalid_request_error", "code": "context_length_exceeded"},
    "anthropic": {"message": "prompt is too long: 200001 tokens > 200000 maximum", "kind": "invalid_request_error"},
}


def asks_for_a_title(call: Exchange) -> bool:
    return "You name conversations" in str(call.body["messages"][0]["content"])


async def test_an_untitled_session_gets_a_title_while_its_run_continues(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    workspace.session = await workspace.client.create_session(workspace.id, title="")
    run = await workspace.prompt("paint the fence")
    calls = [await house.provider.next_call(), await house.provider.next_call()]
    title, answer = sorted(calls, key=asks_for_a_title, reverse=True)
    assert asks_for_a_title(title)
    await answer.reply("painted")
    assert (await workspace.ended(run))["text"] == "painted", "the title held up the run"
    await title.reply("Fence painting")
    await workspace.watcher.wait(
        lambda event: event.kind == "session" and event.payload["title"] == "Fence painting", what="the title"
    )


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_conversation_that_is_too_long_is_summarised_and_the_run_continues(
    house: ServerHarness, dialect: str
) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("first wish")
    await (await house.provider.next_call()).reply("first answer")
    await workspace.ended(run)
    run = await workspace.prompt("second wish")
    too_long = await house.provider.next_call()
    await too_long.refuse(400, **OVERFLOW[dialect])
    summary = await house.provider.next_call()
    assert "first answer" in str(summary.body["messages"])
    assert not summary.body.get("tools")
    await summary.reply("what was said so far")
    again = await house.provider.next_call()
    assert "what was said so far" in str(again.body["messages"])
    assert "second wish" in str(again.body["messages"])
    assert "first answer" not in str(again.body["messages"])
    await again.reply("second answer")
    end = await workspace.ended(run)
    assert end["text"] == "second answer"
    messages = await workspace.messages()
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "assistant"]
    assert [message.get("is_summary_message", False) for message in messages] == [False, False, False, True, False]
    assert texts(messages[-1]) == "second answer"
    session = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")).expect(200).json()
    )
    assert session["summary_message_id"] == messages[3]["id"]
    run = await workspace.prompt("third wish")
    third = await house.provider.next_call()
    assert "first answer" not in str(third.body["messages"])
    await third.reply("third answer")
    await workspace.ended(run)


async def test_W_06_a_cancel_during_the_summary_cancels_the_run_and_leaves_no_partial_summary(
    house: ServerHarness,
) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("first wish")
    await (await house.provider.next_call()).reply("first answer")
    await workspace.ended(run)
    run = await workspace.prompt("second wish")
    await (await house.provider.next_call()).refuse(400, **OVERFLOW["openai"])
    summary = await house.provider.next_call()
    await summary.tokens("half of it")
    await workspace.watcher.text(workspace.session, "half of it")
    await workspace.client.cancel(workspace.id, workspace.session)
    assert (await workspace.ended(run))["cancelled"]
    assert not any(message.get("is_summary_message") for message in await workspace.messages())
    await workspace.works()
