"""Run the parts of a worker without its process: real database, dispatcher, turns, and a model led by the test."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from protocol.api.agent import Prompt
from protocol.api.message import FinishReason, Message, TextPart
from protocol.api.provider import Model
from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.base.tasks import TaskOwner
from protocol.events import Event
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.harness.store import StoreListener, open_database
from tests.support.rules_gate import RulesGate
from tests.support.snapshot_reader import SnapshotReader
from worker.agent.turn import Turn
from worker.events.publisher import Publisher
from worker.models.client import (
    Finished,
    ModelClient,
    ModelEvent,
    ModelRequest,
    TextDelta,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.permissions.rules import Rules
from worker.processes.child import ChildProcesses
from worker.runs.dispatcher import Dispatcher
from worker.runs.drain import Drain
from worker.runs.recovery import Recovered, recover
from worker.runs.run_end import EndWriter, MessageAuthor, RunFinisher
from worker.runs.run_services import RunServices
from worker.runs.session_queue import AcceptCounter
from worker.runs.titles import Titles
from worker.store.database import Database, Transaction
from worker.store.rows import StoredRun
from worker.store.tables import messages, runs, sessions
from worker.store.tables.read_files import StoredFileLedger
from worker.toolkit.tool import ToolContext
from worker.toolkit.toolbox import Toolbox

LOG = logging.getLogger("bulkhead.test")


class SteeredModel:
    """A model that announces each request and then streams what the test sends."""

    model = Model(id="led", name="Led", context_window=100_000)
    provider_id = "test"
    is_flat_rate = True

    def __init__(self) -> None:
        self.requests: asyncio.Queue[ModelRequest] = asyncio.Queue()
        self.script: asyncio.Queue[ModelEvent | BaseException] = asyncio.Queue()
        self.closed = 0
        self.running = 0
        self.running_max = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        self.requests.put_nowait(request)
        try:
            while True:
                event = await self.script.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.running -= 1
            self.closed += 1

    def say(self, text: str) -> None:
        """Stream some text; the request continues."""
        self.script.put_nowait(TextDelta(text))

    def call(self, call_id: str, name: str, text: str = "{}") -> None:
        """Stream a whole tool call."""
        self.script.put_nowait(ToolCallStart(call_id, name))
        self.script.put_nowait(ToolCallEnd(call_id, text))

    def finish(self, reason: FinishReason = "end_turn") -> None:
        """End the request."""
        self.script.put_nowait(Finished(reason, Tokens(input=3, output=2)))

    def answer(self, text: str) -> None:
        """Stream a whole answer."""
        self.say(text)
        self.finish()

    async def asked(self) -> ModelRequest:
        """Wait for the next request and return it."""
        return await self.requests.get()


@dataclass
class WorkerHarness:
    """The parts of one workspace, with shortcuts for tests."""

    database: Database
    dispatcher: Dispatcher
    drain: Drain
    model: SteeredModel
    listener: StoreListener
    recovered: Recovered
    shown: list[Event] = field(default_factory=list)
    """The whole snapshots that clients would get."""

    async def session(self, name: str = "s1", title: str = "named") -> str:
        """Make a session."""
        session = Session(id=name, title=title, created_at=1, updated_at=1)
        await self.database.write(lambda transaction: sessions.create(transaction.connection, session))
        return name

    async def submit(self, prompt: str, run_id: str = "", session_id: str = "s1") -> str:
        """Send a prompt; return its run id."""
        return await self.dispatcher.submit(Prompt(session_id=session_id, run_id=run_id, prompt=prompt))

    async def run(self, run_id: str) -> StoredRun:
        """Return the row of a run."""
        row = await self.database.read(lambda connection: runs.get(connection, run_id))
        assert row is not None
        return row

    async def ended(self, run_id: str) -> StoredRun:
        """Wait until a run has ended and return its row."""
        while (run := await self.run(run_id)).state != "ended":  # noqa: ASYNC110
            await asyncio.sleep(0)  # each read is a round trip to the database thread, so this does not spin
        return run

    async def rows(self, session_id: str = "s1") -> list[Message]:
        """Return the rows of the conversation."""
        return await self.database.read(lambda connection: messages.of_session(connection, session_id))

    async def outline(self, session_id: str = "s1") -> list[str]:
        """Return the conversation in short: `user hello`, `assistant hi [end_turn]`, `tool result:ID`."""
        return [outline(row) for row in await self.rows(session_id)]

    def completes(self) -> list[dict[str, Any]]:
        """Return the payloads of all terminal events committed so far."""
        return [payload(event) for event in self.listener.events if event.kind == "run_complete"]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all numbered events of a kind."""
        return [payload(event) for event in self.listener.events if event.kind == kind]


