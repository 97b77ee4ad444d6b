"""Test the real model clients against a scripted provider on loopback: all dialects, failures and cancels."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from protocol.api.message import (
    Message,
    ReasoningBlock,
    ReasoningData,
    ReasoningPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.fakes.scripted_provider import API_KEY, Exchange, Provider
from tests.unit.agent.agent_harness import user
from worker.agent.usage import cost_of
from worker.config.catalogue import key_hint
from worker.config.load import WorkspaceConfig
from worker.config.resolve import resolve
from worker.config.schema import Options
from worker.models.client import (
    Counted,
    Finished,
    ModelClient,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.registry import ModelRegistry
from worker.models.transport.sse import EventParser
from worker.zygote.warm_models import WarmTool

DIALECTS = ("openai", "responses", "anthropic")


def config_of(provider: Provider, dialect: str, **changes: Any) -> WorkspaceConfig:
    raw = provider.config(dialect)
    raw["providers"]["loop"]["models"][0].update(changes.pop("model", {}))
    raw["models"]["large"].update(changes.pop("selected", {}))
    raw["providers"]["loop"].update(changes)
    resolved = resolve(
        msgspec.convert(raw["providers"], dict[str, ProviderConfig]),
        msgspec.convert(raw["models"], dict[str, SelectedModel]),
        use_known=False,
        default_model="",
        env={},
        run=lambda command: "",
    )
    return WorkspaceConfig(
        providers=resolved.providers,
        models={**resolved.models},
        allowed_tools=(),
        options=Options(),
        env={},
        hint="",
        warnings=(),
        files=(),
        secrets=resolved.secrets,
    )


@asynccontextmanager
async def open_client(
    dialect: str, limits: Limits = DEFAULT_LIMITS, **changes: Any
) -> AsyncIterator[tuple[Provider, ModelClient]]:
    """Open a scripted provider and a client of it; every request must be valid for a real provider."""
    async with Provider() as provider:
        models = ModelRegistry(config_of(provider, dialect, **changes), {}, limits)
        try:
            yield provider, models.large()
        finally:
            await models.close()
        assert provider.violations == []


async def collect(client: ModelClient, request: ModelRequest | None = None) -> list[ModelEvent]:
    async with aclosing(client.stream(request or ModelRequest("be good", [user("hi")]))) as events:
        return [event async for event in events]


async def collect_failure(client: ModelClient) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        await collect(client)
    assert API_KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_text_is_passed_on_as_it_arrives_and_ends_with_usage(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        events: asyncio.Queue[ModelEvent] = asyncio.Queue()

        async def read() -> None:
            async for event in client.stream(ModelRequest("be good", [user("hi")])):
                if not isinstance(event, Counted):
                    events.put_nowait(event)

        task = asyncio.create_task(read())
        exchange: Exchange = await provider.next_call()
        for text in ("Hel", "lo"):
            await exchange.tokens(text)
            assert await events.get() == TextDelta(text)
        await exchange.finish()
        await task
        finished = events.get_nowait()
        assert isinstance(finished, Finished)
        assert finished.reason == "end_turn"
        assert (finished.tokens.input, finished.tokens.output) == (11, 7)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_tool_calls_keep_the_raw_text_of_their_arguments(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        request = ModelRequest("be good", [user("hi")], [WarmTool()])
        task = asyncio.create_task(collect(client, request))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("looking")
        await exchange.tool_call("c1", "view", '{"file_path": "a"}')
        await exchange.tool_call("c2", "view", '{"file_path": ')
        await exchange.finish()
        events = await task
        assert [event for event in events if isinstance(event, ToolCallStart | ToolCallEnd)] == [
            ToolCallStart("c1", "view"),
            ToolCallStart("c2", "view"),
            ToolCallEnd("c1", '{"file_path": "a"}'),
            ToolCallEnd("c2", '{"file_path": '),
        ]
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "tool_use"
        tools = json.dumps(exchange.body["tools"])
        assert "file_path" in tools
        assert '"strict": true' not in tools


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_history_with_tools_is_sent_in_the_format_of_the_provider(dialect: str) -> None:
    rows = [
        user("hi"),
        Message(
            id="a",
            session_id="s1",
            role="assistant",
            parts=[
                TextPart(TextData(text="looking")),
                ToolCallPart(ToolCallData(id="c1", name="view", input='{"file_path":"a"}', finished=True)),
            ],
        ),
        Message(
            id="b",
            session_id="s1",
            role="tool",
            parts=[
                ToolResultPart(ToolResultData(tool_call_id="c1", name="view", content="the outcome", is_error=True))
            ],
        ),
        user("and?", "user-2"),
    ]

    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect(client, ModelRequest("be good", rows, [WarmTool()])))
        exchange: Exchange = await provider.next_call()
        await exchange.reply("x")
        await task
        text = json.dumps(exchange.body)
        assert "be good" in text
        assert "looking" in text
        assert "the outcome" in text
        assert exchange.prompt == "and?"


async def test_thinking_signatures_are_received_from_anthropic_and_sent_back() -> None:
    signed = ReasoningBlock(thinking="old", signature="sig-1", provider="loop")
    rows = [
        user("hi"),
        Message(
            id="a",
            session_id="s1",
            role="assistant",
            parts=[ReasoningPart(ReasoningData(thinking="old", blocks=[signed])), TextPart(TextData(text="said"))],
        ),
        user("more", "user-2"),
    ]

    async with open_client("anthropic") as (provider, client):
        task = asyncio.create_task(collect(client, ModelRequest("", rows)))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens()
        block = {"type": "thinking", "thinking": "", "signature": ""}
        await exchange.send_event("content_block_start", {"index": 0, "content_block": block})
        delta = {"type": "thinking_delta", "thinking": "new"}
        await exchange.send_event("content_block_delta", {"index": 0, "delta": delta})
        delta = {"type": "signature_delta", "signature": "sig-2"}
        await exchange.send_event("content_block_delta", {"index": 0, "delta": delta})
        await exchange.send_event("content_block_stop", {"index": 0})
        exchange._blocks = 1
        await exchange.reply("done")
        events = await task
        assert events[0] == Counted(Tokens(input=11, output=1)), "the input is counted before the first text"
        assert events[1:3] == [ThinkingDelta("new"), ThinkingEnd("sig-2", "", "loop")]
        sent = exchange.body["messages"][1]["content"]
        assert sent[0] == {"type": "thinking", "thinking": "old", "signature": "sig-1"}
        assert sent[1]["text"] == "said"


async def test_reasoning_content_of_a_compatible_server_becomes_thinking() -> None:
    async with open_client("openai") as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange: Exchange = await provider.next_call()
        await exchange.open()
        await exchange.send_chunk({"reasoning_content": "hm"})
        await exchange.reply("done")
        events = await task
        assert events[0] == ThinkingDelta("hm")
        assert events[1] == ThinkingEnd("", "reasoning_content", "loop")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("status", "category", "retryable"),
    [
        (400, "bad_request", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "not_found", False),
        (429, "rate_limit", True),
        (500, "server", True),
        (503, "overloaded", True),
        (529, "overloaded", True),
    ],
)
async def test_L01_L02_a_refused_request_gets_a_category_and_is_sent_once(
    dialect: str, status: int, category: str, retryable: bool
) -> None:
    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        await exchange.refuse(status, message=f"your key {API_KEY} is bad")
        error = await task
        assert (error.category, error.retryable, error.provider_status) == (category, retryable, status)
        assert "your key *** is bad" in error.message
        assert len(provider.exchanges) == 1  # no second, hidden retry layer


async def test_L02_the_retry_after_header_is_part_of_the_failure() -> None:
    async with open_client("openai") as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        await (await provider.next_call()).refuse(429, retry_after="7")
        assert (await task).retry_after_s == 7


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L04_a_stream_that_ends_without_the_final_event_is_reported_as_cut(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.cut()
        error = await task
        assert (error.category, error.retryable, error.in_stream) == ("stream_cut", True, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L04_a_stream_ended_by_a_reset_is_reported_as_cut(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        received = asyncio.Event()

        async def read() -> None:
            async with aclosing(client.stream(ModelRequest("", [user("hi")]))) as events:
                async for _ in events:
                    received.set()

        task = asyncio.create_task(read())
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await received.wait()
        exchange.reset()
        with pytest.raises(ModelFailure) as caught:
            await task
        error = caught.value
        assert (error.category, error.retryable, error.in_stream) == ("stream_cut", True, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_refused_connection_is_a_network_failure(dialect: str) -> None:
    async with Provider() as provider:
        config = config_of(provider, dialect, base_url="http://127.0.0.1:9/v1")
        models = ModelRegistry(config, {}, DEFAULT_LIMITS)
        error = await collect_failure(models.large())
        assert (error.category, error.retryable) == ("network", True)
        await models.close()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("data", [b"data: not json\n\n", b'data: {"choices": 5}\n\n', b"data: [1,2]\n\n"])
async def test_L05_malformed_events_in_the_stream_are_a_failure_and_not_a_crash(dialect: str, data: bytes) -> None:
    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.garbage(data)
        await exchange.cut()
        assert (await task).category in ("garbage", "stream_cut")


@pytest.mark.parametrize(
    ("code", "category", "retryable"),
    [("server_error", "server", True), ("invalid_prompt", "bad_request", False)],
)
async def test_L02_an_error_event_in_the_stream_is_retryable_depending_on_its_code(
    code: str, category: str, retryable: bool
) -> None:
    async with open_client("responses") as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.send_events(
            [{"type": "error", "sequence_number": 9, "code": code, "message": "no", "param": None}]
        )
        await exchange.cut()
        error = await task
        assert (error.category, error.retryable, error.in_stream) == (category, retryable, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L03_the_deadline_of_the_first_event_is_not_extended_by_comments(dialect: str) -> None:
    async with open_client(dialect, replace(DEFAULT_LIMITS, model_first_event_s=0.3)) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        while not task.done():
            await exchange.garbage(b": keep-alive\n\n")
            await asyncio.wait({task}, timeout=0.05)
        assert (await task).category == "timeout"
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L03_a_stream_without_progress_times_out(dialect: str) -> None:
    async with open_client(dialect, replace(DEFAULT_LIMITS, model_progress_s=0.3)) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        error = await task
        assert (error.category, error.in_stream, error.retryable) == ("timeout", True, False)
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("begun", [False, True])
async def test_L07_a_cancel_closes_the_connection_at_once(dialect: str, begun: bool) -> None:
    async with open_client(dialect) as (provider, client):
        received = asyncio.Event()

        async def read() -> None:
            async with aclosing(client.stream(ModelRequest("", [user("hi")]))) as events:
                async for _ in events:
                    received.set()

        task = asyncio.create_task(read())
        exchange: Exchange = await provider.next_call()
        if begun:
            await exchange.tokens("half")
            await received.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await exchange.wait_closed(1.0)


async def test_lone_surrogates_are_replaced_in_streamed_text() -> None:
    async with open_client("openai") as (provider, client):
        task = asyncio.create_task(collect(client))
        await (await provider.next_call()).reply("a\ud83d", "ok")
        text = "".join(event.text for event in await task if isinstance(event, TextDelta))
        assert text.encode() == "a�ok".encode()


async def test_the_key_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with open_client("openai") as (provider, client):
            task = asyncio.create_task(collect_failure(client))
            await (await provider.next_call()).refuse(401)
            await task
    assert API_KEY not in caplog.text


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L05_an_event_that_exceeds_the_size_limit_ends_the_request(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventParser.__init__, "__defaults__", (100_000, 10_000_000))

    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.garbage(b"data: " + b"x" * 150_000)
        error = await task
        assert (error.category, error.retryable) == ("garbage", False)
        assert "longer than 100000 bytes" in error.message
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_request_names_its_session_by_a_hash_of_its_id(dialect: str) -> None:
    async with open_client(dialect, extra_headers={"X-Team": "blue"}, system_prompt_prefix="first of all") as (
        provider,
        client,
    ):
        task = asyncio.create_task(collect(client))
        exchange: Exchange = await provider.next_call()
        await exchange.reply("x")
        await task
        assert exchange.headers["x-session-id"] == exchange.headers["x-session-affinity"] == "9a275e3f454930d1"
        assert exchange.headers["x-team"] == "blue"
        if dialect == "anthropic":  # has one system prompt
            assert [part["text"] for part in exchange.body["system"]] == ["first of all\n\nbe good"]
        else:
            assert [message["content"] for message in exchange.messages[:2]] == ["first of all", "be good"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cached_tokens_are_counted_and_priced_separately(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect(client))
        exchange: Exchange = await provider.next_call()
        exchange.usage = (100, 20, 60, 30 if dialect == "anthropic" else 0)
        await exchange.reply("x")
        finished = (await task)[-1]
        assert isinstance(finished, Finished)
        tokens = finished.tokens
        assert (tokens.input, tokens.output, tokens.cache_read, tokens.cache_write) == (
            (10, 20, 60, 30) if dialect == "anthropic" else (40, 20, 60, 0)
        )
        model = Model(id="m", cost_per_1m_in=1.0, cost_per_1m_out=2.0, cost_per_1m_in_cached=4.0)
        expected = (tokens.input + 2 * 20 + 4 * tokens.cache_write) / 1e6
        assert cost_of(model, tokens) == pytest.approx(expected)
        read = Model(id="m", cost_per_1m_out_cached=0.5)
        assert cost_of(read, tokens) == pytest.approx(60 * 0.5 / 1e6)


async def test_the_cost_reported_by_openrouter_is_used() -> None:
    async with open_client("openai", type="openrouter", model={"id": "a/b"}, selected={"model": "a/b"}) as (
        provider,
        client,
    ):
        task = asyncio.create_task(collect(client))
        exchange: Exchange = await provider.next_call()
        exchange.cost = 0.25
        await exchange.reply("x")
        finished = (await task)[-1]
        assert isinstance(finished, Finished)
        assert cost_of(Model(id="m", cost_per_1m_in=99.0), finished.tokens) == 0.25
        assert exchange.body["usage"] == {"include": True}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L01_a_refused_key_is_named_by_its_setting_and_not_by_its_value(dialect: str) -> None:
    async with open_client(dialect) as (provider, client):
        task = asyncio.create_task(collect_failure(client))
        await (await provider.next_call()).refuse(401, message="bad key.")
        assert (await task).message == "bad key; set providers.loop.api_key"
    assert key_hint("anthropic") == "set ANTHROPIC_API_KEY or providers.anthropic.api_key"
