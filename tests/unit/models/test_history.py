"""What was said before goes back as the provider gave it: thinking in its place and with its signature (W-22), the
thinking of another provider not at all, pictures where the provider can see them."""

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from protocol.api.message import (
    BinaryData,
    BinaryPart,
    ImageURLData,
    ImageURLPart,
    Message,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from tests.support.fakes.scripted_provider import Exchange
from tests.unit.agent.agent_harness import user
from tests.unit.models.test_provider_types import gemini, gemini_answer, sent_by
from tests.unit.models.test_remote import _loopback_is_allowed as _loopback_is_allowed
from tests.unit.models.test_remote import collect, house
from worker.agent.history import repair
from worker.agent.message_draft import MessageDraft
from worker.models.client import (
    ModelClient,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    ToolCallEnd,
    ToolCallStart,
)
from worker.zygote.warm_models import WarmTool

PNG = b"\x89PNG\r\n\x1a\nnothing more"
THINKS = {"can_reason": True, "supports_attachments": True}


def row(role: Any, *parts: Any, name: str = "m") -> Message:
    return Message(id=name, session_id="s1", role=role, parts=list(parts))


def drafted(events: list[ModelEvent]) -> Message:
    """The row that these events make."""
    draft = MessageDraft(row("assistant"))
    for event in events:
        match event:
            case TextDelta(text):
                draft.add_text(text)
            case ThinkingDelta(text):
                draft.add_thinking(text, 1)
            case ThinkingEnd(signature, block_id, provider, details):
                draft.end_thinking(1, signature=signature, block_id=block_id, provider=provider, details=details)
            case ToolCallStart(call_id, name):
                draft.start_tool_call(call_id, name)
            case ToolCallEnd(call_id, text):
                draft.end_tool_call(call_id, text)
            case _:
                pass
    return draft.snapshot()


def answers(*calls: str) -> Message:
    return row("tool", *(ToolResultPart(ToolResultData(tool_call_id=c, name="view", content=f"of {c}")) for c in calls))


async def thought(exchange: Exchange) -> None:
    """Two summaries of one item, a text, a call, another item of thinking, another call."""
    await exchange.thinking("rs_1", ["first", "second"], "secret-1")
    await exchange.tokens("looking")
    await exchange.tool_call("c1", "view", "{}")
    await exchange.thinking("rs_2", ["third"], "secret-2")
    await exchange.tool_call("c2", "view", "{}")
    await exchange.finish()


async def asked(provider: Any, client: ModelClient, rows: list[Message]) -> Exchange:
    """The request with these rows, answered with a word."""
    task = asyncio.create_task(collect(client, ModelRequest("be good", rows, [WarmTool()])))
    exchange: Exchange = await provider.next_call()
    await exchange.reply("fine")
    await task
    return exchange


async def step(provider: Any, client: ModelClient) -> Message:
    task = asyncio.create_task(collect(client, ModelRequest("be good", [user("hi")], [WarmTool()])))
    await thought(await provider.next_call())
    return drafted(await task)


async def test_openai_gets_its_reasoning_back_in_order_with_every_signature() -> None:
    async with house("responses", model=THINKS) as (provider, client):
        made = await step(provider, client)
        rows = repair([user("hi"), made, answers("c1", "c2"), user("and?", "u2")], "loop")
        exchange = await asked(provider, client, rows)
        items = [
            (item.get("type", "message"), item.get("id") or item.get("call_id") or item.get("role"))
            for item in exchange.messages
        ]
        assert items == [
            ("message", "system"),
            ("message", "user"),
            ("reasoning", "rs_1"),
            ("message", "assistant"),
            ("function_call", "c1"),
            ("reasoning", "rs_2"),
            ("function_call", "c2"),
            ("function_call_output", "c1"),
            ("function_call_output", "c2"),
            ("message", "user"),
        ]
        first, second = (item for item in exchange.messages if item.get("type") == "reasoning")
        assert [part["text"] for part in first["summary"]] == ["first", "second"]
        assert (first["encrypted_content"], second["encrypted_content"]) == ("secret-1", "secret-2")
        assert exchange.body["include"] == ["reasoning.encrypted_content"]
        assert exchange.body["reasoning"]["summary"] == "auto"


async def test_anthropic_gets_its_thinking_back_between_its_calls() -> None:
    async with house("anthropic", model=THINKS) as (provider, client):
        made = await step(provider, client)
        rows = repair([user("hi"), made, answers("c1", "c2"), user("and?", "u2")], "loop")
        exchange = await asked(provider, client, rows)
        blocks = exchange.messages[1]["content"]
        said = [(block["type"], block.get("thinking") or block.get("text") or block.get("id")) for block in blocks]
        assert said == [
            ("thinking", "first"),
            ("thinking", "second"),
            ("text", "looking"),
            ("tool_use", "c1"),
            ("thinking", "third"),
            ("tool_use", "c2"),
        ]
        assert [block.get("signature") for block in blocks if block["type"] == "thinking"] == [
            "secret-1",
            "secret-1",
            "secret-2",
        ]


@pytest.mark.parametrize(
    ("old", "new"), [("anthropic", "responses"), ("responses", "anthropic"), ("openai", "anthropic")]
)
async def test_the_thinking_of_another_provider_is_not_sent(old: str, new: str) -> None:
    async with house(old, model=THINKS) as (provider, client):
        if old == "openai":
            task = asyncio.create_task(collect(client))
            exchange = await provider.next_call()
            await exchange.open()
            await exchange.send_chunk({"reasoning_content": "first"})
            await exchange.tool_call("c1", "view", "{}")
            await exchange.tool_call("c2", "view", "{}")
            await exchange.finish()
            made = drafted(await task)
        else:
            made = await step(provider, client)
    async with house(new, model=THINKS) as (provider, client):
        rows = repair([user("hi"), made, answers("c1", "c2"), user("and?", "u2")], "another")
        exchange = await asked(provider, client, rows)
        text = str(exchange.body)
        for gone in ("first", "second", "third", "secret", "rs_", "<think"):
            assert gone not in text
        assert "of c2" in text


def stored(message: Message) -> Message:
    """As the file gives it back."""
    return msgspec.json.decode(msgspec.json.encode(message), type=Message)


async def test_openrouter_gets_the_details_of_its_reasoning_back() -> None:
    details = [
        {
            "type": "reasoning.text",
            "text": "first",
            "signature": "secret-1",
            "format": "anthropic-claude-v1",
            "index": 0,
        },
        {"type": "reasoning.encrypted", "data": "secret-2", "id": "rs_2", "format": "openai-responses-v1", "index": 1},
        {"type": "reasoning.text", "text": "plain", "format": "unknown", "index": 2},
    ]

    named: Any = {"model": THINKS | {"id": "anthropic/claude"}, "selected": {"model": "anthropic/claude"}}
    async with house("openai", type="openrouter", **named) as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange = await provider.next_call()
        await exchange.open()
        for detail in details:
            await exchange.send_chunk({"reasoning_details": [detail]})
        await exchange.tool_call("c1", "view", "{}")
        await exchange.finish()
        made = stored(drafted(await task))
        rows = repair([user("hi"), made, answers("c1"), user("and?", "u2")], "loop")
        exchange = await asked(provider, client, rows)
        sent = next(row for row in exchange.messages if row["role"] == "assistant")["reasoning_details"]
        told = [{key: value for key, value in detail.items() if value is not None} for detail in sent]
        assert told == details


def test_google_gets_the_signatures_of_its_calls_back() -> None:
    def signed(signature: str, **part: Any) -> dict[str, Any]:
        return {**part, "thoughtSignature": base64.b64encode(signature.encode()).decode()}

    parts = [
        {"text": "hm", "thought": True},
        {"text": "looking"},
        signed("of one", functionCall={"name": "view", "args": {"n": 1}, "id": "c1"}),
        {"functionCall": {"name": "view", "args": {"n": 2}, "id": "c2"}},
        signed("of three", functionCall={"name": "view", "args": {"n": 3}, "id": "c3"}),
    ]
    made = stored(drafted(list(sent_by(gemini(), gemini_answer(parts))[1])))
    silent = stored(drafted(list(sent_by(gemini(), gemini_answer(parts[2:]))[1])))
    for answer, before in ((made, ["text"]), (silent, [])):
        rows = repair([user("hi"), answer, answers("c1", "c2", "c3"), user("and?", "u2")], "p")
        request, _ = sent_by(gemini(), gemini_answer([{"text": "fine"}]), messages=rows)
        said = next(row for row in json.loads(request.content)["contents"] if row["role"] == "model")["parts"]
        assert [key for part in said for key in part if key in ("text", "functionCall")] == [
            *before,
            *3 * ["functionCall"],
        ]
        signatures = [part.get("thoughtSignature") for part in said[len(before) :]]
        assert [signature and base64.urlsafe_b64decode(signature) for signature in signatures] == [
            b"of one",
            None,
            b"of three",
        ]


@pytest.mark.parametrize("dialect", ["responses", "anthropic"])
async def test_the_thinking_of_another_model_is_not_sent_to_one_that_cannot(dialect: str) -> None:
    async with house(dialect, model=THINKS) as (provider, client):
        made = await step(provider, client)
    async with house(dialect) as (provider, client):
        other = replace(made, model="one-that-thinks")
        rows = repair([user("hi"), other, answers("c1", "c2"), user("and?", "u2")], "loop")
        text = str((await asked(provider, client, rows)).body)
        for gone in ("first", "second", "third", "secret", "rs_", "<think"):
            assert gone not in text
        assert "of c2" in text
        assert "looking" in text
    if dialect == "anthropic":  # some think although nobody told us that they can, and want it back
        async with house(dialect) as (provider, client):
            own = replace(made, model=client.model.id)
            rows = repair([user("hi"), own, answers("c1", "c2"), user("and?", "u2")], "loop")
            assert "secret-2" in str((await asked(provider, client, rows)).body)


async def test_thinking_that_was_cut_is_left_out() -> None:
    async with house("responses", model=THINKS) as (provider, client):
        made = drafted(
            [
                ThinkingDelta("half"),
                ThinkingEnd("", "rs_9", "loop"),
                TextDelta("said"),
                ThinkingDelta("late"),
                ThinkingEnd("sig", "rs_10", "loop"),
            ]
        )
        exchange = await asked(provider, client, repair([user("hi"), made, user("and?", "u2")], "loop"))
        assert "rs_" not in str(exchange.body)
        assert "said" in str(exchange.body)


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
@pytest.mark.parametrize("sees", [True, False])
async def test_pictures_go_where_they_can_be_seen(dialect: str, sees: bool) -> None:
    picture = base64.b64encode(PNG).decode()
    rows = [
        row(
            "user",
            TextPart(TextData(text="look")),
            BinaryPart(BinaryData(path="a.png", mime_type="image/png", data=PNG)),
            BinaryPart(BinaryData(path="b.bmp", mime_type="image/bmp", data=b"BM")),
            BinaryPart(BinaryData(path="c.json", mime_type="application/json", data=b'{"in": "side"}')),
            BinaryPart(BinaryData(path="d.txt", mime_type="text/plain; charset=utf-8", data=b"plain words")),
        ),
        row("assistant", ToolCallPart(ToolCallData(id="c1", name="view", input="{}", finished=True)), name="a"),
        row(
            "tool",
            ToolResultPart(
                ToolResultData(tool_call_id="c1", name="view", content="shown", data=picture, mime_type="image/png")
            ),
            name="t",
        ),
    ]

    async with house(dialect, model={"supports_attachments": sees}) as (provider, client):
        exchange = await asked(provider, client, rows)
        text = str(exchange.body)
        assert text.count(picture) == (2 if sees else 0)
        assert "b.bmp of type image/bmp, which this model cannot see" in text
        assert "plain words" in text
        assert "side" in text
        assert ("a.png of type image/png, which this model cannot see" in text) != sees
        if not sees:
            assert "media of type image/png, which this model cannot see" in text
        elif dialect == "anthropic":
            result = exchange.messages[2]["content"][0]
            assert [block["type"] for block in result["content"]] == ["text", "image"]
        else:
            assert "see the message after the results" in text
            assert exchange.messages[-1]["role"] == "user"
            assert "tool-result-c1" in exchange.prompt


async def test_a_picture_elsewhere_is_named_to_a_model_that_cannot_see() -> None:
    async with house("openai") as (provider, client):
        link = ImageURLPart(ImageURLData(url="http://somewhere/x.png"))
        exchange = await asked(provider, client, [row("user", link)])
        assert "cannot see" in exchange.prompt
