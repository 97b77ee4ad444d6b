"""Fault matrix 10: the provider breaks off, stays silent or refuses; the partial text is kept, nothing is doubled."""

import asyncio
from pathlib import Path

import pytest

from tests.support.clients.http_client import finish_of, parts_of, texts
from tests.support.fakes.scripted_provider import API_KEY, Exchange
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

DIALECTS = ["openai", "responses", "anthropic"]
NO_WAIT = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}
ONE_ATTEMPT = {"model_retries_max": 0}
LONG_WAIT = {"model_retry_delay_s": 300.0, "model_retry_delay_s_max": 300.0}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["reset", "clean end"])
@pytest.mark.house(limits=NO_WAIT)
async def test_L04_cut_in_the_middle_is_tried_again(house: ServerHarness, how: str, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run, call = await workspace.streaming("once upon")
    await end(call, how)
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
async def test_L04_cut_for_good_keeps_and_marks_the_partial_text(house: ServerHarness, how: str) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("once upon")
    await end(call, how)
    ended = await workspace.ended(run)
    assert ended["error"], ended
    assert ended["text"] == "once upon"
    answer = await workspace.last_assistant()
    assert texts(answer) == "once upon"
    assert (finish_of(answer) or {})["reason"] == "error"
    await workspace.works()


@pytest.mark.house(limits=NO_WAIT)
async def test_L04_cut_after_a_tool_ran_does_not_run_it_again(house: ServerHarness) -> None:
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
async def test_L04_cut_inside_a_tool_call_does_not_run_it(house: ServerHarness) -> None:
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
async def test_L02_an_overloaded_provider_is_asked_again_within_bounds(house: ServerHarness) -> None:
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
    """L03: the request was taken, nothing came."""


async def headers_only(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L03: headers and the first, empty event; then silence."""
    await call.tokens()


async def comments_only(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L03: keep-alive comments are no progress."""
    await call.garbage(b": still here\n\n" * 20)


async def half_streamed(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L04 before it breaks: some text came."""
    await call.tokens("some text")
    await workspace.watcher.text(workspace.session, "some text")


async def backing_off(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L02: told to come back later."""
    await call.refuse(429, retry_after="45")
    await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def broken_off(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L04: reset in the middle, waiting for the next attempt."""
    await half_streamed(workspace, call)
    call.reset()
    await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="retrying event"
    )


async def talking_garbage(workspace: WorkspaceFixture, call: Exchange) -> None:
    """L05: an event that never ends."""
    await call.garbage(b"data: " + b"x" * 100_000)


async def asking_for_tools(workspace: WorkspaceFixture, call: Exchange) -> None:
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
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits=LONG_WAIT)
async def test_L07_cancelled_in_every_trouble(house: ServerHarness, trouble: object, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("are you there?")
    call = await house.provider.next_call()
    await trouble(workspace, call)  # type: ignore[operator]
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
async def test_L01_a_refused_key_fails_at_once_and_is_shown_to_nobody(
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
async def test_L02_what_the_provider_asks_for_is_waited_and_no_more(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    await (await house.provider.next_call()).refuse(429, retry_after="1")
    await (await house.provider.next_call()).reply("here")  # within seconds: our own delay is five minutes
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
async def test_L03_a_silent_provider_is_given_up(house: ServerHarness, how: str, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    if how == "headers":
        await call.tokens()
    ending = asyncio.create_task(workspace.ended(run))
    while how == "comments" and not ending.done():
        await call.garbage(b": still here\n\n")
        await asyncio.wait({ending}, timeout=0.1)
    ended = await ending
    assert "sent nothing for 1 s" in ended["error"]
    assert (await workspace.run(run))["cause"] == "timeout"
    await call.wait_closed()
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits={"model_progress_s": 5.0, "run_max_s": 2.0}, neighbour=False)  # whose run lasts longer
async def test_L03_a_token_now_and_then_does_not_outlast_the_run(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    ending = asyncio.create_task(workspace.ended(run))
    while not ending.done():
        await call.tokens("x")
        await asyncio.wait({ending}, timeout=0.2)
    ended = await ending
    assert "longer than 2 s" in ended["error"]
    assert ended["text"].startswith("xx"), "what came is kept"
    await call.wait_closed()
    await workspace.works_with_new_stream()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "data",
    [b"data: not json\n\n", b'data: {"type": 5, "choices": "no"}\n\n', b"data: [1, 2]\n\n", b"data: \xff\xfe\xff\n\n"],
    ids=["no json", "wrong shape", "a list", "no utf-8"],
)
@pytest.mark.house(limits={"model_retries_max": 0})
async def test_L05_garbage_fails_the_run_and_nothing_else(house: ServerHarness, data: bytes, dialect: str) -> None:
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
async def test_L05_a_line_of_100_MB_takes_no_memory(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect)
    await workspace.works()  # all that is loaded for a first request is loaded
    worker = await workspace.worker()
    before = peak_bytes(worker.pid)
    run, call = await workspace.streaming("half")
    sent = 0
    block = b"y" * (1 << 20)
    await call.garbage(b"data: ")
    while sent < LONG_LINE and not call.is_closed:
        await call.garbage(block)
        await asyncio.sleep(0)  # a write to a connection that was closed does not wait
        sent += len(block)
    ended = await workspace.ended(run)
    assert "longer than" in ended["error"]
    assert ended["text"] == "half"
    assert (await workspace.run(run))["cause"] == "garbage"
    assert sent < LONG_LINE, "all of it was taken"
    grown = peak_bytes(worker.pid) - before
    assert grown < 64 * (1 << 20), f"the worker grew by {grown >> 20} MB"
    await workspace.works()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.house(limits={"steps_max": 4})
async def test_L06_odd_tool_calls_are_answered_with_errors(house: ServerHarness, dialect: str) -> None:
    workspace = await house.workspace(model=dialect, yolo=True)
    run = await workspace.prompt("do odd things")
    first = await house.provider.next_call()
    await first.tool_call("c1", "bash", "")
    await first.tool_call("c2", "bash", '{"command": ')
    await first.tool_call("c3", "no_such_tool", {})
    await first.finish()
    second = await house.provider.next_call()  # the provider checks that the history is one that it would take
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


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


async def end(call: Exchange, how: str) -> None:
    """Break the stream off."""
    if how == "reset":
        call.reset()
    else:
        await call.cut()
