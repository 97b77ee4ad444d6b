"""Real model clients against a scripted provider on loopback: both dialects, what breaks, and what a cancel does."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
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
from tests.unit.agent.agent_harness import LOG, seeded, user
from worker.agent.usage import cost_of
from worker.config.catalogue import key_hint
from worker.config.load import WorkspaceConfig
from worker.config.resolve import resolve
from worker.config.schema import Options
from worker.models import response_limits
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
from worker.zygote.warm_models import WarmTool

DIALECTS = ("openai", "responses", "anthropic")


@pytest.fixture(autouse=True)
def _loopback_is_allowed() -> Iterator[None]:
    """The suite forbids requests to models; ours go to a server of the test."""
    from pydantic_ai.models import override_allow_model_requests

    with override_allow_model_requests(True):
        yield


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
async def house(dialect: str, limits: Limits = DEFAULT_LIMITS, **changes: Any) -> AsyncIterator[tuple]:
    async with Provider() as provider:
        models = ModelRegistry(config_of(provider, dialect, **changes), {}, limits, seeded(), LOG)
        try:
            yield provider, models.large()
        finally:
            await models.close()
        assert provider.violations == []


async def collect(client: ModelClient, request: ModelRequest | None = None) -> list[ModelEvent]:
    async with aclosing(client.stream(request or ModelRequest("be good", [user("hi")]))) as events:
        return [event async for event in events]


async def failing(client: ModelClient) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        await collect(client)
    assert API_KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_text_arrives_token_by_token_with_usage(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
        task = asyncio.create_task(collect(client))
        await (await provider.next_call()).reply("Hel", "lo")
        events = await task
        assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("Hel"), TextDelta("lo")]
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert finished.reason == "end_turn"
        assert (finished.tokens.input, finished.tokens.output) == (11, 7)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_tool_calls_keep_the_raw_text_of_their_arguments(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
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
async def test_a_history_with_tools_goes_out_as_the_provider_wants_it(dialect: Any) -> None:
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

    async with house(dialect) as (provider, client):
        task = asyncio.create_task(collect(client, ModelRequest("be good", rows, [WarmTool()])))
        exchange: Exchange = await provider.next_call()
        await exchange.reply("x")
        await task
        text = json.dumps(exchange.body)
        assert "be good" in text
        assert "looking" in text
        assert "the outcome" in text
        assert exchange.prompt == "and?"


async def test_thinking_signatures_come_and_go_back_to_anthropic() -> None:
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

    async with house("anthropic") as (provider, client):
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
        assert events[0] == Counted(Tokens(input=11, output=1)), "the input is known before anything is said"
        assert events[1:3] == [ThinkingDelta("new"), ThinkingEnd("sig-2", "", "loop")]
        sent = exchange.body["messages"][1]["content"]
        assert sent[0] == {"type": "thinking", "thinking": "old", "signature": "sig-1"}
        assert sent[1]["text"] == "said"


async def test_reasoning_of_a_compatible_server_is_thinking() -> None:
    async with house("openai") as (provider, client):
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
async def test_L01_L02_a_refusal_becomes_a_category_and_is_asked_once(
    dialect: Any, status: int, category: str, retryable: bool
) -> None:
    async with house(dialect) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        await exchange.refuse(status, message=f"your key {API_KEY} is bad")
        error = await task
        assert (error.category, error.retryable, error.provider_status) == (category, retryable, status)
        assert "your key *** is bad" in error.message
        assert len(provider.exchanges) == 1  # no second, hidden retry layer


async def test_L02_retry_after_is_passed_on() -> None:
    async with house("openai") as (provider, client):
        task = asyncio.create_task(failing(client))
        await (await provider.next_call()).refuse(429, retry_after="7")
        assert (await task).retry_after_s == 7


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L04_a_clean_end_without_the_final_event_is_a_cut(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.cut()
        error = await task
        assert (error.category, error.retryable, error.in_stream) == ("stream_cut", True, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L04_a_reset_in_the_stream_is_a_cut(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
        got = asyncio.Event()

        async def read() -> None:
            async with aclosing(client.stream(ModelRequest("", [user("hi")]))) as events:
                async for _ in events:
                    got.set()

        task = asyncio.create_task(read())
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await got.wait()
        exchange.reset()
        with pytest.raises(ModelFailure) as caught:
            await task
        error = caught.value
        assert (error.category, error.retryable, error.in_stream) == ("stream_cut", True, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_server_that_is_not_there_is_a_network_failure(dialect: Any) -> None:
    async with Provider() as provider:
        config = config_of(provider, dialect, base_url="http://127.0.0.1:9/v1")
        models = ModelRegistry(config, {}, DEFAULT_LIMITS, seeded(), LOG)
        error = await failing(models.large())
        assert (error.category, error.retryable) == ("network", True)
        await models.close()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("data", [b"data: not json\n\n", b'data: {"choices": 5}\n\n', b"data: [1,2]\n\n"])
async def test_L05_garbage_in_the_stream_is_a_failure_and_not_a_crash(dialect: Any, data: bytes) -> None:
    async with house(dialect) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.garbage(data)
        await exchange.cut()
        assert (await task).category in ("garbage", "stream_cut")


@pytest.mark.parametrize(
    ("code", "category", "retryable"),
    [("server_error", "server", True), ("invalid_prompt", "bad_request", False)],
)
async def test_L02_an_error_in_the_stream_is_tried_again_when_that_can_help(
    code: str, category: str, retryable: bool
) -> None:
    async with house("responses") as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.send_events(
            [{"type": "error", "sequence_number": 9, "code": code, "message": "no", "param": None}]
        )
        await exchange.cut()
        error = await task
        assert (error.category, error.retryable, error.in_stream) == (category, retryable, True)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L03_the_first_event_has_a_deadline_that_comments_do_not_move(dialect: Any) -> None:
    async with house(dialect, replace(DEFAULT_LIMITS, model_first_event_s=0.3)) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        while not task.done():
            await exchange.garbage(b": keep-alive\n\n")
            await asyncio.wait({task}, timeout=0.05)
        assert (await task).category == "timeout"
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L03_progress_has_a_deadline(dialect: Any) -> None:
    async with house(dialect, replace(DEFAULT_LIMITS, model_progress_s=0.3)) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        error = await task
        assert (error.category, error.in_stream, error.retryable) == ("timeout", True, False)
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("begun", [False, True])
async def test_L07_a_cancel_closes_the_connection_at_once(dialect: Any, begun: bool) -> None:
    async with house(dialect) as (provider, client):
        got = asyncio.Event()

        async def read() -> None:
            async with aclosing(client.stream(ModelRequest("", [user("hi")]))) as events:
                async for _ in events:
                    got.set()

        task = asyncio.create_task(read())
        exchange: Exchange = await provider.next_call()
        if begun:
            await exchange.tokens("half")
            await got.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await exchange.wait_closed(1.0)


async def test_halves_of_characters_do_not_reach_the_store() -> None:
    async with house("openai") as (provider, client):
        task = asyncio.create_task(collect(client))
        await (await provider.next_call()).reply("a\ud83d", "ok")
        text = "".join(event.text for event in await task if isinstance(event, TextDelta))
        assert text.encode() == "a�ok".encode()


async def test_nothing_logged_names_the_key(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with house("openai") as (provider, client):
            task = asyncio.create_task(failing(client))
            await (await provider.next_call()).refuse(401)
            await task

    with caplog.at_level(logging.DEBUG):
        await main()
    assert API_KEY not in caplog.text


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L05_an_event_without_an_end_stops_at_a_bound(dialect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_limits.EventMeter.__init__, "__defaults__", (100_000, 10_000_000))

    async with house(dialect) as (provider, client):
        task = asyncio.create_task(failing(client))
        exchange: Exchange = await provider.next_call()
        await exchange.tokens("half")
        await exchange.garbage(b"data: " + b"x" * 150_000)
        error = await task
        assert (error.category, error.retryable) == ("garbage", False)
        assert "longer than 100000 bytes" in error.message
        await exchange.wait_closed()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_request_names_its_session_without_telling_its_id(dialect: Any) -> None:
    async with house(dialect, extra_headers={"X-Team": "blue"}, system_prompt_prefix="first of all") as (
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
async def test_cached_tokens_are_counted_apart(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
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


async def test_openrouter_says_itself_what_it_cost() -> None:
    async with house("openai", type="openrouter", model={"id": "a/b"}, selected={"model": "a/b"}) as (
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
async def test_L01_a_refused_key_is_named_by_its_place_and_not_by_its_value(dialect: Any) -> None:
    async with house(dialect) as (provider, client):
        task = asyncio.create_task(failing(client))
        await (await provider.next_call()).refuse(401, message="bad key.")
        assert (await task).message == "bad key; set providers.loop.api_key"
    assert key_hint("anthropic") == "set ANTHROPIC_API_KEY or providers.anthropic.api_key"
