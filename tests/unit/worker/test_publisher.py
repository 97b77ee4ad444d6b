"""Window and publisher: order, credit, gaps, snapshots, batches."""

import asyncio
import logging
from dataclasses import dataclass, field

import msgspec

from protocol.base.clock import Clock, SystemClock
from protocol.errors import BulkheadError, Conflict, Unavailable
from protocol.events import Event
from protocol.limits import DEFAULT_LIMITS
from tests.support.eventually import eventually
from worker.events.publisher import Publisher
from worker.events.window import SNAPSHOTS_MAX, Window

SMALL = msgspec.structs.replace(DEFAULT_LIMITS, event_window=8, event_batch_max=4)


def event(number: int, *, key: str = "", size: int = 2) -> Event:
    return Event(kind="message", data=b"x" * size, number=number, key=key)


def snapshot(key: str, data: bytes = b"p") -> Event:
    return Event(kind="message", data=data, key=key)


def numbers(batch: list[Event]) -> list[int]:
    return [it.number for it in batch]


def new_window(after: int = 0, credit: int = 100, count_max: int = 8, bytes_max: int = 1000) -> Window:
    window = Window(count_max=count_max, bytes_max=bytes_max)
    window.connected(after, credit)
    return window


def test_numbered_events_are_sent_in_order_within_the_credit() -> None:
    window = new_window(credit=2)
    window.committed([event(1), event(2), event(3)])
    batch = window.next_batch(10, 1000)
    assert numbers(batch) == [1, 2]
    assert window.next_batch(10, 1000) == batch  # unchanged until the batch was sent
    window.went(batch)
    assert window.next_batch(10, 1000) == []
    window.credited(1)
    assert numbers(window.next_batch(10, 1000)) == [3]


def test_a_batch_is_bounded_by_count_and_bytes_but_has_at_least_one_event() -> None:
    window = new_window()
    window.committed([event(1, size=500), event(2), event(3), event(4)])
    assert numbers(window.next_batch(10, 100)) == [1]
    assert numbers(window.next_batch(3, 1000)) == [1, 2, 3]


def test_events_that_do_not_fit_are_a_gap_that_the_store_fills() -> None:
    window = new_window(count_max=3)
    window.committed([event(number) for number in range(1, 8)])
    assert window.hole() is None  # the kept events are sent first
    window.went(window.next_batch(10, 1000))
    assert window.hole() == (3, 3)
    window.committed([event(8)])
    assert window.filled([event(4), event(5), event(6)])
    assert numbers(window.next_batch(10, 1000)) == [4, 5, 6]
    assert not window.is_drained
    assert not window.filled([event(9)])


def test_a_new_connection_starts_at_the_number_of_the_hello() -> None:
    window = new_window(after=5)
    window.committed([event(6), event(7)])
    window.went(window.next_batch(10, 1000))
    window.disconnected()
    window.committed([event(8)])
    assert window.next_batch(10, 1000) == []
    assert window.hole() is None
    window.connected(7, 10)
    assert window.hole() == (7, 1)
    window.filled([event(8)])
    assert numbers(window.next_batch(10, 1000)) == [8]


def test_a_snapshot_waits_for_all_rows_and_is_dropped_after_a_row_of_its_key() -> None:
    window = new_window(credit=1)
    window.with_snapshot(snapshot("m", b"1"))
    window.with_snapshot(snapshot("m", b"2"))
    window.committed([event(1), event(2)])
    window.went(window.next_batch(10, 1000))
    assert window.next_batch(10, 1000) == []  # the snapshot may build on row 2
    window.credited(5)
    assert [event.data for event in window.next_batch(10, 1000)] == [b"xx", b"2"]
    window.committed([event(3, key="m")])
    assert numbers(window.next_batch(10, 1000)) == [2, 3]


def test_a_snapshot_replaced_during_a_send_is_sent_again() -> None:
    window = new_window()
    window.with_snapshot(snapshot("m", b"1"))
    batch = window.next_batch(10, 1000)
    window.with_snapshot(snapshot("m", b"2"))
    window.went(batch)
    assert [event.data for event in window.next_batch(10, 1000)] == [b"2"]


def test_snapshots_are_bounded() -> None:
    window = new_window()
    for number in range(SNAPSHOTS_MAX + 5):
        window.with_snapshot(snapshot(f"m{number}"))
    assert len(window.next_batch(10_000, 10_000)) == SNAPSHOTS_MAX


