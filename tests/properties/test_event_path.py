"""Events from the window over a lossy connection to the hub and clients: each numbered one once, in order."""

import asyncio
import logging
import random
from copy import deepcopy
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.base.clock import SystemClock
from protocol.errors import Conflict
from protocol.events import MARK_KIND, Event, EventId
from protocol.limits import DEFAULT_LIMITS
from supervisor.events.hub import Hub, Stream
from tests.support.run_coroutine import run
from worker.events.publisher import Publisher
from worker.events.window import Window

LOG = logging.getLogger("bulkhead.test")
LIMITS = msgspec.structs.replace(
    DEFAULT_LIMITS, event_window=6, event_batch_max=4, replay_kept=16, stream_queue_max=64, stream_retry_jitter_ms=0
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 5)),
        st.tuples(st.just("snapshot"), st.integers(0, 2)),
        st.tuples(st.just("disconnect"), st.just(0)),
        st.tuples(st.just("client"), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.integers(1, 3)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class Reader:
    """Reads a stream all the time and checks each event."""

    stream: Stream
    last_number: int
    last_snapshot: dict[str, int] = field(default_factory=dict)

    async def read(self) -> None:
        while (chunk := await self.stream.next_chunk(10.0)) is not None:
            for block in chunk.decode().split("\n\n"):
                lines = dict(line.split(": ", 1) for line in block.split("\n") if line)
                if "data" not in lines:
                    continue
                kind, key, number = lines["data"].strip('"').split(",")
                if kind == "row":
                    assert int(number) == self.last_number + 1
                    assert lines["id"] == f"log.{number}"
                    self.last_number = int(number)
                else:
                    # A snapshot has the number of the row before it; no later row of its key may have arrived.
                    assert int(number) >= self.last_snapshot.get(key, 0)
                if key:
                    self.last_snapshot[key] = max(int(number), self.last_snapshot.get(key, 0))


class Wire:
    """Connects a publisher and a hub, and loses batches and connections between them."""

    def __init__(self, losses: random.Random) -> None:
        self.losses = losses
        self.rows: list[Event] = []
        self.hub = Hub(workspace_id="w", limits=LIMITS, clock=SystemClock(), log=LOG, fetch=self.fetch)
        self.publisher = Publisher(limits=LIMITS, clock=SystemClock(), log=LOG)
        self.publisher.bind(send=self.send, fetch=self.fetch)

    async def fetch(self, after: int, count: int) -> list[Event]:
        await asyncio.sleep(0)
        if after > len(self.rows):
            raise Conflict("cannot: beyond", code="reset")
        return self.rows[after:][:count]

    def send(self, batch: list[Event]) -> bool:
        match self.losses.randrange(10):
            case 0:
                return False  # the socket is full; the next fact causes another attempt
            case 1 | 2:
                lost = sum(not it.is_snapshot for it in batch)
                asyncio.get_running_loop().call_soon(self.publisher.credit, lost)
            case _:
                taken = self.hub.take(batch)
                asyncio.get_running_loop().call_soon(self.publisher.credit, taken)
        return True

    def connect(self) -> None:
        self.hub.log_opened("log", len(self.rows))
        self.publisher.connected(len(self.rows), LIMITS.event_window)

    def commit(self, count: int) -> None:
        rows: list[Event] = []
        for _ in range(count):
            number = len(self.rows) + len(rows) + 1
            key = f"m{number % 3}"
            rows.append(Event(kind="message", data=b'"row,%b,%d"' % (key.encode(), number), number=number, key=key))
        self.rows += rows
        self.publisher.committed(rows)

    def snapshot(self, index: int) -> None:
        key = f"m{index}"
        data = b'"snapshot,%b,%d"' % (key.encode(), len(self.rows))
        self.publisher.snapshot(Event(kind="message", data=data, key=key))


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_Z08_C05_each_numbered_event_arrives_once_in_order_over_a_lossy_wire(
    steps: list[tuple[str, int]], seed: int
) -> None:
    async def check() -> None:
        wire = Wire(random.Random(seed))
        wire.connect()
        readers: list[Reader] = []
        tasks: list[asyncio.Task[None]] = []

        def open_client(back: int) -> None:
            last_number = max(0, wire.hub.known_to - back)  # no client is ahead of the hub
            cursor = EventId("log", last_number)
            stream = wire.hub.open_stream(cursor=cursor, cursor_is_bad=False, wants_ids=True)
            readers.append(Reader(stream, last_number))
            tasks.append(asyncio.ensure_future(readers[-1].read()))

        open_client(0)
        for action, amount in steps:
            match action:
                case "commit":
                    wire.commit(amount)
                case "snapshot":
                    wire.snapshot(amount)
                case "disconnect":
                    wire.publisher.disconnected()
                    await asyncio.sleep(0)
                    wire.connect()
                case "client" if len(readers) < 5:
                    open_client(amount)
                case "pass":
                    for _ in range(amount):
                        await asyncio.sleep(0)
        wire.losses = random.Random(0)
        wire.losses.randrange = lambda *_: 9  # type: ignore[method-assign]
        wire.publisher.writable()
        assert await wire.publisher.drain(5.0)
        # The link does this when a heartbeat reports more events than arrived (test_router).
        wire.hub.take([Event(kind=MARK_KIND, data=b"", number=max(1, len(wire.rows)))] if wire.rows else [])
        async with asyncio.timeout(5.0):
            while any(reader.last_number < len(wire.rows) for reader in readers):
                await asyncio.sleep(0)
                for task in tasks:
                    if task.done():
                        task.result()
        wire.hub.close()
        await asyncio.gather(*tasks)
        await wire.publisher.close()
        await wire.hub.tasks.close()

    run(check())


WINDOW_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 6)),
        st.tuples(st.just("credit"), st.integers(1, 6)),
        st.tuples(st.just("send"), st.integers(1, 6)),
        st.tuples(st.just("fill"), st.integers(1, 6)),
        st.tuples(st.just("snapshot"), st.integers(0, 2)),
        st.tuples(st.just("reconnect"), st.integers(0, 6)),
    ),
    max_size=60,
)


