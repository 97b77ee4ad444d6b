"""The pump against a socket that signals like ZeroMQ: one edge at an arrival, none for unread messages."""

import asyncio
import os
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base.zmq_pump import TURN_MAX, ZmqPump
from tests.support.run_coroutine import run


class EdgeSocket:
    """Queues messages; its descriptor becomes readable at an arrival and is reset by each receive and send."""

    def __init__(self) -> None:
        self.messages: deque[int] = deque()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def arrive(self, *messages: int) -> None:
        self.messages.extend(messages)
        os.eventfd_write(self.descriptor, 1)

    def send(self) -> None:
        """Reset the descriptor although messages are unread, like a send on a ZeroMQ socket."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            pass

    def receive(self) -> int | None:
        self.send()
        return self.messages.popleft() if self.messages else None


@pytest.fixture
def socket() -> Iterator[EdgeSocket]:
    edge = EdgeSocket()
    yield edge
    os.close(edge.descriptor)


async def run_loop(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_all_messages_are_read_after_a_single_edge(socket: EdgeSocket) -> None:
    read: list[int] = []
    pump = ZmqPump(receive=socket.receive, handle=read.append)
    socket.messages.extend((1, 2))  # before the start: a new socket does not signal
    pump.start(socket.descriptor)
    await run_loop()
    assert read == [1, 2]
    socket.arrive(*range(3, 500))
    await run_loop()
    assert read == list(range(1, 500))
    pump.stop()


async def test_wake_reads_messages_whose_edge_a_send_has_reset(socket: EdgeSocket) -> None:
    read: list[int] = []
    pump = ZmqPump(receive=socket.receive, handle=read.append)
    pump.start(socket.descriptor)
    await run_loop()
    socket.arrive(1)
    socket.send()
    await run_loop()
    assert read == [], "no signal: only `wake` helps"
    pump.wake()
    await run_loop()
    assert read == [1]
    pump.stop()


async def test_other_work_of_the_loop_runs_between_many_messages(socket: EdgeSocket) -> None:
    read: list[int] = []
    seen_by_others: list[int] = []

    def other_work() -> None:
        seen_by_others.append(len(read))
        if socket.messages:
            asyncio.get_running_loop().call_soon(other_work)

    pump = ZmqPump(receive=socket.receive, handle=read.append)
    pump.start(socket.descriptor)
    await run_loop()
    socket.arrive(*range(10 * TURN_MAX))
    other_work()
    await run_loop(60)
    assert len(read) == 10 * TURN_MAX
    steps = [later - earlier for earlier, later in zip([0, *seen_by_others], [*seen_by_others, len(read)], strict=True)]
    assert max(steps) <= 2 * TURN_MAX, "a signal and a wake may fall into one turn"
    pump.stop()


async def test_a_handler_that_raises_loses_only_its_own_message(socket: EdgeSocket) -> None:
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(str(context["exception"])))
    read: list[int] = []

    def handle(message: int) -> None:
        if message == 2:
            raise ValueError("two")
        read.append(message)

    pump = ZmqPump(receive=socket.receive, handle=handle)
    pump.start(socket.descriptor)
    await run_loop()
    socket.arrive(1, 2, 3)
    await run_loop()
    assert (read, errors) == ([1, 3], ["two"])
    pump.stop()


async def test_a_handler_may_stop_the_pump(socket: EdgeSocket) -> None:
    read: list[int] = []

    def handle(message: int) -> None:
        read.append(message)
        pump.stop()

    pump = ZmqPump(receive=socket.receive, handle=handle)
    pump.start(socket.descriptor)
    await run_loop()
    socket.arrive(1, 2, 3)
    await run_loop()
    assert read == [1]
    pump.wake()
    pump.stop()
    await run_loop()
    assert read == [1]


async def test_before_turn_runs_before_each_read(socket: EdgeSocket) -> None:
    order: list[str] = []
    pump = ZmqPump(
        receive=socket.receive,
        handle=lambda message: order.append(f"read {message}"),
        before_turn=lambda: order.append("turn"),
    )
    pump.run()
    assert order == [], "not started"
    pump.start(socket.descriptor)
    socket.messages.append(1)
    pump.run()
    assert order == ["turn", "read 1"]
    pump.stop()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 3 * TURN_MAX)),
        st.tuples(st.just("send"), st.just(0)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("raise"), st.integers(0, TURN_MAX)),
    ),
    max_size=30,
)


@given(actions=ACTIONS)
def test_no_message_is_left_unread_or_read_twice(actions: list[tuple[str, int]]) -> None:
    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        edge = EdgeSocket()
        read: list[int] = []
        fails_after = [-1]  # messages until one whose handler raises
        total = 0

        def handle(message: int) -> None:
            read.append(message)
            fails_after[0] -= 1
            if fails_after[0] == 0:
                raise ValueError

        pump = ZmqPump(receive=edge.receive, handle=handle)
        pump.start(edge.descriptor)
        for action, number in actions:
            match action:
                case "arrive":
                    edge.arrive(*range(total, total + number))
                    total += number
                case "send":
                    edge.send()
                    pump.wake()
                case "turn":
                    await run_loop(number)
                case _:
                    fails_after[0] = number
        await run_loop(2 * total // TURN_MAX + 20)
        assert read == list(range(total))
        pump.stop()
        os.close(edge.descriptor)

    run(check())
