"""Random facts at the machine of MCP servers: at most one connection, and the latest start alone decides."""

import asyncio

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base.machine import InvalidTransition
from worker.mcp.lifecycle import End, Launch, McpLifecycle, McpState
from worker.mcp.settings import TOOL_NAME_MAX, tool_name
from worker.mcp.stdio_transport import StdioTransport

FACTS = st.lists(
    st.one_of(
        st.sampled_from(["start", "disable"]),
        st.tuples(st.sampled_from(["connected", "failed", "refused"]), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(FACTS)
def test_at_most_one_connection_lives_and_late_words_change_nothing(facts: list[str | tuple[str, int]]) -> None:
    life = McpLifecycle()
    living: set[int] = set()
    for fact in facts:
        before = (life.state, life.error, life.generation)
        match fact:
            case str():
                effects = life.start() if fact == "start" else life.disable()
                for effect in effects:
                    match effect:
                        case Launch(generation):
                            living.add(generation)
                        case End(generation):
                            living.remove(generation)
                if fact == "disable":
                    assert living == set()
            case (what, age):
                generation = life.generation - age
                if what == "connected":
                    is_ours = life.connected(generation)
                else:
                    is_ours = (life.failed if what == "failed" else life.refused)(generation, "why")
                    if is_ours:
                        living.discard(generation)
                if not is_ours:
                    assert (life.state, life.error, life.generation) == before
                else:
                    assert age == 0
        assert len(living) <= 1
        assert bool(living) == (life.state in (McpState.STARTING, McpState.CONNECTED))
        assert bool(life.error) == (life.state in (McpState.ERROR, McpState.NEEDS_AUTH))


def test_a_move_that_is_not_in_the_table_is_a_bug() -> None:
    life = McpLifecycle()
    with pytest.raises(InvalidTransition):
        life._move("connected", McpState.CONNECTED)


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=200))
def test_names_of_tools_are_what_providers_take(server: str, tool: str) -> None:
    name = tool_name(server, tool)
    assert len(name) <= TOOL_NAME_MAX
    assert name.isascii()
    assert name.replace("_", "").replace("-", "").isalnum()
    assert name == tool_name(server, tool)


@given(st.lists(st.sampled_from(["message", "noise", "", "cut"]), max_size=20), st.integers(1, 40))
def test_messages_come_whole_however_the_pipe_cuts_them(lines: list[str], size: int) -> None:
    sent = b""
    for number, line in enumerate(lines):
        sent += {
            "message": b'{"jsonrpc": "2.0", "id": %d, "result": {}}' % number,
            "noise": b"\xff\x00 hello",
            "": b"",
            "cut": b'{"jsonrpc": "2.0", "id"',
        }[line] + b"\n"

    async def read() -> list[int]:
        stream = StdioTransport(1000)
        for start in range(0, len(sent), size):
            stream.feed(sent[start : start + size])
        stream.feed(b"")
        return [item.message.id async for item in stream]  # type: ignore[union-attr]

    assert asyncio.run(read()) == [number for number, line in enumerate(lines) if line == "message"]


async def test_a_message_without_an_end_breaks_off() -> None:
    stream = StdioTransport(1000)
    stream.feed(b'{"jsonrpc": "2.0", "id": 1, "result": {}}\n')
    stream.feed(b"x" * 1001)
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    assert "more than 1000 bytes" in stream.problem
    flood = StdioTransport(1000)
    for _ in range(200):
        flood.feed(b'{"jsonrpc": "2.0", "method": "x"}\n')
    assert flood.problem == "it sends faster than its messages can be read"


async def test_messages_without_end_leave_the_loop_its_turns() -> None:
    stream = StdioTransport(1_000_000)
    stream.feed(b'{"jsonrpc": "2.0", "method": "notifications/message"}\n' * 1000)
    stream.feed(b"")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.ensure_future(others())
    assert len([item async for item in stream]) == 1000
    task.cancel()
    assert turns >= 40