def numbered(events: list[Event]) -> list[Event]:
    return [event for event in events if not event.is_snapshot]


@given(WINDOW_STEPS)
def test_a_window_sends_in_order_within_its_credit_and_its_memory(steps: list[tuple[str, int]]) -> None:
    window = Window(count_max=4, bytes_max=70)
    window.connected(0, 3)
    rows: list[Event] = []
    sent, credit = 0, 3
    for action, amount in steps:
        match action:
            case "commit":
                new = [
                    Event(kind="message", data=b"x" * 20, number=len(rows) + offset, key=f"m{offset % 3}")
                    for offset in range(1, amount + 1)
                ]
                rows += new
                window.committed(new)
            case "credit":
                window.credited(amount)
                credit += amount
            case "send":
                batch = window.next_batch(amount, 50)
                for event in batch:
                    if event.is_snapshot:
                        assert sent == len(rows), "a snapshot overtook a row"
                    else:
                        assert event is rows[sent]
                        sent += 1
                        credit -= 1
                window.went(batch)
                assert credit >= 0
            case "fill" if (gap := window.hole()) is not None:
                after, count = gap
                assert after == sent
                window.filled(rows[after:][: min(count, amount)])
            case "snapshot":
                window.with_snapshot(Event(kind="message", data=b"p", key=f"m{amount}"))
            case "reconnect":
                window.disconnected()
                assert window.next_batch(10, 1000) == []
                sent, credit = max(0, len(rows) - amount), 5
                window.connected(sent, credit)
        with_credit = deepcopy(window)
        with_credit.credited(1000)
        waiting = numbered(with_credit.next_batch(1000, 100_000))
        assert len(waiting) <= 4
        assert sum(len(event.data) for event in waiting) <= 70
        assert numbered(window.next_batch(1000, 100_000)) == waiting[:credit], "the window does not use its credit"
    window.credited(1000)
    for _ in range(1000):
        if window.is_drained:
            break
        if (gap := window.hole()) is not None:
            window.filled(rows[gap[0] :][: gap[1]])
        batch = window.next_batch(10, 1000)
        sent += sum(not event.is_snapshot for event in batch)
        window.went(batch)
    assert window.is_drained
    assert sent == len(rows)
