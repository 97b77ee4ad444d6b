"""Snapshots that grow: wholes and deltas, clients at different versions, and what does not fit."""

import json
from typing import Any

from protocol.api.message import Message
from protocol.base.clock import SystemClock
from protocol.events import Event
from supervisor.events.snapshots import DELTAS_MAX, SNAPSHOTS_MAX, Snapshots
from tests.support.clients.delta_reader import DeltaReader
from worker.agent.message_draft import MessageDraft
from worker.runs.growing_message import GrowingMessage

MAX = 1_000_000


class Sender:
    """Sends a growing message to the snapshots of a workspace."""

    def __init__(self, snapshots: Snapshots, key: str = "m") -> None:
        self.snapshots = snapshots
        self.draft = MessageDraft(Message(id=key, session_id="s", role="assistant", parts=[]))
        self.source = GrowingMessage(self.draft, run_id="r", clock=SystemClock())
        self.is_known = False

    def event(self, text: str) -> Event:
        self.draft.add_text(text)
        event = self.source.next_event(may_grow=self.is_known)
        self.source.sent()
        self.is_known = True
        return event

    def send(self, text: str) -> bool:
        event = self.event(text)
        if event.growth is not None:
            return self.snapshots.grow(event)
        self.snapshots.replace(event)
        return True


def events_of(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.decode().split("\n\n") if line]


def deltas(snapshots: Snapshots, after: int) -> list[dict[str, Any]]:
    return events_of(snapshots.text(after, wants_ids=False, wants_deltas=True))


def wholes(snapshots: Snapshots, after: int) -> bytes:
    return snapshots.text(after, wants_ids=False, wants_deltas=False)


def test_clients_at_different_versions_get_the_deltas_that_they_miss() -> None:
    snapshots = Snapshots(bytes_max=MAX)
    sender = Sender(snapshots)
    versions = []
    for text in ("a", "ü", '"', "\U0001f600", "e"):
        assert sender.send(text)
        versions.append(snapshots.version)
    assert [event["type"] for event in deltas(snapshots, 0)] == ["message"]
    payloads = [event["payload"]["payload"] for event in deltas(snapshots, versions[0])]
    assert [(it["at"], it["text"]) for it in payloads] == [(1, "ü"), (2, '"'), (3, "\U0001f600"), (4, "e")]
    assert payloads[0] == {
        "message_id": "m",
        "session_id": "s",
        "run_id": "r",
        "part": 0,
        "field": "text",
        "at": 1,
        "text": "ü",
    }
    assert [event["payload"]["payload"]["text"] for event in deltas(snapshots, versions[3])] == ["e"]
    assert deltas(snapshots, versions[4]) == []


def test_a_whole_is_made_once_for_all_clients_and_only_when_it_is_published() -> None:
    snapshots = Snapshots(bytes_max=MAX)
    sender = Sender(snapshots)
    sender.send("a")
    seen = snapshots.version
    sender.send("b")
    assert snapshots.has_unpublished
    assert wholes(snapshots, seen) == b""
    assert snapshots.publish() == len(wholes(snapshots, 0)) - len(b"data: \n\n")
    assert not snapshots.has_unpublished
    text = wholes(snapshots, seen)
    assert json.loads(text[6:])["payload"]["payload"]["parts"][0]["data"]["text"] == "ab"
    assert wholes(snapshots, seen) is text
    assert wholes(snapshots, snapshots.version) == b""


def test_growth_without_the_snapshot_that_it_continues_is_refused() -> None:
    snapshots = Snapshots(bytes_max=MAX)
    sender = Sender(snapshots)
    sender.event("never arrives")
    assert not sender.send("b"), "there is no snapshot"
    sender.is_known = False
    assert sender.send("c")
    sender.event("lost")
    assert not sender.send("d"), "an event is missing before this one"
    snapshots.remove("m")
    assert not sender.send("e"), "a numbered event made it void"
    snapshots.replace(Event(kind="lsp_event", data=b"{}", key="m"))
    assert not sender.send("f"), "it cannot grow"


def test_a_snapshot_does_not_grow_above_the_limit_and_never_breaks_a_line() -> None:
    snapshots = Snapshots(bytes_max=500)
    sender = Sender(snapshots)
    assert sender.send("a")
    assert not sender.send("b" * 400)
    sender = Sender(snapshots, "n")
    sender.send("a")
    event = sender.event("b")
    broken = Event(kind="message", data=b"\n\ndata: {}", key="n", growth=event.growth)
    assert not snapshots.grow(broken)
    assert snapshots.grow(event)


def test_a_client_that_is_far_behind_gets_the_whole_message() -> None:
    snapshots = Snapshots(bytes_max=MAX)
    sender = Sender(snapshots)
    sender.send("a")
    seen = snapshots.version
    for _ in range(DELTAS_MAX + 10):
        sender.send("b")
    events = deltas(snapshots, seen)
    assert [event["type"] for event in events] == ["message"]
    reader = DeltaReader()
    reader.take(events[0])
    seen = snapshots.version
    sender.send("c")
    for event in deltas(snapshots, seen):
        reader.take(event)
    part = reader.messages["m"]["parts"][0]
    assert part["data"]["text"] == sender.draft.text


def test_the_oldest_snapshot_is_dropped_when_there_are_too_many() -> None:
    snapshots = Snapshots(bytes_max=MAX)
    first, second = Sender(snapshots, "first"), Sender(snapshots, "second")
    first.send("a")
    second.send("a")
    for number in range(SNAPSHOTS_MAX - 1):
        snapshots.replace(Event(kind="lsp_event", data=b"{}", key=str(number)))
        assert second.send("b")
    assert not first.send("b")
    assert second.send("c")
