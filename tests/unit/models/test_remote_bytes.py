"""Test a model client with responses whose bytes the test writes: streams in pieces, and answers that are no stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from msgspec.structs import replace

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.fakes.raw_provider import STREAM, RawProvider, RawRequest, chunk
from tests.unit.agent.agent_harness import user
from worker.models.client import (
    Counted,
    Finished,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
)
from worker.models.remote import RemoteModel, merged
from worker.models.transport.provider_http import ProviderHttp
from worker.models.wires.chat import ChatWire
from worker.models.wires.wire import WireContext

KEY = "key-0123456789"
STOP = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def said(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def plain(body: bytes, kind: str = "application/json", status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def opened(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[tuple[RawProvider, RemoteModel]]:
    async with RawProvider() as provider:
        http = ProviderHttp(5.0)
        model = Model(id="m")
        config = ProviderConfig(id="loop", type="openai-compat", base_url=provider.url, api_key=KEY, models=[model])
        context = WireContext(model, config, SelectedModel(model="m", provider="loop"), {}, True, (KEY,))
        try:
            yield provider, RemoteModel(ChatWire(context), http, context=context, limits=limits, key_hint="", socket="")
        finally:
            await http.close()


async def collect(client: RemoteModel) -> list[ModelEvent]:
    async with aclosing(client.stream(ModelRequest("", [user("hi")]))) as events:
        return [event async for event in events]


async def answered(provider: RawProvider, client: RemoteModel, *parts: bytes) -> tuple[list[ModelEvent], RawRequest]:
    """Answer the next request with these bytes, each in a write of its own; return the events."""
    task = asyncio.create_task(collect(client))
    received = await provider.next_request()
    for part in parts:
        await received.send(part)
        await asyncio.sleep(0)
    return await task, received


async def failed(provider: RawProvider, client: RemoteModel, answer: bytes) -> ModelFailure:
    task = asyncio.create_task(collect(client))
    received = await provider.next_request()
    await received.send(answer)
    received.close()
    with pytest.raises(ModelFailure) as caught:
        await task
    assert KEY not in str(caught.value)
    return caught.value


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_what_arrives_together_is_one_change() -> None:
    async with opened() as (provider, client):
        body = said("a") + said("b") + said("c") + STOP + DONE
        events, _ = await answered(provider, client, STREAM + chunk(body) + chunk(b""))
        assert events == [TextDelta("abc"), Finished("end_turn")]


async def test_an_event_may_arrive_byte_by_byte() -> None:
    async with opened() as (provider, client):
        body = said("hello") + STOP + DONE
        pieces = [chunk(body[at : at + 1]) for at in range(len(body))]
        events, _ = await answered(provider, client, STREAM, *pieces, chunk(b""))
        assert text_of(events) == "hello"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param((said("x") + STOP + DONE).replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param((said("x") + STOP).replace(b"data: ", b"data:"), id="no space, no end mark"),
        pytest.param(b"\xef\xbb\xbf" + said("x") + STOP + DONE.rstrip(), id="no last line"),
        pytest.param(b": a\n\n" + said("x") + b": b\n\n" + STOP + b"\n\n: c\n" + DONE, id="comments"),
        pytest.param(b"event: m\nid: 1\nretry: 5\n" + said("x") + STOP, id="other fields"),
    ],
)
async def test_streams_may_be_written_differently(body: bytes) -> None:
    async with opened() as (provider, client):
        events, _ = await answered(provider, client, STREAM + chunk(body) + chunk(b""))
        assert text_of(events) == "x"
        assert events[-1] == Finished("end_turn")


async def test_the_answer_ends_with_its_last_event_and_the_connection_serves_the_next_step() -> None:
    async with opened() as (provider, client):
        body = said("x") + STOP + DONE
        events, first = await answered(provider, client, STREAM + chunk(body))  # the end of the body is still missing
        assert events[-1] == Finished("end_turn")
        await first.send(chunk(b""))
        for _ in range(20):
            await asyncio.sleep(0)
        _, second = await answered(provider, client, STREAM + chunk(body) + chunk(b""))
        assert (first.connection, second.connection) == (0, 0)


async def test_a_stream_that_continues_after_its_last_event_is_not_read() -> None:
    async with opened() as (provider, client):
        events, received = await answered(provider, client, STREAM + chunk(said("x") + STOP + DONE + said("y")))
        assert text_of(events) == "x"
        await received.ended()  # the body does not end


@pytest.mark.parametrize("is_last", [False, True])
async def test_L07_a_reader_that_stops_closes_the_connection(is_last: bool) -> None:
    async with opened() as (provider, client):
        events = client.stream(ModelRequest("", [user("hi")]))
        pull = asyncio.ensure_future(anext(events))
        received = await provider.next_request()
        await received.send(STREAM + chunk(said("x")))
        assert await pull == TextDelta("x")
        if is_last:
            pull = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
        else:
            await events.aclose()
        for _ in range(10):
            await asyncio.sleep(0)
        assert received.is_ended


async def test_text_before_an_error_in_the_same_read_is_not_lost() -> None:
    async with opened() as (provider, client):
        seen: list[ModelEvent] = []

        async def read() -> None:
            async for event in client.stream(ModelRequest("", [user("hi")])):
                seen.append(event)

        task = asyncio.create_task(read())
        received = await provider.next_request()
        await received.send(STREAM + chunk(said("half") + b'data: {"error": {"message": "no", "code": 503}}\n\n'))
        with pytest.raises(ModelFailure) as caught:
            await task
        assert seen == [TextDelta("half")]
        assert (caught.value.category, caught.value.in_stream) == ("overloaded", True)
        await received.ended()


async def test_a_whole_completion_instead_of_a_stream_is_read() -> None:
    whole = {
        "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    async with opened() as (provider, client):
        events, _ = await answered(
            provider, client, plain(json.dumps(whole).encode(), "application/json; charset=utf-8")
        )
        assert events == [Counted(Tokens(3, 2)), TextDelta("hello"), Finished("end_turn", Tokens(3, 2))]


async def test_a_stream_that_is_declared_as_json_is_read_as_it_arrives() -> None:
    async with opened() as (provider, client):
        events = client.stream(ModelRequest("", [user("hi")]))
        pull = asyncio.ensure_future(anext(events))
        received = await provider.next_request()
        await received.send(STREAM.replace(b"text/event-stream", b"application/json") + chunk(said("x")))
        assert await pull == TextDelta("x")
        await received.send(chunk(STOP + DONE) + chunk(b""))
        assert [event async for event in events] == [Finished("end_turn")]


@pytest.mark.parametrize(
    ("answer", "category", "text"),
    [
        (plain(b'{"error": {"message": "busy", "code": 429}}'), "rate_limit", "busy"),
        (plain(b'{"error": "no such model"}'), "server", "no such model"),
        (plain(b'{"detail": "Not Found"}'), "server", "Not Found"),
        (plain(b"{}"), "stream_cut", "before it was complete"),
        (plain(b"half"), "stream_cut", "before it was complete"),
        (plain(b'{"error": {"message": "busy", "code": 429}}', "text/event-stream"), "rate_limit", "busy"),
        (plain(b'data: {"error": {"message": "busy"}}\n\n', "text/plain"), "server", "busy"),
        (plain(b"", "text/event-stream"), "stream_cut", "before it was complete"),
        (plain(b"<title>Log in</title>", "text/html"), "garbage", "web page (Log in); check base_url"),
        (plain(b"<title>Bad Gateway</title>", "text/html", 502), "server", "Bad Gateway"),
        (plain(b'{"detail": "gone"}', status=410), "bad_request", "gone"),
        (plain(b'{"message": "your key %b"}' % KEY.encode(), status=403), "auth", "your key ***"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nhalf", "server", "answered with status 500"),
        (b"HTTP/1.1 204 X\r\n\r\n", "bad_request", "answered with status 204"),
    ],
)
async def test_answers_that_are_no_stream_are_failures_with_their_text(answer: bytes, category: str, text: str) -> None:
    async with opened() as (provider, client):
        error = await failed(provider, client, answer)
        assert (error.category, text in error.message) == (category, True), error.message


async def test_a_body_of_an_error_without_end_is_cut() -> None:
    async with opened() as (provider, client):
        task = asyncio.create_task(collect(client))
        received = await provider.next_request()
        await received.send(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 100_000))
        with pytest.raises(ModelFailure) as caught:
            await task
        assert caught.value.category == "server"
        await received.ended()


async def test_L03_a_slow_error_body_does_not_exceed_the_deadline() -> None:
    async with opened(replace(DEFAULT_LIMITS, model_first_event_s=0.2)) as (provider, client):
        task = asyncio.create_task(collect(client))
        received = await provider.next_request()
        await received.send(b"HTTP/1.1 503 X\r\nContent-Length: 100\r\n\r\n")
        with pytest.raises(ModelFailure) as caught:
            await task
        assert caught.value.category == "overloaded"
        await received.ended()


async def test_L03_empty_deltas_are_no_progress_but_arguments_of_a_call_are() -> None:
    call = b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": " "}}]}}]}\n\n'
    empty = b'data: {"choices": [{"delta": {"content": ""}}]}\n\n'
    limits = replace(DEFAULT_LIMITS, model_first_event_s=0.3, model_progress_s=0.3)
    for part, fails in ((empty, True), (call, False)):
        async with opened(limits) as (provider, client):
            task = asyncio.create_task(collect(client))
            received = await provider.next_request()
            await received.send(STREAM)
            for _ in range(12):
                await received.send(chunk(part))
                await asyncio.wait({task}, timeout=0.05)
            if not fails:
                await received.send(chunk(STOP) + chunk(b""))
                assert (await task)[-1] == Finished("end_turn")
            else:
                with pytest.raises(ModelFailure) as caught:
                    await task
                assert caught.value.category == "timeout"


async def test_L03_a_slow_consumer_is_not_the_providers_fault() -> None:
    limits = replace(DEFAULT_LIMITS, model_first_event_s=0.2, model_progress_s=0.2)
    async with opened(limits) as (provider, client):
        events = client.stream(ModelRequest("", [user("hi")]))
        pull = asyncio.ensure_future(anext(events))
        received = await provider.next_request()
        await received.send(STREAM + chunk(said("x")))
        assert await pull == TextDelta("x")
        await received.send(chunk(said("y") + STOP + DONE) + chunk(b""))
        await asyncio.sleep(0.5)  # longer than the deadline
        assert [event async for event in events] == [TextDelta("y"), Finished("end_turn")]


@pytest.mark.parametrize(
    ("events", "joined"),
    [
        ([], []),
        ([TextDelta("a")], [TextDelta("a")]),
        ([TextDelta("a"), TextDelta("b")], [TextDelta("ab")]),
        ([ThinkingDelta("a"), ThinkingDelta("b"), TextDelta("c")], [ThinkingDelta("ab"), TextDelta("c")]),
        (
            [ThinkingDelta("a"), ThinkingEnd(), ThinkingDelta("b"), TextDelta("c"), Counted(Tokens()), TextDelta("d")],
            [ThinkingDelta("a"), ThinkingEnd(), ThinkingDelta("b"), TextDelta("c"), Counted(Tokens()), TextDelta("d")],
        ),
    ],
)
def test_only_neighbouring_deltas_of_one_kind_are_joined(events: list[ModelEvent], joined: list[ModelEvent]) -> None:
    assert merged(events) == joined
