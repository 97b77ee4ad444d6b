"""A growing message from its draft to clients: every client ends with the message, and text only shrinks by a reset."""

import json
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from protocol.api.message import Message, TextPart
from protocol.base.clock import SystemClock
from protocol.events import Event, EventId, numbered_event
from supervisor.events.replay import ReplayLog
from supervisor.events.stream import ClientStream
from tests.support.clients.delta_reader import DeltaReader
from worker.agent.message_draft import MessageDraft
from worker.events.window import Window
from worker.runs.growing_message import GrowingMessage

PIECES = st.sampled_from(["a", "bc ", "\n", '"', "\\", "é", "\u2028", "\U0001f600", "\x01", "</"])

FATES = st.sampled_from(["sent", "sent", "sent", "kept", "lost", "refused"])

OTHERS = ["thinking ends", "call", "retry", "end", "second", "second", "reconnect", "forget", "publish", "publish"]


class FixedClock(SystemClock):
    """A clock whose wall time the test moves."""

    def __init__(self) -> None:
        self.second = 1_000

    def wall(self) -> float:
        return float(self.second)


class Client:
    """One client of the log, and the text that it has seen of each message."""

    def __init__(self, log: ReplayLog, known_to: int, *, wants_ids: bool, wants_deltas: bool, back: int | None) -> None:
        cursor = EventId(log.log_id, max(0, known_to - back)) if wants_ids and back is not None else None
        self.wants_deltas = wants_deltas
        self.stream = ClientStream(
            log, cursor=cursor, cursor_is_bad=False, wants_ids=wants_ids, wants_deltas=wants_deltas, known_to=known_to
        )
        self.reader = DeltaReader()

    def read(self, shrinks: int) -> None:
        """Take all that is there. The text must not be shorter than before, unless the draft was reset meanwhile."""
        while text := self.stream.take():
            for block in text.decode().split("\n\n"):
                for line in block.split("\n"):
                    if line.startswith("data: "):
                        self._take(json.loads(line[6:]), shrinks)

    def _take(self, event: dict[str, Any], shrinks: int) -> None:
        before = {key: _text(message) for key, message in self.reader.messages.items()}
        self.reader.take(event)
        assert event["type"] != "message_delta" or self.wants_deltas
        for key, message in self.reader.messages.items():
            assert shrinks or len(_text(message)) >= len(before.get(key, "")), event
        assert not self.reader.skipped, "a client that reads in order misses no delta"


def _text(message: dict[str, Any]) -> str:
    return "".join(part["data"].get("text", "") + part["data"].get("thinking", "") for part in message["parts"])


