"""Window and publisher: order, credit, holes, snapshots, batches."""

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


def window(after: int = 0, credit: int = 100, count_max: int = 8, bytes_max: int = 1000) -> Window:
    it = Window(count_max=count_max, bytes_max=bytes_max)
    it.connected(after, credit)
    return it


def test_numbered_events_go_in_order_as_credit_allows() -> None:
    it = window(credit=2)
    it.committed([event(1), event(2), event(3)])
    batch = it.next_batch(10, 1000)
    assert numbers(batch) == [1, 2]
    assert it.next_batch(10, 1000) == batch  # nothing changes until it went
    it.went(batch)
    assert it.next_batch(10, 1000) == []
    it.credited(1)
    assert numbers(it.next_batch(10, 1000)) == [3]


def test_a_batch_is_bounded_by_count_and_bytes_but_one_event_always_goes() -> None:
    it = window()
    it.committed([event(1, size=500), event(2), event(3), event(4)])
    assert numbers(it.next_batch(10, 100)) == [1]
    assert numbers(it.next_batch(3, 1000)) == [1, 2, 3]


def test_what_does_not_fit_is_a_hole_that_the_store_fills() -> None:
    it = window(count_max=3)
    it.committed([event(number) for number in range(1, 8)])
    assert it.hole() is None  # first what is here
    it.went(it.next_batch(10, 1000))
    assert it.hole() == (3, 3)
    it.committed([event(8)])
    assert it.filled([event(4), event(5), event(6)])
    assert numbers(it.next_batch(10, 1000)) == [4, 5, 6]
    assert not it.is_drained
    assert not it.filled([event(9)])


def test_a_new_connection_starts_where_the_hello_said() -> None:
    it = window(after=5)
    it.committed([event(6), event(7)])
    it.went(it.next_batch(10, 1000))
    it.disconnected()
    it.committed([event(8)])
    assert it.next_batch(10, 1000) == []
    assert it.hole() is None
    it.connected(7, 10)
    assert it.hole() == (7, 1)
    it.filled([event(8)])
    assert numbers(it.next_batch(10, 1000)) == [8]


def test_a_snapshot_waits_for_every_row_and_is_void_after_a_row_of_its_key() -> None:
    it = window(credit=1)
    it.with_snapshot(snapshot("m", b"1"))
    it.with_snapshot(snapshot("m", b"2"))
    it.committed([event(1), event(2)])
    it.went(it.next_batch(10, 1000))
    assert it.next_batch(10, 1000) == []  # the snapshot may build on row 2
    it.credited(5)
    assert [it.data for it in it.next_batch(10, 1000)] == [b"xx", b"2"]
    it.committed([event(3, key="m")])
    assert numbers(it.next_batch(10, 1000)) == [2, 3]


def test_a_snapshot_that_was_replaced_while_its_batch_went_is_sent_again() -> None:
    it = window()
    it.with_snapshot(snapshot("m", b"1"))
    batch = it.next_batch(10, 1000)
    it.with_snapshot(snapshot("m", b"2"))
    it.went(batch)
    assert [it.data for it in it.next_batch(10, 1000)] == [b"2"]


def test_snapshots_are_bounded() -> None:
    it = window()
    for number in range(SNAPSHOTS_MAX + 5):
        it.with_snapshot(snapshot(f"m{number}"))
    assert len(it.next_batch(10_000, 10_000)) == SNAPSHOTS_MAX


@dataclass
class Wire:
    """Plays the link and the store for a publisher."""

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
class HandClock:
    """A clock that the test moves."""

    time: float = 0.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


async def test_what_happens_in_one_round_goes_in_one_batch() -> None:
    wire = Wire()
    publisher = wire.publisher()
    publisher.connected(0, 100)
    publisher.committed([event(1)])
    publisher.committed([event(2)])
    publisher.snapshot(snapshot("m"))
    await asyncio.sleep(0)
    assert [numbers(batch) for batch in wire.batches] == [[1, 2, 0]]
    await publisher.close()


async def test_snapshots_that_follow_closely_are_merged_but_rows_do_not_wait() -> None:
    wire, clock = Wire(), HandClock(100.0)
    publisher = wire.publisher(clock)
    publisher.connected(0, 100)
    publisher.snapshot(snapshot("m", b"1"))
    await eventually(lambda: len(wire.batches) == 1)
    clock.time = 50.0  # so the pause will not end while we look
    for text in (b"2", b"3"):
        publisher.snapshot(snapshot("m", text))
        await asyncio.sleep(0)
    publisher.committed([event(1)])
    await asyncio.sleep(0)
    assert [[it.data for it in batch] for batch in wire.batches] == [[b"1"], [b"xx", b"3"]]
    await publisher.close()


async def test_a_blocked_socket_is_tried_again_when_it_takes_messages() -> None:
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


async def test_a_connection_after_a_silence_is_served_from_the_store() -> None:
    wire = Wire(store=[event(number) for number in range(1, 31)])
    publisher = wire.publisher()
    publisher.committed(wire.store[:29])
    publisher.connected(3, 1000)
    publisher.committed(wire.store[29:])
    assert await publisher.drain(5.0)
    assert wire.sent == list(range(4, 31))
    assert publisher.last_number == 30
    await publisher.close()


async def test_events_that_the_store_has_pruned_are_passed_over() -> None:
    wire = Wire(error=Conflict("cannot: pruned", code="reset"))
    publisher = wire.publisher()
    publisher.committed([event(50)])
    publisher.connected(3, 1000)
    assert await publisher.drain(5.0)
    publisher.committed([event(51)])
    assert await publisher.drain(5.0)
    assert wire.sent == [51]  # the supervisor sees by the number what is missing
    await publisher.close()


async def test_a_busy_store_is_asked_again() -> None:
    wire = Wire(store=[event(1)], error=Unavailable("cannot: busy", code="storage_busy"))
    publisher = wire.publisher()
    publisher.committed([event(1)])
    publisher.connected(0, 1000)
    await eventually(lambda: wire.fetched)
    wire.error = None
    assert await publisher.drain(5.0)
    assert wire.sent == [1]
    await publisher.close()


async def test_draining_without_a_supervisor_or_credit_says_so() -> None:
    wire = Wire(store=[event(1)])
    publisher = wire.publisher()
    assert await publisher.drain(1.0)  # there is nothing to send
    publisher.committed([event(1)])
    assert not await publisher.drain(1.0)
    publisher.connected(0, 0)
    assert not await publisher.drain(0.01)
    publisher.disconnected()
    await publisher.close()
    publisher.committed([event(2)])
    await asyncio.sleep(0)
    assert wire.sent == []
