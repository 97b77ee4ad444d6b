"""Let the provider cut its stream, stay silent, send garbage or refuse; partial text is kept, none is doubled."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.clients.http_client import finish_of, parts_of, texts
from tests.support.fakes.scripted_provider import API_KEY, Exchange
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.process_usage import peak_bytes

Failure = Callable[[WorkspaceFixture, Exchange], Awaitable[None]]

DIALECTS = ["openai", "responses", "anthropic"]
NO_WAIT = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}
ONE_ATTEMPT = {"model_retries_max": 0}
LONG_WAIT = {"model_retry_delay_s": 300.0, "model_retry_delay_s_max": 300.0}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["reset", "clean end"])
@pytest.mark.house(limits=NO_WAIT)
async def test_L04_a_stream_that_is_cut_is_retried_without_doubled_text(
    house: ServerHarness, how: str, dialect: str
) -> None:
    workspace = await house.workspace(model=dialect)
    run, call = await workspace.streaming("once upon")
    await cut(call, how)
    again = await house.provider.next_call()
    assert len(again.messages) == len(call.messages), "the broken answer became part of the request"
    await again.reply("once upon ", "a time")
    ended = await workspace.ended(run)
    assert ended["text"] == "once upon a time", "text was doubled or lost"
    assert "error" not in ended
    assert texts(await workspace.last_assistant()) == "once upon a time"
    assert len(await workspace.messages()) == 2


@pytest.mark.parametrize("how", ["reset", "clean end"])
@pytest.mark.house(limits=ONE_ATTEMPT)
async def test_L04_a_stream_that_is_cut_without_a_retry_keeps_and_marks_its_text(
    house: ServerHarness, how: str
) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("once upon")
    await cut(call, how)
    ended = await workspace.ended(run)
    assert ended["error"], ended
    assert ended["text"] == "once upon"
    answer = await workspace.last_assistant()
    assert texts(answer) == "once upon"
    assert (finish_of(answer) or {})["reason"] == "error"
    await workspace.works()


@pytest.mark.house(limits=NO_WAIT)
async def test_L04_a_stream_that_is_cut_after_a_tool_ran_does_not_run_it_again(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    run = await workspace.prompt("count")
    call = await house.provider.next_call()
    await call.tool_call("call-1", "bash", {"description": "count", "command": "echo ran >> counted"})
    await call.finish()
    second = await house.provider.next_call()
    await second.tokens("it was")
    await workspace.watcher.text(workspace.session, "it was")
    second.reset()
    third = await house.provider.next_call()
    assert third.messages == second.messages, "the second step was repeated from another history"
    await third.reply("it was one")
    assert (await workspace.ended(run))["text"] == "it was one"
    assert (workspace.path / "counted").read_text() == "ran\n"
    assert len([result for m in await workspace.messages() for result in parts_of(m, "tool_result")]) == 1


@pytest.mark.house(limits=NO_WAIT)
async def test_L04_a_tool_call_that_is_cut_is_not_executed(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    run = await workspace.prompt("delete")
    call = await house.provider.next_call()
    await call.tokens("now")
    await call.tool_call("call-1", "bash", '{"description": "half", "command": "touch ra')
    await workspace.watcher.text(workspace.session, "now")
    call.reset()
    await (await house.provider.next_call()).reply("no")
    assert (await workspace.ended(run))["text"] == "no"
    assert parts_of(await workspace.last_assistant(), "tool_call") == []


@pytest.mark.house(limits=NO_WAIT)
async def test_L02_an_overloaded_provider_is_retried_a_bounded_number_of_times(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("hello?")
    for status in (429, 500, 503):
        await (await house.provider.next_call()).refuse(status)
    await (await house.provider.next_call()).reply("at last")
    assert (await workspace.ended(run))["text"] == "at last"
    second = await workspace.prompt("hello again?")
    for _ in range(4):
        await (await house.provider.next_call()).refuse(503)
    assert (await workspace.ended(second))["error"]
    assert len(house.provider.exchanges) == 8, "there is a second, hidden layer of retries"
    retrying = [e for e in workspace.watcher.seen if e.kind == "agent_event" and e.payload["type"] == "retrying"]
    assert len(retrying) == 6


async def silent(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Accept the request and send nothing (L03)."""


