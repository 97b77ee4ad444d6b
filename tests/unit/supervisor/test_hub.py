"""The event hub: replay, live events, gaps, resets, slow clients, orderly ends of streams."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from protocol.api.workspace import WorkspaceState
from protocol.base.clock import SystemClock
from protocol.errors import BulkheadError, Conflict, Unavailable
from protocol.events import MARK_KIND, Event, EventId, parse_event_id
from protocol.limits import DEFAULT_LIMITS, Limits
from supervisor.events.hub import Hub, Stream

SMALL = msgspec.structs.replace(
    DEFAULT_LIMITS,
    replay_kept=8,
    replay_kept_bytes=10_000,
    stream_queue_max=16,
    stream_queue_max_bytes=20_000,
    event_batch_max=4,
    stream_retry_ms=1000,
    stream_retry_jitter_ms=0,
)
LONG_S = 10.0
SHORT_S = 0.02


def event(number: int, *, kind: str = "message", key: str = "", size: int = 0) -> Event:
    return Event(kind=kind, data=b'{"n":%d%b}' % (number, b" " * size), number=number, key=key)


def snapshot(key: str, text: str) -> Event:
    return Event(kind="message", data=json.dumps({"snapshot": text}).encode(), key=key)


def state(word: str) -> WorkspaceState:
    return WorkspaceState(workspace_id="w", state=word)


@dataclass
class EventStore:
    """Stores the events that the worker would return, and records the requests for them."""

    events: list[Event] = field(default_factory=list)
    requests: list[tuple[int, int]] = field(default_factory=list)
    error: BulkheadError | None = None
    gate: asyncio.Event | None = None

    async def fetch(self, after: int, count: int) -> list[Event]:
        self.requests.append((after, count))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [it for it in self.events if it.number > after][:count]


def new_hub(store: EventStore, limits: Limits = SMALL) -> Hub:
    log = logging.getLogger("bulkhead.test")
    return Hub(workspace_id="w", limits=limits, clock=SystemClock(), log=log, fetch=store.fetch)


@dataclass
class Block:
    """One block of a stream, as a client reads it."""

    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    retry: str = ""

    @property
    def number(self) -> int:
        return int(self.data.get("n", 0))


class Client:
    """Reads a stream until a condition holds, or until nothing more arrives."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.text = b""
        self.has_ended = False

    async def read(self, until: Callable[["Client"], bool] | None = None) -> list[Block]:
        while not (until and until(self)):
            chunk = await self.stream.next_chunk(LONG_S if until else SHORT_S)
            if chunk is None:
                self.has_ended = True
                break
            if not chunk and not until:
                break
            self.text += chunk
        return self.blocks

    @property
    def blocks(self) -> list[Block]:
        blocks = []
        for block in self.text.decode().split("\n\n")[:-1]:
            parsed = Block()
            for line in block.split("\n"):
                name, _, value = line.partition(": ")
                if name == "data":
                    parsed.data = json.loads(value)
                elif name == "id":
                    parsed.id = value
                else:
                    assert name == "retry", block
                    parsed.retry = value
            blocks.append(parsed)
        return blocks

    @property
    def numbers(self) -> list[int]:
        return [block.number for block in self.blocks if block.number]

    @property
    def resets(self) -> list[str]:
        return [block.id for block in self.blocks if block.data.get("type") == "reset"]


def open_client(hub: Hub, cursor: str | None = None, *, wants_ids: bool = True, wants_deltas: bool = False) -> Client:
    parsed = parse_event_id(cursor) if cursor is not None else None
    bad = cursor is not None and parsed is None
    return Client(hub.open_stream(cursor=parsed, cursor_is_bad=bad, wants_ids=wants_ids, wants_deltas=wants_deltas))


def opened_hub(store: EventStore, through: int, limits: Limits = SMALL) -> Hub:
    """Return a hub whose worker has committed the events 1 to `through`, all of them received live."""
    hub = new_hub(store, limits)
    hub.log_opened("log", 0)
    for number in range(1, through + 1):
        store.events.append(event(number))
        hub.take([event(number)])
    return hub


async def test_a_client_without_ids_gets_the_events_as_the_reference_server_sends_them() -> None:
    hub = opened_hub(EventStore(), 3)
    client = open_client(hub, wants_ids=False)
    hub.state_changed(state("closing"))
    taken = hub.take([event(4), Event(kind="workspace_state", data=b"{}", number=5), snapshot("m", "a"), event(6)])
    assert taken == 3
    await client.read()
    assert client.text == b'data: {"n":4}\n\ndata: {"n":6}\n\ndata: {"snapshot": "a"}\n\n'


