"""When clients without deltas see a growing message again."""

import asyncio

import msgspec

from protocol.events import Event, Growth
from protocol.limits import DEFAULT_LIMITS
from supervisor.events.publication import Publication
from supervisor.events.snapshots import Snapshots

LIMITS = msgspec.structs.replace(DEFAULT_LIMITS, snapshot_interval_s=0.02, snapshot_bytes_per_s=100_000)


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


class Growing:
    """A message that grows by one byte at a time."""

    def __init__(self, size: int) -> None:
        self.clock = ManualClock()
        self.snapshots = Snapshots(bytes_max=10_000_000)
        self.published = asyncio.Event()
        self.publication = Publication(self.snapshots, limits=LIMITS, clock=self.clock, on_published=self.published.set)
        self.size = size
        self.snapshots.replace(Event(kind="message", data=b"x" * size + b'"', tail_bytes=1, key="m"))

    def grow(self) -> bool:
        """Return whether clients see it at once."""
        growth = Growth(base=self.size, part=0, field="text", at=0)
        assert self.snapshots.grow(Event(kind="message", data=b"y", key="m", growth=growth))
        self.size += 1
        self.publication.grown()
        return not self.snapshots.has_unpublished


async def test_a_short_message_is_published_each_time_that_it_grows() -> None:
    it = Growing(1_000)
    assert it.grow()
    assert it.grow()
    it.publication.close()


async def test_a_long_message_is_published_at_most_at_the_configured_bytes_per_second() -> None:
    it = Growing(100_000)
    assert it.grow()
    it.clock.time += 0.9
    assert not it.grow()
    it.publication.close()
    it = Growing(100_000)
    assert it.grow()
    it.clock.time += 1.1
    assert it.grow()
    it.publication.close()


async def test_growth_that_was_held_back_is_published_later_although_nothing_more_comes() -> None:
    it = Growing(3_000)
    assert it.grow()
    assert not it.grow()
    await it.published.wait()
    assert not it.snapshots.has_unpublished
    it.publication.close()


async def test_after_a_delivery_that_took_long_the_next_one_waits() -> None:
    it = Growing(1_000)
    assert it.grow()
    it.publication.delivered(0.5)
    it.clock.time += 1.0
    assert not it.grow()
    it.publication.close()