@dataclass
class Wire:
    """Stands in for the link and the store of a publisher."""

    batches: list[list[Event]] = field(default_factory=list)
    store: list[Event] = field(default_factory=list)
    fetched: list[tuple[int, int]] = field(default_factory=list)
    is_open: bool = True
    error: BulkheadError | None = None

    def send(self, events: list[Event]) -> bool:
        if self.is_open:
            self.batches.append(events)
        return self.is_open

    async def fetch(self, after: int, count: int) -> list[Event]:
        self.fetched.append((after, count))
        if self.error is not None:
            raise self.error
        return [it for it in self.store if it.number > after][:count]

    @property
    def sent(self) -> list[int]:
        return [it.number for batch in self.batches for it in batch]

    def publisher(self, clock: Clock | None = None) -> Publisher:
        log = logging.getLogger("bulkhead.test")
        publisher = Publisher(limits=SMALL, clock=clock or SystemClock(), log=log)
        publisher.bind(send=self.send, fetch=self.fetch)
        return publisher


@dataclass
class ManualClock:
    """A clock that the test moves."""

    time: float = 0.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


async def test_events_of_one_loop_iteration_are_sent_in_one_batch() -> None:
    wire = Wire()
    publisher = wire.publisher()
    publisher.connected(0, 100)
    publisher.committed([event(1)])
    publisher.committed([event(2)])
    publisher.snapshot(snapshot("m"))
    await asyncio.sleep(0)
    assert [numbers(batch) for batch in wire.batches] == [[1, 2, 0]]
    await publisher.close()


async def test_quickly_following_snapshots_are_merged_but_rows_do_not_wait() -> None:
    wire, clock = Wire(), ManualClock(100.0)
    publisher = wire.publisher(clock)
    publisher.connected(0, 100)
    publisher.snapshot(snapshot("m", b"1"))
    await eventually(lambda: len(wire.batches) == 1)
    clock.time = 50.0  # the pause between snapshots does not end during the test
    for text in (b"2", b"3"):
        publisher.snapshot(snapshot("m", text))
        await asyncio.sleep(0)
    publisher.committed([event(1)])
    await asyncio.sleep(0)
    assert [[it.data for it in batch] for batch in wire.batches] == [[b"1"], [b"xx", b"3"]]
    await publisher.close()


async def test_a_blocked_socket_is_tried_again_when_it_is_writable() -> None:
    wire = Wire(is_open=False)
    publisher = wire.publisher()
    publisher.connected(0, 100)
    publisher.committed([event(1)])
    await asyncio.sleep(0)
    wire.is_open = True
    publisher.committed([event(2)])
    publisher.writable()
    assert await publisher.drain(1.0)
    assert wire.sent == [1, 2]
    await publisher.close()


async def test_events_from_before_a_connection_are_read_from_the_store() -> None:
    wire = Wire(store=[event(number) for number in range(1, 31)])
    publisher = wire.publisher()
    publisher.committed(wire.store[:29])
    publisher.connected(3, 1000)
    publisher.committed(wire.store[29:])
    assert await publisher.drain(5.0)
    assert wire.sent == list(range(4, 31))
    assert publisher.last_number == 30
    await publisher.close()


async def test_events_that_the_store_has_pruned_are_skipped() -> None:
    wire = Wire(error=Conflict("cannot: pruned", code="reset"))
    publisher = wire.publisher()
    publisher.committed([event(50)])
    publisher.connected(3, 1000)
    assert await publisher.drain(5.0)
    publisher.committed([event(51)])
    assert await publisher.drain(5.0)
    assert wire.sent == [51]  # the supervisor detects the gap by the number
    await publisher.close()


async def test_a_busy_store_is_read_again() -> None:
    wire = Wire(store=[event(1)], error=Unavailable("cannot: busy", code="storage_busy"))
    publisher = wire.publisher()
    publisher.committed([event(1)])
    publisher.connected(0, 1000)
    await eventually(lambda: wire.fetched)
    wire.error = None
    assert await publisher.drain(5.0)
    assert wire.sent == [1]
    await publisher.close()


async def test_drain_reports_when_supervisor_or_credit_is_missing() -> None:
    wire = Wire(store=[event(1)])
    publisher = wire.publisher()
    assert await publisher.drain(1.0)  # nothing to send
    publisher.committed([event(1)])
    assert not await publisher.drain(1.0)
    publisher.connected(0, 0)
    assert not await publisher.drain(0.01)
    publisher.disconnected()
    await publisher.close()
    publisher.committed([event(2)])
    await asyncio.sleep(0)
    assert wire.sent == []