async def test_a_client_with_ids_gets_its_start_position_and_the_state_of_the_worker() -> None:
    hub = opened_hub(EventStore(), 3)
    hub.state_changed(state("ready"))
    client = open_client(hub)
    hub.state_changed(state("restarting"))
    hub.state_changed(state("ready"))
    hub.take([event(4)])
    blocks = await client.read()
    assert blocks[0].retry == "1000"
    words = [block.data["payload"]["payload"]["state"] for block in blocks if "payload" in block.data]
    assert words == ["ready", "restarting", "ready"]
    assert [block.id for block in blocks if block.id] == ["log.3", "log.4"]
    assert hub.last_event_id == "log.4"


@pytest.mark.parametrize(
    ("cursor", "numbers"),
    [
        ("log.0", list(range(1, 41))),
        ("log.7", list(range(8, 41))),
        ("log.31", list(range(32, 41))),
        ("log.32", list(range(33, 41))),
        ("log.39", [40]),
        ("log.40", []),
    ],
)
async def test_C04_a_cursor_gets_exactly_the_events_after_it(cursor: str, numbers: list[int]) -> None:
    hub = opened_hub(EventStore(), 40)
    client = open_client(hub, cursor)
    await client.read(lambda client: len(client.numbers) >= len(numbers))
    assert client.numbers == numbers
    hub.take([event(41)])
    await client.read(lambda client: len(client.numbers) > len(numbers))
    assert client.numbers == [*numbers, 41]
    assert client.resets == []


@pytest.mark.parametrize("cursor", ["log.41", "other.3", "-1", "text", "log.-1", "", "log.99999999999"])
async def test_C04_a_cursor_that_cannot_be_served_gets_a_reset(cursor: str) -> None:
    hub = opened_hub(EventStore(), 40)
    client = open_client(hub, cursor)
    hub.take([event(41)])
    await client.read()
    assert client.resets == ["log.40"]
    [reset] = [block for block in client.blocks if block.data.get("type") == "reset"]
    assert reset.data["payload"]["payload"]["cursor"] == "log.40"
    assert client.numbers == [41]


async def test_C04_a_cursor_before_the_oldest_stored_event_gets_a_reset() -> None:
    store = EventStore(error=Conflict("cannot: pruned", code="reset"))
    hub = opened_hub(store, 40)
    client = open_client(hub, "log.2")
    await client.read(lambda it: bool(it.resets))
    assert client.resets == ["log.40"]
    assert client.numbers == []


async def test_C05_live_events_during_a_replay_from_the_worker_arrive_once_and_in_order() -> None:
    store = EventStore()
    hub = opened_hub(store, 40)
    client = open_client(hub, "log.3")
    for number in range(41, 90):
        store.events.append(event(number))
        hub.take([event(number)])
        if number % 3 == 0:
            client.text += await client.stream.next_chunk(LONG_S) or b""
    await client.read(lambda it: it.numbers[-1:] == [89])
    assert client.numbers == list(range(4, 90))
    assert client.resets == []


async def test_a_replay_waits_for_the_worker_and_reports_its_state_meanwhile() -> None:
    store = EventStore(error=Unavailable("cannot: it starts", code="worker_starting"))
    hub = opened_hub(store, 40)
    hub.state_changed(state("restarting"))
    client = open_client(hub, "log.3")
    assert [block.number for block in await client.read()] == [0, 0]
    assert len(store.requests) == 1  # it does not repeat the request in a loop
    store.error = None
    await client.read(lambda it: it.numbers[-1:] == [40])
    assert client.numbers == list(range(4, 41))


async def test_a_cursor_is_checked_once_the_worker_has_reported_its_log() -> None:
    store = EventStore([event(number) for number in range(1, 11)], gate=asyncio.Event())
    hub = new_hub(store)
    good, bad, fresh = open_client(hub, "log.3"), open_client(hub, "unknown.3"), open_client(hub)
    await asyncio.gather(*(client.read() for client in (good, bad, fresh)))
    assert store.requests  # the request starts the worker
    hub.log_opened("log", 10)
    assert store.gate is not None
    store.gate.set()
    await good.read(lambda it: it.numbers[-1:] == [10])
    await bad.read(lambda it: bool(it.resets))
    await fresh.read()
    assert good.numbers == list(range(4, 11))
    assert bad.resets == ["log.10"]
    assert [block.id for block in fresh.blocks if block.id] == ["log.10"]


