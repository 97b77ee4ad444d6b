"""Test that a conversation is sent back as the provider gave it.

Thinking keeps its position and signature (W-22), thinking of another provider is left out, and images are sent to
models that accept them.
"""

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
    Part,
    Role,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from tests.support.fakes.scripted_provider import Exchange, Provider
from tests.unit.agent.agent_harness import user
from tests.unit.models.test_provider_types import allow_loopback as allow_loopback
from tests.unit.models.test_provider_types import gemini, gemini_answer, sent_by
from tests.unit.models.test_remote import collect, open_client
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

PNG = b"\x89PNG\r\n\x1a\nno image data"
THINKS = {"can_reason": True, "supports_attachments": True}


def row(role: Role, *parts: Part, name: str = "m") -> Message:
    return Message(id=name, session_id="s1", role=role, parts=list(parts))


def build_row(events: list[ModelEvent]) -> Message:
    """Return the row that these events build."""
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


async def send_step(exchange: Exchange) -> None:
    """Send thinking in two parts, a text, a call, more thinking, and another call."""
    await exchange.thinking("rs_1", ["first", "second"], "secret-1")
    await exchange.tokens("looking")
    await exchange.tool_call("c1", "view", "{}")
    await exchange.thinking("rs_2", ["third"], "secret-2")
    await exchange.tool_call("c2", "view", "{}")
    await exchange.finish()


async def ask(provider: Provider, client: ModelClient, rows: list[Message]) -> Exchange:
    """Send these rows to the provider, answer, and return the exchange."""
    task = asyncio.create_task(collect(client, ModelRequest("be good", rows, [WarmTool()])))
    exchange: Exchange = await provider.next_call()
    await exchange.reply("fine")
    await task
    return exchange


async def receive_step(provider: Provider, client: ModelClient) -> Message:
    task = asyncio.create_task(collect(client, ModelRequest("be good", [user("hi")], [WarmTool()])))
    await send_step(await provider.next_call())
    return build_row(await task)