async def until(check: Callable[[], bool]) -> None:
    """Yield to the loop until `check` holds; bounded by the deadline of the test."""
    while not check():  # noqa: ASYNC110
        await asyncio.sleep(0)


def payload(event: Event) -> dict[str, Any]:
    """Return the innermost object of an event."""
    decoded: dict[str, Any] = msgspec.json.decode(event.data)["payload"]["payload"]
    return decoded


def outline(row: Message) -> str:
    """Return a row in short."""
    words: list[str] = [row.role]
    for part in msgspec.to_builtins(row.parts):
        data = part["data"]
        match part["type"]:
            case "text":
                words.append(data["text"])
            case "tool_call":
                words.append(f"call:{data['id']}:{data['input']}")
            case "tool_result":
                words.append(f"{'error' if data['is_error'] else 'result'}:{data['tool_call_id']}")
            case "finish" if row.role == "assistant":
                words.append(f"[{data['reason']}]")
    return " ".join(words)


def texts(request: ModelRequest) -> list[str]:
    """Return the text parts of all messages in a request."""
    return [part.data.text for row in request.messages for part in row.parts if isinstance(part, TextPart)]


@asynccontextmanager
async def open_worker_harness(
    path: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    toolbox: Toolbox | None = None,
    title_models: Sequence[ModelClient] = (),
    before: Callable[[Transaction], None] | None = None,
) -> AsyncGenerator[WorkerHarness, None]:
    """Open a harness on the directory `path`. `before` writes to the database before recovery reads it."""
    listener = StoreListener()
    shown: list[Event] = []
    reader = SnapshotReader()
    clock, source = SystemClock(), random.Random(7)
    database = await open_database(path / "workspace.db", listener, limits)
    if before is not None:
        await database.write(before)
    writer = EndWriter(clock, source, lambda: MessageAuthor("led", "test"))
    recovered = await recover(database, writer, limits)
    children = ChildProcesses(limits=limits, clock=clock, log=LOG, random=source)
    files = StoredFileLedger(database, clock)
    model = SteeredModel()
    drain = Drain()

    async def make_turn(run: StoredRun, transcript: Any) -> Turn:
        def context(call: Any, message_id: str) -> ToolContext:
            return ToolContext(
                workspace=path,
                session_id=run.session_id,
                run_id=run.id,
                message_id=message_id,
                tool_call_id=call.id,
                env={"PATH": "/usr/bin:/bin"},
                limits=limits,
                clock=clock,
                children=children,
                files=files,
                gate=RulesGate(Rules(skip=True)),
            )

        return Turn(
            model=model,
            toolbox=toolbox or Toolbox([]),
            tool_context=context,
            transcript=transcript,
            system_prompt="test",
            limits=limits,
            clock=clock,
            log=LOG,
        )

    async def fetch(after: int, count: int) -> list[Event]:
        raise AssertionError("no numbered event is sent by this publisher")

    def show(events: list[Event]) -> bool:
        shown.extend(reader.read(event) for event in events)
        return True

    publisher = Publisher(limits=limits, clock=clock, log=LOG)
    publisher.bind(send=show, fetch=fetch)
    publisher.connected(0, 0, takes_growth=True)
    dispatcher = Dispatcher(
        RunServices(
            database=database,
            publisher=publisher,
            owner=TaskOwner("runs", LOG),
            limits=limits,
            clock=clock,
            random=source,
            log=LOG,
        ),
        finisher=RunFinisher(database=database, writer=writer, log=LOG, on_fatal=listener.fatal.append),
        make_turn=make_turn,
        name_session=Titles(database=database, models=lambda: title_models, limits=limits, clock=clock, log=LOG).name,
        drain=drain,
        counter=AcceptCounter(recovered.last_accept_seq),
    )
    try:
        yield WorkerHarness(database, dispatcher, drain, model, listener, recovered, shown)
    finally:
        await dispatcher.close(5)
        await publisher.close()
        await children.close()
        await database.close(5)