async def test_Z08_a_gap_is_filled_from_the_worker_before_later_events_are_sent() -> None:
    store = EventStore([event(number) for number in range(1, 31)])
    hub = opened_hub(EventStore(), 3)
    hub.fetch = store.fetch
    client, plain = open_client(hub, "log.3"), open_client(hub, wants_ids=False)
    assert hub.take([event(9), event(10)]) == 2  # 4 to 8 were lost
    hub.take([event(11), event(13)])  # 12 as well
    await client.read(lambda it: it.numbers[-1:] == [13])
    assert client.numbers == list(range(4, 14))
    hub.take([Event(kind=MARK_KIND, data=b"", number=15)])  # the last two were lost as well, and no event follows
    await client.read(lambda it: it.numbers[-1:] == [15])
    await plain.read()
    assert client.numbers == plain.numbers == list(range(4, 16))
    assert client.resets == []


async def test_duplicates_are_dropped_but_count_for_credit() -> None:
    hub = opened_hub(EventStore(), 5)
    client = open_client(hub, "log.5")
    assert hub.take([event(4), event(5), event(6), event(6)]) == 4
    await client.read()
    assert client.numbers == [6]


async def test_a_gap_that_cannot_be_filled_is_a_reset_and_ends_the_streams_without_ids() -> None:
    store = EventStore(error=Conflict("cannot: pruned", code="reset"))
    hub = opened_hub(EventStore(), 3)
    hub.fetch = store.fetch
    client, plain = open_client(hub), open_client(hub, wants_ids=False)
    hub.take([event(9)])
    await client.read(lambda it: it.numbers == [9])
    assert client.resets == ["log.8"]
    await plain.read()
    assert plain.has_ended


async def test_events_that_the_worker_committed_before_its_restart_are_sent_afterwards() -> None:
    store = EventStore()
    hub = opened_hub(store, 5)
    client = open_client(hub)
    hub.state_changed(state("restarting"))
    store.events += [event(6, kind="run_complete"), event(7)]
    hub.log_opened("log", 7)
    hub.take([event(8)])
    await client.read(lambda it: it.numbers[-1:] == [8])
    assert client.numbers == [6, 7, 8]


async def test_without_clients_a_gap_is_filled_when_a_client_needs_it() -> None:
    store = EventStore()
    hub = opened_hub(store, 5)
    store.events += [event(number) for number in range(6, 22)]
    hub.log_opened("log", 20)
    hub.take([event(21)])
    assert store.requests == []
    client = open_client(hub, "log.4")
    await client.read(lambda it: it.numbers[-1:] == [21])
    assert client.numbers == list(range(5, 22))


@pytest.mark.parametrize(("log_id", "last"), [("new", 2), ("log", 2)])
async def test_D06_another_log_or_one_that_lost_its_end_is_a_reset(log_id: str, last: int) -> None:
    hub = opened_hub(EventStore(), 5)
    client, plain = open_client(hub), open_client(hub, wants_ids=False)
    hub.log_opened(log_id, last)
    hub.take([event(3)])
    await client.read()
    await plain.read()
    assert client.resets == [f"{log_id}.2"]
    assert client.blocks[-1].id == f"{log_id}.3"
    assert plain.has_ended
    assert plain.numbers == []
    again = open_client(hub, f"{log_id}.2")
    await again.read()
    assert again.numbers == [3]


async def test_snapshots_are_merged_and_dropped_after_a_numbered_event_of_their_key() -> None:
    hub = opened_hub(EventStore(), 1)
    client = open_client(hub, wants_ids=False)
    hub.take([snapshot("a", "a1"), snapshot("b", "b1"), snapshot("a", "a2")])
    await client.read()
    assert [block.data["snapshot"] for block in client.blocks] == ["b1", "a2"]
    hub.take([snapshot("a", "a3")])
    hub.take([event(2, key="a"), snapshot("b", "b2")])
    await client.read()
    assert [block.data.get("snapshot", block.number) for block in client.blocks[2:]] == [2, "b2"]
    await client.read()
    assert len(client.blocks) == 4  # no event arrives twice


async def test_C01_a_client_behind_the_kept_events_is_disconnected_cleanly_and_resumes() -> None:
    store = EventStore()
    hub = opened_hub(store, 5)
    slow, quick = open_client(hub), open_client(hub, wants_ids=False)
    await slow.read()
    for number in range(6, 60):
        store.events.append(event(number))
        hub.take([event(number)])
        await quick.read()
    await slow.read()
    assert slow.has_ended
    assert quick.numbers == list(range(6, 60))
    slow.stream.close()
    resumed = open_client(hub, "log.5")
    await resumed.read(lambda it: it.numbers[-1:] == [59])
    assert resumed.numbers == list(range(6, 60))


