"""Record what clients sent and received, and read what the database files contain, for the checks of a history."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One event as a client received it.

    `number` is 0 for snapshots and for events of the supervisor; `log` is "" without an id.
    """

    kind: str
    change: str
    payload: dict[str, Any]
    log: str = ""
    number: int = 0
    data: bytes = field(default=b"", repr=False)

    @property
    def is_base(self) -> bool:
        """Return whether this is not an event but the number after which the stream is complete."""
        return self.kind == "base"

    @property
    def is_reset(self) -> bool:
        """Return whether the stream continues from another number after this event."""
        return self.kind == "reset"


@dataclass
class Stream:
    """The events that one client received from a workspace, over all its connections.

    It began after number `after` (None: at the current number of the server).
    """

    name: str
    workspace: str
    after: int | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


@dataclass(frozen=True)
class SubmittedPrompt:
    """A prompt that a client sent, with the run id in the request ("" for none)."""

    workspace: str
    session: str
    run_id: str


@dataclass
class ClientLog:
    """The record of all clients of one test server."""

    workspaces: dict[str, Path] = field(default_factory=dict)  # id -> data directory
    prompts: list[SubmittedPrompt] = field(default_factory=list)
    acknowledged: list[SubmittedPrompt] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def submitted(self, workspace: str, session: str, run_id: str) -> None:
        """Record that a prompt is about to be sent."""
        self.prompts.append(SubmittedPrompt(workspace, session, run_id))

    def accepted(self, workspace: str, session: str, run_id: str) -> None:
        """Record that a prompt was answered with 202."""
        self.acknowledged.append(SubmittedPrompt(workspace, session, run_id))


@dataclass(frozen=True)
class RunRow:
    """A stored run."""

    id: str
    session_id: str
    state: str
    outcome: str
    message_id: str = ""
    folded_into: str = ""
    cause: str = ""
    kind: str = "prompt"


@dataclass(frozen=True)
class EventRow:
    """A stored event."""

    number: int
    kind: str
    run_id: str
    data: bytes = field(default=b"", repr=False)


@dataclass
class Stored:
    """The content of the database file of one workspace."""

    workspace: str
    check: str = "ok"  # result of PRAGMA quick_check
    log: str = ""
    runs: list[RunRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    messages: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> role, parts as JSON text
    order: list[str] = field(default_factory=list)  # message ids, oldest first
    sessions: frozenset[str] | None = None  # ids of the stored sessions; None: not read


def read_stored(workspace: str, data_dir: Path) -> Stored:
    """Read the file of a workspace, read-only, from outside the worker that owns it."""
    connection = sqlite3.connect(f"file:{data_dir / 'workspace.db'}?mode=ro", uri=True, timeout=5.0)
    try:
        check = "; ".join(row[0] for row in connection.execute("PRAGMA quick_check"))
        log = connection.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()
        runs = connection.execute(
            "SELECT id, session_id, state, outcome, message_id, folded_into, cause, kind FROM runs ORDER BY accept_seq"
        )
        events = connection.execute("SELECT number, kind, run_id, data FROM events ORDER BY number")
        messages = connection.execute("SELECT id, role, parts FROM messages ORDER BY seq").fetchall()
        return Stored(
            workspace=workspace,
            check=check,
            log=log[0] if log else "",
            runs=[RunRow(*row) for row in runs],
            events=[EventRow(number, kind, run_id, bytes(data)) for number, kind, run_id, data in events],
            messages={mid: (role, bytes(parts).decode()) for mid, role, parts in messages},
            order=[mid for mid, _, _ in messages],
            sessions=frozenset(row[0] for row in connection.execute("SELECT id FROM sessions")),
        )
    finally:
        connection.close()
