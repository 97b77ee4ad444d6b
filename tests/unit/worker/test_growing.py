"""Growing messages on their way out of the worker: one event for all that has grown, whole where it must be."""

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from protocol.api.message import Message
from protocol.base.clock import Clock, SystemClock
from protocol.events import Event, numbered_event
from protocol.limits import Limits
from tests.support.eventually import eventually
from tests.support.snapshot_reader import SnapshotReader
from worker.agent.message_draft import MessageDraft
from worker.events.publisher import Publisher
from worker.events.window import Window
from worker.runs.growing_message import GrowingMessage


@dataclass
class ManualClock:
    """A clock that the test moves."""

    time: float = 1000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


@dataclass
class Answer:
    """A draft and its source."""

    clock: Clock = field(default_factory=ManualClock)
    draft: MessageDraft = field(
        default_factory=lambda: MessageDraft(Message(id="m", session_id="s$$1", role="assistant", parts=[]))
    )

    def __post_init__(self) -> None:
        self.source = GrowingMessage(self.draft, run_id="r", clock=self.clock)


def new_window(*, takes_growth: bool = True) -> Window:
    window = Window(count_max=8, bytes_max=1000)
    window.connected(0, 100, takes_growth=takes_growth)
    return window


def send(window: Window) -> list[Event]:
    batch = window.next_batch(10, 100_000)
    window.went(batch)
    return batch


def payload(event: Event) -> dict[str, Any]:
    return dict(json.loads(event.data)["payload"]["payload"])


def test_the_first_event_is_whole_and_later_ones_have_what_was_added_since() -> None:
    window, answer, reader = new_window(), Answer(), SnapshotReader()
    answer.draft.add_text("a")
    window.with_snapshot(answer.source)
    (first,) = send(window)
    assert first.growth is None
    assert payload(reader.read(first))["parts"] == [{"type": "text", "data": {"text": "a"}}]
    assert send(window) == []
    for text in ("b", '"\\', "\U0001f600"):
        answer.draft.add_text(text)
        window.with_snapshot(answer.source)
    (second,) = send(window)
    assert second.growth is not None
    assert second.data == b'b\\"\\\\' + "\U0001f600".encode()
    assert (second.growth.part, second.growth.field, second.growth.at, second.growth.tail) == (0, "text", 1, b"")
    assert payload(reader.read(second))["parts"][0]["data"]["text"] == 'ab"\\\U0001f600'


def test_the_time_in_the_tail_is_sent_when_it_changes_and_parts_before_are_not_sent_again() -> None:
    window, answer, reader = new_window(), Answer(), SnapshotReader()
    assert isinstance(answer.clock, ManualClock)
    answer.draft.add_thinking("t" * 1000, 5)
    answer.draft.end_thinking(6)
    answer.draft.add_text("a")
    window.with_snapshot(answer.source)
    reader.read(*send(window))
    answer.draft.add_text("b")
    answer.clock.time += 1
    window.with_snapshot(answer.source)
    (event,) = send(window)
    assert event.growth is not None
    assert b'"updated_at":1001' in event.growth.tail
    assert len(event.growth.tail) < 300
    assert payload(reader.read(event))["updated_at"] == 1001


def test_an_event_that_was_not_sent_is_made_again_with_what_came_meanwhile() -> None:
    window, answer, reader = new_window(), Answer(), SnapshotReader()
    for text in "abc":
        answer.draft.add_text(text)
        window.with_snapshot(answer.source)
        window.next_batch(10, 100_000)
    reader.read(*send(window))
    for text in "def":
        answer.draft.add_text(text)
        window.with_snapshot(answer.source)
        window.next_batch(10, 100_000)
    (event,) = send(window)
    assert event.data == b"def"
    assert payload(reader.read(event))["parts"][0]["data"]["text"] == "abcdef"


def test_a_whole_is_sent_where_growth_would_not_fit() -> None:
    def is_whole(window: Window, answer: Answer) -> bool:
        answer.draft.add_text("x")
        window.with_snapshot(answer.source)
        (event,) = send(window)
        return event.growth is None

    window, answer = new_window(), Answer()
    assert is_whole(window, answer)
    assert not is_whole(window, answer)
    window.disconnected()
    window.connected(0, 100, takes_growth=True)
    assert is_whole(window, answer), "a new connection"
    window.unfit(["m", "unknown"])
    (again,) = send(window)
    assert again.growth is None, "the supervisor asked for it"
    assert not is_whole(window, answer)
    row = numbered_event(answer.draft.snapshot(), "updated", number=1, key="m")
    window.committed([row])
    assert send(window) == [row]
    assert is_whole(window, answer), "a numbered event made the snapshot void"
    answer.draft.reset()
    assert is_whole(window, answer), "the text is shorter"
    window = new_window(takes_growth=False)
    assert is_whole(window, answer)
    assert is_whole(window, answer), "a supervisor that cannot append"


def test_a_message_that_was_withdrawn_is_not_sent() -> None:
    window, answer = new_window(), Answer()
    answer.draft.add_text("a")
    window.with_snapshot(answer.source)
    window.withdraw("m")
    assert send(window) == []
    assert window.is_drained


def new_publisher(clock: Clock, batches: list[list[Event]], limits: Limits) -> Publisher:
    async def fetch(after: int, count: int) -> list[Event]:
        raise AssertionError("nothing is missing")

    def take(batch: list[Event]) -> bool:
        batches.append(batch)
        return True

    publisher = Publisher(limits=limits, clock=clock, log=logging.getLogger("bulkhead.test"))
    publisher.bind(send=take, fetch=fetch)
    publisher.connected(0, 100, takes_growth=True)
    return publisher


async def test_the_first_text_is_sent_at_once_and_later_text_with_the_next_interval() -> None:
    batches: list[list[Event]] = []
    publisher = new_publisher(SystemClock(), batches, Limits(snapshot_interval_s=3600.0))
    answer = Answer()
    answer.draft.add_text("a")
    publisher.grow(answer.source)
    await eventually(lambda: len(batches) == 1)
    answer.draft.add_text("b")
    publisher.grow(answer.source)
    answer.draft.add_text("c")
    publisher.grow(answer.source)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(batches) == 1
    publisher.hurry()
    await eventually(lambda: len(batches) == 2)
    assert [event.data for event in batches[1]] == [b"bc"]
    await publisher.close()


async def test_later_text_is_sent_without_a_further_call() -> None:
    batches: list[list[Event]] = []
    publisher = new_publisher(SystemClock(), batches, Limits(snapshot_interval_s=0.01))
    answer = Answer()
    for text in "ab":
        answer.draft.add_text(text)
        publisher.grow(answer.source)
        await asyncio.sleep(0)
    await eventually(lambda: len(batches) == 2)
    await publisher.close()
