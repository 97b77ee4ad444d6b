"""Random facts for the lifecycle of an MCP server: at most one connection, and only the latest start counts."""

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
def test_at_most_one_connection_exists_and_late_results_change_nothing(facts: list[str | tuple[str, int]]) -> None:
    server = McpLifecycle()
    connections: set[int] = set()
    for fact in facts:
        before = (server.state, server.error, server.generation)
        match fact:
            case str():
                effects = server.start() if fact == "start" else server.disable()
                for effect in effects:
                    match effect:
                        case Launch(generation):
                            connections.add(generation)
                        case End(generation):
                            connections.remove(generation)
                if fact == "disable":
                    assert connections == set()
            case (result, age):
                generation = server.generation - age
                if result == "connected":
                    is_current = server.connected(generation)
                else:
                    is_current = (server.failed if result == "failed" else server.refused)(generation, "why")
                    if is_current:
                        connections.discard(generation)
                if not is_current:
                    assert (server.state, server.error, server.generation) == before
                else:
                    assert age == 0
        assert len(connections) <= 1
        assert bool(connections) == (server.state in (McpState.STARTING, McpState.CONNECTED))
        assert bool(server.error) == (server.state in (McpState.ERROR, McpState.NEEDS_AUTH))


def test_a_transition_that_is_not_in_the_table_raises() -> None:
    server = McpLifecycle()
    with pytest.raises(InvalidTransition):
        server._move("connected", McpState.CONNECTED)


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=200))
def test_names_of_tools_are_accepted_by_providers(server_name: str, tool: str) -> None:
    name = tool_name(server_name, tool)
    assert len(name) <= TOOL_NAME_MAX
    assert name.isascii()
    assert name.replace("_", "").replace("-", "").isalnum()
    assert name == tool_name(server_name, tool)


@given(st.lists(st.sampled_from(["message", "noise", "", "truncated"]), max_size=20), st.integers(1, 40))
def test_messages_are_decoded_however_the_stream_is_divided(lines: list[str], size: int) -> None:
    sent = b""
    for number, line in enumerate(lines):
        sent += {
            "message": b'{"jsonrpc": "2.0", "id": %d, "result": {}}' % number,
            "noise": b"\xff\x00 hello",
            "": b"",
            "truncated": b'{"jsonrpc": "2.0", "id"',
        }[line] + b"\n"

    async def read() -> list[object]:
        stream = StdioTransport(1000)
        for start in range(0, len(sent), size):
            stream.feed(sent[start : start + size])
        stream.feed(b"")
        return [item.message.id async for item in stream]  # type: ignore[union-attr]

    assert asyncio.run(read()) == [number for number, line in enumerate(lines) if line == "message"]


async def test_a_message_without_an_end_closes_the_connection() -> None:
    stream = StdioTransport(1000)
    stream.feed(b'{"jsonrpc": "2.0", "id": 1, "result": {}}\n')
    stream.feed(b"x" * 1001)
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    assert "more than 1000 bytes" in stream.problem
    flooded = StdioTransport(1000)
    for _ in range(200):
        flooded.feed(b'{"jsonrpc": "2.0", "method": "x"}\n')
    assert flooded.problem == "it sends faster than its messages can be read"


async def test_many_messages_do_not_block_the_event_loop() -> None:
    stream = StdioTransport(1_000_000)
    stream.feed(b'{"jsonrpc": "2.0", "method": "notifications/message"}\n' * 1000)
    stream.feed(b"")
    iterations = 0

    async def other_work() -> None:
        nonlocal iterations
        while True:
            await asyncio.sleep(0)
            iterations += 1

    task = asyncio.ensure_future(other_work())
    assert len([item async for item in stream]) == 1000
    task.cancel()
    assert iterations >= 40