class Growing(RuleBasedStateMachine):
    """Streams an answer into a draft, loses events and connections, and lets clients of all kinds follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FixedClock()
        self.log = ReplayLog(
            kept=50, kept_bytes=100_000, behind_max=50, behind_max_bytes=100_000, snapshot_max_bytes=100_000
        )
        self.log.opened("log", 0)
        self.window = Window(count_max=100, bytes_max=1_000_000)
        self.window.connected(0, 1000, takes_growth=True)
        self.stored: list[Event] = []
        self.clients: list[Client] = []
        self.shrinks = 0  # resets of the draft
        self.calls = 0
        self.answers = 0
        self.begin()

    def begin(self) -> None:
        self.answers += 1
        row = Message(id=f"m{self.answers}", session_id="s$$1", role="assistant", parts=[])
        self.draft = MessageDraft(row)
        self.source = GrowingMessage(self.draft, run_id="r", clock=self.clock)

    def commit(self, message: Message) -> None:
        self.window.withdraw(message.id)
        event = numbered_event(message, "updated", number=len(self.stored) + 1, key=message.id)
        self.stored.append(event)
        self.window.committed([event])

    @rule(texts=st.lists(PIECES, min_size=1, max_size=3), is_thinking=st.booleans(), fate=FATES)
    def grow(self, texts: list[str], is_thinking: bool, fate: str) -> None:
        """Add text with the kind that grew last, or with the other one, and send it or not."""
        for text in texts:
            if is_thinking:
                self.draft.add_thinking(text, self.clock.second)
            else:
                self.draft.add_text(text)
        self.window.with_snapshot(self.source)
        match fate:
            case "sent":
                self.pass_batch(is_lost=False)
            case "lost":
                self.pass_batch(is_lost=True)
            case "refused":
                self.window.next_batch(100, 100_000)  # the socket takes nothing, so it is made again
        if fate == "sent":
            self.check_log()

    def check_log(self) -> None:
        """The log has the draft as it is now."""
        text = self.log.snapshots.text(0, wants_ids=False, wants_deltas=True)
        message = replace(self.draft.snapshot_around(self.draft.growing_text), updated_at=self.clock.second)
        reader = DeltaReader()
        for line in text.decode().split("\n"):
            if line:
                reader.take(json.loads(line.removeprefix("data: ")))
        seen, expected = reader.messages[message.id], msgspec.to_builtins(message)
        if reader.deltas:  # they do not report the time
            del seen["updated_at"], expected["updated_at"]
        assert seen == expected
        self.log.snapshots.publish()
        whole = self.log.snapshots.text(self.log.snapshots.version - 1, wants_ids=False, wants_deltas=False)
        assert json.loads(whole.removeprefix(b"data: "))["payload"]["payload"] == msgspec.to_builtins(message)

    @rule(kind=st.sampled_from(OTHERS))
    def other(self, kind: str) -> None:
        """Let something else than growth happen. These are one rule, so that growth is frequent."""
        match kind:
            case "thinking ends":
                if self.draft.end_thinking(self.clock.second, signature="s"):
                    self.commit(self.draft.snapshot())
            case "call":
                self.calls += 1
                self.draft.start_tool_call(f"c{self.calls}", "ls")
                self.commit(self.draft.snapshot())
            case "retry":
                self.retry()
            case "end":
                self.end()
            case "second":
                self.clock.second += 1
            case "reconnect":
                self.window.disconnected()
                self.window.connected(self.log.last, 1000, takes_growth=True)
                self.window.filled(self.stored[self.log.last :])
            case "forget":
                self.log.snapshots.clear()
            case "publish":
                self.log.snapshots.publish()

    def retry(self) -> None:
        self.shrinks += 1
        had_calls = bool(self.draft.calls)
        self.draft.reset()
        if had_calls:
            self.commit(self.draft.snapshot())
        else:
            self.window.with_snapshot(self.source)

    def end(self) -> None:
        self.draft.finish("end_turn", self.clock.second)
        self.commit(self.draft.snapshot())
        self.begin()

    @rule(wants_ids=st.booleans(), wants_deltas=st.booleans(), back=st.one_of(st.none(), st.integers(0, 5)))
    @precondition(lambda self: len(self.clients) < 6)
    def open_client(self, wants_ids: bool, wants_deltas: bool, back: int | None) -> None:
        client = Client(self.log, self.log.last, wants_ids=wants_ids, wants_deltas=wants_deltas, back=back)
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(index=st.integers(0, 5))
    def read(self, index: int) -> None:
        self.clients[index % len(self.clients)].read(self.shrinks)

    def pass_batch(self, *, is_lost: bool) -> None:
        while batch := self.window.next_batch(100, 100_000):
            self.window.went(batch)
            unfit: list[str] = []
            for event in msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=list[Event]):
                if event.number:
                    if event.number == self.log.last + 1:
                        self.log.added(event)
                elif is_lost:
                    continue
                elif event.growth is None:
                    self.log.snapshots.replace(event)
                elif not self.log.snapshots.grow(event):
                    unfit.append(event.key)
            self.window.unfit(unfit)

    @invariant()
    def all_clients_can_catch_up(self) -> None:
        for client in self.clients:
            assert not client.stream.is_over

    def teardown(self) -> None:
        """After one more piece of text, sent twice at most, and after the end, everyone has the message."""
        for _ in range(2):
            self.draft.add_text("x")
            self.window.with_snapshot(self.source)
            self.pass_batch(is_lost=False)
        self.log.snapshots.publish()
        for client in self.clients:
            client.read(self.shrinks)
            shown = self.draft.snapshot_around(self.draft.growing_text)
            part = next(part for part in shown.parts if isinstance(part, TextPart))
            seen = client.reader.messages[self.draft.message_id]
            assert [each["data"]["text"] for each in seen["parts"] if each["type"] == "text"] == [part.data.text]
        last = self.draft.message_id
        self.end()
        self.pass_batch(is_lost=False)
        final = json.loads(self.stored[-1].data)["payload"]["payload"]
        for client in self.clients:
            client.read(self.shrinks)
            assert client.reader.messages[last] == final


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