async def headers_only(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Send headers and the first, empty event, then nothing (L03)."""
    await call.tokens()


async def comments_only(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Send keep-alive comments, which are no progress (L03)."""
    await call.garbage(b": still here\n\n" * 20)


async def half_streamed(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Send a part of the text."""
    await call.tokens("some text")
    await workspace.watcher.text(workspace.session, "some text")


async def backing_off(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Refuse with `Retry-After`, and wait until the retry is announced (L02)."""
    await call.refuse(429, retry_after="45")
    await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def cut_in_the_middle(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Reset the stream in the middle, and wait until the retry is announced (L04)."""
    await half_streamed(workspace, call)
    call.reset()
    await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def sending_garbage(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Send an event that does not end (L05)."""
    await call.garbage(b"data: " + b"x" * 100_000)


async def calling_tools(workspace: WorkspaceFixture, call: Exchange) -> None:
    """Send a tool call whose arguments are incomplete (L06)."""
    await call.tool_call("call-1", "no_such_tool", '{"half": ')


@pytest.mark.parametrize(
    "failure",
    [
        silent,
        headers_only,
        comments_only,
        half_streamed,
        backing_off,
        cut_in_the_middle,
        sending_garbage,
        calling_tools,
    ],
    ids=lambda failure: failure.__name__,
)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits=LONG_WAIT)
async def test_L07_a_run_can_be_cancelled_during_every_failure(
    house: ServerHarness, failure: Failure, dialect: str
) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("are you there?")
    call = await house.provider.next_call()
    await failure(workspace, call)
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    ended = await workspace.ended(run, timeout_s=5.0)
    assert ended["cancelled"] is True
    assert "error" not in ended
    await call.wait_closed(timeout_s=1.0)
    assert (finish_of(await workspace.last_assistant()) or {})["reason"] == "canceled"
    assert len(house.provider.exchanges) == 1
    await workspace.works()


LONG_LINE = 100 * 1024 * 1024


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [401, 403])
async def test_L01_a_refused_key_fails_the_run_at_once_and_is_not_shown(
    house: ServerHarness, status: int, dialect: str
) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    await (await house.provider.next_call()).refuse(status, message=f"the key {API_KEY} is wrong")
    ended = await workspace.ended(run)
    assert "is wrong" in ended["error"]
    assert ("set providers.loop.api_key" in ended["error"]) == (status == 401)
    assert (await workspace.run(run))["outcome"] == "failed"
    assert (await workspace.run(run))["cause"] == "auth"
    assert len(house.provider.exchanges) == 1, "a refused key was tried again"
    assert API_KEY not in str([event.payload for event in workspace.watcher.seen])
    assert API_KEY not in str(await workspace.messages())
    assert API_KEY not in house.logs()
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits={"model_retry_delay_s": 300.0, "model_retry_delay_s_max": 300.0})
async def test_L02_retry_after_replaces_the_configured_delay(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    await (await house.provider.next_call()).refuse(429, retry_after="1")
    await (await house.provider.next_call()).reply("here")  # within seconds: the configured delay is five minutes
    assert (await workspace.ended(run))["text"] == "here"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.house(limits=NO_WAIT)
async def test_L02_a_provider_that_never_recovers_ends_the_run(house: ServerHarness, status: int, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    for _ in range(4):
        await (await house.provider.next_call()).refuse(status)
    ended = await workspace.ended(run)
    assert "scripted failure" in ended["error"]
    assert len(house.provider.exchanges) == 4
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["silence", "headers", "comments"])
@pytest.mark.house(limits={"model_first_event_s": 1.0, "model_progress_s": 1.0, "model_retries_max": 0})
async def test_L03_a_silent_provider_fails_the_run_at_the_deadline(
    house: ServerHarness, how: str, dialect: str
) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    if how == "headers":
        await call.tokens()
    end = asyncio.create_task(workspace.ended(run))
    while how == "comments" and not end.done():
        await call.garbage(b": still here\n\n")
        await asyncio.wait({end}, timeout=0.1)
    ended = await end
    assert "sent nothing for 1 s" in ended["error"]
    assert (await workspace.run(run))["cause"] == "timeout"
    await call.wait_closed()
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits={"model_progress_s": 5.0, "run_max_s": 2.0}, neighbour=False)  # its run lasts longer
async def test_L03_slow_tokens_do_not_extend_the_deadline_of_the_run(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    end = asyncio.create_task(workspace.ended(run))
    while not end.done():
        await call.tokens("x")
        await asyncio.wait({end}, timeout=0.2)
    ended = await end
    assert "longer than 2 s" in ended["error"]
    assert ended["text"].startswith("xx"), "the text so far must be kept"
    await call.wait_closed()
    await workspace.works_with_new_stream()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "data",
    [b"data: not json\n\n", b'data: {"type": 5, "choices": "no"}\n\n', b"data: [1, 2]\n\n", b"data: \xff\xfe\xff\n\n"],
    ids=["no json", "wrong shape", "a list", "no utf-8"],
)
@pytest.mark.house(limits={"model_retries_max": 0})
async def test_L05_garbage_fails_the_run_and_not_the_worker(house: ServerHarness, data: bytes, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run, call = await workspace.streaming("half")
    await call.garbage(data)
    await call.cut()
    ended = await workspace.ended(run)
    assert ended["error"]
    assert ended["text"] == "half"
    assert (await workspace.run(run))["cause"] in ("garbage", "stream_cut")
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_L05_a_line_of_100_MB_is_not_kept_in_memory(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    await workspace.works()  # loads everything that a first request needs
    worker = await workspace.worker()
    before = peak_bytes(worker.pid)
    run, call = await workspace.streaming("half")
    sent = 0
    block = b"y" * (1 << 20)
    await call.garbage(b"data: ")
    while sent < LONG_LINE and not call.is_closed:
        await call.garbage(block)
        await asyncio.sleep(0)  # a write to a closed connection does not wait
        sent += len(block)
    ended = await workspace.ended(run)
    assert "longer than" in ended["error"]
    assert ended["text"] == "half"
    assert (await workspace.run(run))["cause"] == "garbage"
    assert sent < LONG_LINE, "the worker read all of it"
    grown = peak_bytes(worker.pid) - before
    assert grown < 64 * (1 << 20), f"the worker grew by {grown >> 20} MB"
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits={"steps_max": 4})
async def test_L06_invalid_tool_calls_get_error_results(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect, yolo=True)
    run = await workspace.prompt("call tools")
    first = await house.provider.next_call()
    await first.tool_call("c1", "bash", "")
    await first.tool_call("c2", "bash", '{"command": ')
    await first.tool_call("c3", "no_such_tool", {})
    await first.finish()
    second = await house.provider.next_call()  # the scripted provider checks that the history is valid
    await second.tool_call("c1", "ls", {})
    await second.finish()
    third = await house.provider.next_call()
    await third.reply("well")
    assert (await workspace.ended(run))["text"] == "well"
    results = [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]
    assert [bool(result.get("is_error")) for result in results] == [True, True, True, False]
    ids = [part["id"] for message in await workspace.messages() for part in parts_of(message, "tool_call")]
    assert len(set(ids)) == len(ids) == 4
    assert "no_such_tool" in results[2]["content"]


async def cut(call: Exchange, how: str) -> None:
    """Cut the stream of the model's answer."""
    if how == "reset":
        call.reset()
    else:
        await call.cut()