async def test_memory_stays_bounded_and_one_large_event_disconnects_no_client() -> None:
    hub = opened_hub(EventStore(), 5)
    client = open_client(hub, wants_ids=False)
    hub.take([event(6), event(7, size=50_000), event(8)])
    await client.read()
    assert client.numbers == [6, 7, 8]
    for number in range(9, 200):
        hub.take([event(number, size=500)])
    assert hub._replay.kept_bytes <= SMALL.stream_queue_max_bytes + 1000
    assert hub._replay.end - hub._replay.start <= SMALL.stream_queue_max


async def test_closing_sends_the_events_that_are_left_and_then_ends_the_streams() -> None:
    store = EventStore(gate=asyncio.Event())
    hub = opened_hub(store, 40)
    live, plain, behind = open_client(hub), open_client(hub, wants_ids=False), open_client(hub, "log.1")
    await behind.read()
    waiting = asyncio.ensure_future(behind.read(lambda it: False))
    hub.take([event(41)])
    hub.close()
    assert hub.take([event(42)]) == 1
    for client in (live, plain):
        await client.read()
        assert client.has_ended
        assert client.numbers == [41]
    await waiting
    assert behind.has_ended
    late = open_client(hub)
    await late.read()
    assert late.has_ended
    for client in (live, plain, behind, late):
        client.stream.close()
    assert hub.streams == 0


async def test_a_closed_stream_ends_its_reader() -> None:
    hub = opened_hub(EventStore(), 1)
    client = open_client(hub, wants_ids=False)
    reading = asyncio.ensure_future(client.stream.next_chunk(LONG_S))
    await asyncio.sleep(0)
    client.stream.close()
    assert await reading is None
    assert hub.streams == 0


async def test_a_cancelled_reader_leaves_no_waiter_behind() -> None:
    hub = opened_hub(EventStore(), 1)
    client = open_client(hub, wants_ids=False)
    reading = asyncio.ensure_future(client.stream.next_chunk(LONG_S))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not hub._notifier._waiters
    hub.take([event(2)])
    await client.read()
    assert client.numbers == [2]


async def test_data_with_line_ends_is_sent_as_one_line() -> None:
    hub = opened_hub(EventStore(), 0)
    client = open_client(hub, wants_ids=False)
    hub.take([Event(kind="session", data=b'{"a":\n1,\r\n"b":2}', number=1)])
    await client.read()
    assert client.text == b'data: {"a": 1,  "b":2}\n\n'


async def test_clients_at_the_same_position_share_the_same_bytes() -> None:
    hub = opened_hub(EventStore(), 1)
    clients = [open_client(hub, wants_ids=False) for _ in range(3)]
    hub.take([event(2), event(3)])
    texts = [await client.stream.next_chunk(LONG_S) for client in clients]
    assert texts[0] is texts[1] is texts[2]


async def test_after_a_restart_a_client_may_be_ahead_of_the_events_that_the_hub_has() -> None:
    store = EventStore([event(number) for number in range(1, 13)], gate=asyncio.Event())
    hub = opened_hub(EventStore(), 5)
    hub.fetch = store.fetch
    other = open_client(hub)
    hub.log_opened("log", 10)  # 6 to 10 have not arrived yet
    client = Client(hub.open_stream(cursor=EventId("log", 8), cursor_is_bad=False, wants_ids=True))
    assert store.gate is not None
    store.gate.set()
    await other.read(lambda it: it.numbers[-1:] == [10])
    hub.take([event(11)])
    await client.read()
    assert client.numbers == [9, 10, 11]


async def test_stored_events_that_overtake_the_live_ones_do_not_reset_the_client() -> None:
    store = EventStore([event(number) for number in range(1, 13)], gate=asyncio.Event())
    hub = new_hub(store)
    client = open_client(hub, "log.9")
    await client.read()
    hub.log_opened("log", 10)  # 11 and 12 were committed after that hello; their batch has not arrived yet
    assert store.gate is not None
    store.gate.set()
    await client.read(lambda it: it.numbers[-1:] == [12])
    await client.read()
    hub.take([event(11), event(12), event(13)])
    await client.read(lambda it: it.numbers[-1:] == [13])
    assert client.numbers == [10, 11, 12, 13]
    assert client.resets == []
