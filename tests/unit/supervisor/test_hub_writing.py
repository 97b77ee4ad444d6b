"""The hub with growing messages, and streams that write to their connection while they wait."""

import asyncio
import logging
from dataclasses import dataclass, field

from protocol.base.clock import SystemClock
from protocol.events import Event, Growth
from protocol.limits import DEFAULT_LIMITS
from supervisor.events.hub import Hub, Stream

HEAD = b'{"type":"message","payload":{"type":"updated","payload":{"text":"'
TAIL = b'"}}}'
LONG_S = 30.0


async def fetch(after: int, count: int) -> list[Event]:
    raise AssertionError("nothing is missing")


def new_hub() -> Hub:
    hub = Hub(
        workspace_id="w",
        limits=DEFAULT_LIMITS,
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        fetch=fetch,
    )
    hub.log_opened("log", 0)
    return hub


def whole(text: bytes) -> Event:
    return Event(kind="message", data=HEAD + text + TAIL, tail_bytes=len(TAIL), key="m")


def growth(at: int, text: bytes) -> Event:
    return Event(kind="message", data=text, key="m", growth=Growth(base=len(HEAD) + at, part=0, field="text", at=at))


def row(number: int, *, key: str = "", size: int = 0) -> Event:
    return Event(kind="message", data=b'{"n":%d%b}' % (number, b" " * size), number=number, key=key)


@dataclass
class Connection:
    """Takes up to `room` bytes, and records each write."""

    room: int = 1_000_000
    writes: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    written: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def try_write(self, data: bytes) -> bool:
        if self.error is not None:
            raise self.error
        self.writes.append(data[: self.room])
        self.rest = data[self.room :]
        self.room -= len(self.writes[-1])
        self.written.set()
        return not self.rest


class Reader:
    """Waits for the chunks of one stream, as the handler of the route does."""

    def __init__(self, hub: Hub, *, wants_deltas: bool = False) -> None:
        self.stream: Stream = hub.open_stream(
            cursor=None, cursor_is_bad=False, wants_ids=False, wants_deltas=wants_deltas
        )
        self.connection = Connection()
        self.waiting = self.wait()

    def wait(self) -> "asyncio.Task[bytes | None]":
        self.waiting = asyncio.ensure_future(self.stream.next_chunk(LONG_S, self.connection))
        return self.waiting

    async def close(self) -> None:
        self.stream.close()
        assert await self.waiting is None


async def test_one_delivery_writes_to_every_waiting_stream_and_wakes_none() -> None:
    hub = new_hub()
    readers = [Reader(hub) for _ in range(5)]
    await asyncio.sleep(0)
    hub.take([row(1)])
    hub.take([row(2)])  # in the same turn of the loop
    await asyncio.sleep(0)
    for reader in readers:
        assert reader.connection.writes == [b'data: {"n":1}\n\ndata: {"n":2}\n\n']
        assert not reader.waiting.done()
        await reader.close()


async def test_what_a_connection_does_not_take_wakes_the_stream_which_waits_for_it() -> None:
    hub = new_hub()
    reader = Reader(hub)
    reader.connection.room = 10
    await asyncio.sleep(0)
    hub.take([row(1)])
    assert await reader.waiting == b""
    assert reader.connection.rest
    reader.connection.room = 1000
    hub.take([row(2)])
    assert await reader.wait() == b'data: {"n":2}\n\n'
    reader.wait()
    await reader.close()


async def test_a_broken_connection_ends_its_own_stream_only() -> None:
    hub = new_hub()
    broken, other = Reader(hub), Reader(hub)
    broken.connection.error = RuntimeError("a bug")
    await asyncio.sleep(0)
    hub.take([row(1)])
    done, _ = await asyncio.wait({broken.waiting})
    assert [str(task.exception()) for task in done] == ["a bug"]
    assert other.connection.writes == [b'data: {"n":1}\n\n']
    await other.close()


async def test_a_hub_that_closes_writes_what_is_left_and_ends_the_stream() -> None:
    hub = new_hub()
    reader = Reader(hub)
    await asyncio.sleep(0)
    hub.take([row(1)])
    hub.close()
    assert await reader.waiting is None
    assert reader.connection.writes == [b'data: {"n":1}\n\n']


async def test_a_client_with_deltas_begins_with_the_newest_snapshot_and_a_client_without_at_the_next_change() -> None:
    hub = new_hub()
    hub.take([whole(b"a")])
    plain, delta = Reader(hub), Reader(hub, wants_deltas=True)
    assert await delta.waiting == b"data: " + HEAD + b"a" + TAIL + b"\n\n"
    delta.wait()
    await asyncio.sleep(0)
    assert not plain.waiting.done()
    assert hub.take([growth(1, b"b")]) == 0
    await asyncio.sleep(0)
    assert plain.connection.writes == [b"data: " + HEAD + b"ab" + TAIL + b"\n\n"]
    (text,) = delta.connection.writes
    assert b'"type":"message_delta"' in text
    assert b'"at":1,"text":"b"' in text
    assert hub.take_unfit() == []
    await plain.close()
    await delta.close()


async def test_a_snapshot_that_cannot_be_continued_is_asked_for_once() -> None:
    hub = new_hub()
    hub.take([growth(1, b"b"), growth(2, b"c")])
    assert hub.take_unfit() == ["m"]
    assert hub.take_unfit() == []
    hub.take([whole(b"abc"), growth(3, b"d"), row(1, key="m"), growth(4, b"e")])
    assert hub.take_unfit() == ["m"], "the numbered event made the snapshot void"


async def test_a_numbered_event_comes_before_the_snapshots_and_voids_its_own() -> None:
    hub = new_hub()
    reader = Reader(hub, wants_deltas=True)
    await asyncio.sleep(0)
    hub.take([whole(b"a"), growth(1, b"b"), row(1, key="m")])
    await asyncio.sleep(0)
    assert reader.connection.writes == [b'data: {"n":1}\n\n']
    await reader.close()