async def test_openai_gets_its_reasoning_back_in_order_with_every_signature() -> None:
    async with open_client("responses", model=THINKS) as (provider, client):
        step = await receive_step(provider, client)
        rows = repair([user("hi"), step, answers("c1", "c2"), user("and?", "u2")], "loop")
        exchange = await ask(provider, client, rows)
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
    async with open_client("anthropic", model=THINKS) as (provider, client):
        step = await receive_step(provider, client)
        rows = repair([user("hi"), step, answers("c1", "c2"), user("and?", "u2")], "loop")
        exchange = await ask(provider, client, rows)
        blocks = exchange.messages[1]["content"]
        sent = [(block["type"], block.get("thinking") or block.get("text") or block.get("id")) for block in blocks]
        assert sent == [
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
    async with open_client(old, model=THINKS) as (provider, client):
        if old == "openai":
            task = asyncio.create_task(collect(client))
            exchange = await provider.next_call()
            await exchange.open()
            await exchange.send_chunk({"reasoning_content": "first"})
            await exchange.tool_call("c1", "view", "{}")
            await exchange.tool_call("c2", "view", "{}")
            await exchange.finish()
            step = build_row(await task)
        else:
            step = await receive_step(provider, client)
    async with open_client(new, model=THINKS) as (provider, client):
        rows = repair([user("hi"), step, answers("c1", "c2"), user("and?", "u2")], "another")
        exchange = await ask(provider, client, rows)
        text = str(exchange.body)
        for absent in ("first", "second", "third", "secret", "rs_", "<think"):
            assert absent not in text
        assert "of c2" in text


def stored(message: Message) -> Message:
    """Return the message as it is read back from the database."""
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

    changes: dict[str, Any] = {"model": THINKS | {"id": "anthropic/claude"}, "selected": {"model": "anthropic/claude"}}
    async with open_client("openai", type="openrouter", **changes) as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange = await provider.next_call()
        await exchange.open()
        for detail in details:
            await exchange.send_chunk({"reasoning_details": [detail]})
        await exchange.tool_call("c1", "view", "{}")
        await exchange.finish()
        step = stored(build_row(await task))
        rows = repair([user("hi"), step, answers("c1"), user("and?", "u2")], "loop")
        exchange = await ask(provider, client, rows)
        sent = next(row for row in exchange.messages if row["role"] == "assistant")["reasoning_details"]
        details_sent = [{key: value for key, value in detail.items() if value is not None} for detail in sent]
        assert details_sent == details


async def test_google_gets_the_signatures_of_its_calls_back() -> None:
    def signed(signature: str, **part: Any) -> dict[str, Any]:
        return {**part, "thoughtSignature": base64.b64encode(signature.encode()).decode()}

    parts: list[dict[str, object]] = [
        {"text": "hm", "thought": True},
        {"text": "looking"},
        signed("of one", functionCall={"name": "view", "args": {"n": 1}, "id": "c1"}),
        {"functionCall": {"name": "view", "args": {"n": 2}, "id": "c2"}},
        signed("of three", functionCall={"name": "view", "args": {"n": 3}, "id": "c3"}),
    ]
    step = stored(build_row((await sent_by(gemini(), gemini_answer(parts)))[1]))
    without_text = stored(build_row((await sent_by(gemini(), gemini_answer(parts[2:])))[1]))
    for answer, before in ((step, ["text"]), (without_text, [])):
        rows = repair([user("hi"), answer, answers("c1", "c2", "c3"), user("and?", "u2")], "p")
        request, _ = await sent_by(gemini(), gemini_answer([{"text": "fine"}]), messages=rows)
        sent = next(row for row in json.loads(request.content)["contents"] if row["role"] == "model")["parts"]
        assert [key for part in sent for key in part if key in ("text", "functionCall")] == [
            *before,
            *3 * ["functionCall"],
        ]
        signatures = [part.get("thoughtSignature") for part in sent[len(before) :]]
        assert [signature and base64.urlsafe_b64decode(signature) for signature in signatures] == [
            b"of one",
            None,
            b"of three",
        ]


@pytest.mark.parametrize("dialect", ["responses", "anthropic"])
async def test_the_thinking_of_another_model_is_not_sent_to_a_model_that_cannot_reason(dialect: str) -> None:
    async with open_client(dialect, model=THINKS) as (provider, client):
        step = await receive_step(provider, client)
    async with open_client(dialect) as (provider, client):
        other = replace(step, model="one-that-thinks")
        rows = repair([user("hi"), other, answers("c1", "c2"), user("and?", "u2")], "loop")
        text = str((await ask(provider, client, rows)).body)
        for absent in ("first", "second", "third", "secret", "rs_", "<think"):
            assert absent not in text
        assert "of c2" in text
        assert "looking" in text
    if dialect == "anthropic":  # some models think although it is not configured, and require it back
        async with open_client(dialect) as (provider, client):
            own = replace(step, model=client.model.id)
            rows = repair([user("hi"), own, answers("c1", "c2"), user("and?", "u2")], "loop")
            assert "secret-2" in str((await ask(provider, client, rows)).body)


async def test_thinking_that_was_cut_off_is_left_out() -> None:
    async with open_client("responses", model=THINKS) as (provider, client):
        step = build_row(
            [
                ThinkingDelta("half"),
                ThinkingEnd("", "rs_9", "loop"),
                TextDelta("said"),
                ThinkingDelta("late"),
                ThinkingEnd("sig", "rs_10", "loop"),
            ]
        )
        exchange = await ask(provider, client, repair([user("hi"), step, user("and?", "u2")], "loop"))
        assert "rs_" not in str(exchange.body)
        assert "said" in str(exchange.body)


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
@pytest.mark.parametrize("accepts_images", [True, False])
async def test_images_are_sent_only_to_models_that_accept_them(dialect: str, accepts_images: bool) -> None:
    image = base64.b64encode(PNG).decode()
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
                ToolResultData(tool_call_id="c1", name="view", content="shown", data=image, mime_type="image/png")
            ),
            name="t",
        ),
    ]

    async with open_client(dialect, model={"supports_attachments": accepts_images}) as (provider, client):
        exchange = await ask(provider, client, rows)
        text = str(exchange.body)
        assert text.count(image) == (2 if accepts_images else 0)
        assert "b.bmp of type image/bmp, which this model cannot see" in text
        assert "plain words" in text
        assert "side" in text
        assert ("a.png of type image/png, which this model cannot see" in text) != accepts_images
        if not accepts_images:
            assert "media of type image/png, which this model cannot see" in text
        elif dialect == "anthropic":
            result = exchange.messages[2]["content"][0]
            assert [block["type"] for block in result["content"]] == ["text", "image"]
        else:
            assert "see the message after the results" in text
            assert exchange.messages[-1]["role"] == "user"
            assert "tool-result-c1" in exchange.prompt


async def test_an_image_url_is_described_to_a_model_that_accepts_no_images() -> None:
    async with open_client("openai") as (provider, client):
        link = ImageURLPart(ImageURLData(url="http://somewhere/x.png"))
        exchange = await ask(provider, client, [row("user", link)])
        assert "cannot see" in exchange.prompt
