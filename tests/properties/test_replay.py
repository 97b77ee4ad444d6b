"""Random facts for the clients of one log, compared with a model that keeps all events."""

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.events import Event, EventId
from supervisor.events.replay import ReplayLog
from supervisor.events.stream import ClientStream, StreamState

KEYS = ["m1", "m2", ""]
_NUMBER = re.compile(rb'data: \{"n":(\d+)\}')
_SNAPSHOT = re.compile(rb'data: \{"p":"(\w+)","v":(\d+)\}')
_RESET = re.compile(rb'"type":"reset".*"cursor":"(\w+)\.(\d+)"')


class ModelClient:
    """Model of a client: it must get the numbers after `last_number`, each once, and only newer snapshots."""

    def __init__(self, stream: ClientStream, last_number: int, log_id: str) -> None:
        self.stream = stream
        self.last_number = last_number
        self.log_id = log_id
        self.snapshots: dict[str, int] = {}


class ClientsUnderFacts(RuleBasedStateMachine):
    """Commits events, opens and reads streams, and checks each block that a client gets."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ReplayLog(kept=6, kept_bytes=600, behind_max=10, behind_max_bytes=1000, snapshot_max_bytes=10_000)
        self.generation = 0
        self.stored: list[Event] = []  # in the worker's database
        self.keys: dict[int, str] = {}
        self.version = 0
        self.open: list[ModelClient] = []
        self.log.opened("log0", 0)

    @property
    def log_id(self) -> str:
        return f"log{self.generation}"

    @rule(key=st.sampled_from(KEYS), size=st.sampled_from([0, 0, 0, 300]))
    def commit(self, key: str, size: int) -> None:
        number = len(self.stored) + 1
        event = Event(kind="message", data=b'{"n":%d}' % number + b" " * size, number=number, key=key)
        self.stored.append(event)
        self.keys[number] = key
        self.log.added(event)
        self.trim()

    def trim(self) -> None:
        positions = [it.stream.position for it in self.open if it.stream.is_reading]
        self.log.trim(min(positions, default=self.log.end))

    @rule(key=st.sampled_from(KEYS[:2]))
    def snapshot(self, key: str) -> None:
        self.version += 1
        self.log.snapshots.replace(
            Event(kind="message", data=b'{"p":"%b","v":%d}' % (key.encode(), self.version), key=key)
        )

    @rule()
    def supervisor_event(self) -> None:
        self.log.remarked(b'data: {"type":"workspace_state"}\n\n')
        self.trim()

    @rule(back=st.integers(-2, 12), same=st.booleans(), wants_ids=st.booleans(), has_cursor=st.booleans())
    @precondition(lambda self: len(self.open) < 6)
    def open_client(self, back: int, same: bool, wants_ids: bool, has_cursor: bool) -> None:
        last = len(self.stored)
        cursor = None
        if wants_ids and has_cursor:
            cursor = EventId(self.log_id if same else "other", max(0, last - back))
        stream = ClientStream(
            self.log,
            cursor=cursor,
            cursor_is_bad=False,
            wants_ids=wants_ids,
            wants_deltas=False,
            known_to=last,
            preamble=b"",
        )
        can_serve = cursor is not None and cursor.log_id == self.log_id and cursor.number <= last
        assert cursor is None or can_serve or stream.state is StreamState.LIVE
        last_number = cursor.number if cursor is not None and can_serve else last
        self.open.append(ModelClient(stream, last_number, self.log_id))

    @rule(index=st.integers(0, 5), times=st.integers(1, 3))
    @precondition(lambda self: self.open)
    def read(self, index: int, times: int) -> None:
        client = self.open[index % len(self.open)]
        for _ in range(times):
            self.check_blocks(client, client.stream.take())

    @rule(index=st.integers(0, 5), count=st.integers(1, 4))
    @precondition(lambda self: self.open)
    def page(self, index: int, count: int) -> None:
        client = self.open[index % len(self.open)]
        if (cursor := client.stream.wants_page) is None:
            return
        assert cursor == EventId(self.log_id, client.last_number)
        page = self.stored[cursor.number :][:count]
        assert client.stream.paged(cursor, page, len(self.stored))

    @rule(lost=st.integers(0, 3))
    def replace_log(self, lost: int) -> None:
        self.generation += 1
        del self.stored[len(self.stored) - min(lost, len(self.stored)) :]
        self.log.opened(self.log_id, len(self.stored))
        for client in self.open:
            client.stream.reset("replaced")
            if not client.stream.wants_ids:
                assert client.stream.is_over

    @rule(index=st.integers(0, 5))
    @precondition(lambda self: self.open)
    def close_client(self, index: int) -> None:
        self.open.pop(index % len(self.open)).stream.close()

    def check_blocks(self, client: ModelClient, text: bytes) -> None:
        for block in text.split(b"\n\n")[:-1]:
            if (match := _RESET.search(block)) is not None:
                assert match[1].decode() == block.split(b".")[0].removeprefix(b"id: ").decode()
                client.last_number, client.log_id = int(match[2]), match[1].decode()
                client.snapshots.clear()
            elif (match := _NUMBER.search(block)) is not None:
                number = int(match[1])
                assert number == client.last_number + 1, "a gap, a duplicate or another order"
                assert block.startswith(b"id: ") == client.stream.wants_ids
                client.last_number = number
            elif (match := _SNAPSHOT.search(block)) is not None:
                key, version = match[1].decode(), int(match[2])
                assert version > client.snapshots.get(key, 0), "an older snapshot, or the same again"
                client.snapshots[key] = version
            else:
                assert client.stream.wants_ids

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.log.end - self.log.start <= 10
        assert self.log.kept_bytes <= 1000 + 4 * 400

    def teardown(self) -> None:
        """Check that each client that is still open has got all events."""
        for client in self.open:
            for _ in range(200):
                self.check_blocks(client, client.stream.take())
                if (cursor := client.stream.wants_page) is not None:
                    client.stream.paged(cursor, self.stored[cursor.number :][:3], len(self.stored))
            if not client.stream.is_over:
                assert client.last_number == len(self.stored)
                assert client.log_id == self.log_id


ClientsUnderFacts.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestClients = ClientsUnderFacts.TestCase
