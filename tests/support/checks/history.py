"""What clients did and saw, and what the files hold: the material of the judge."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One event as a client got it. `number` is 0 for snapshots and our own notices; `log` is "" without an id."""

    kind: str
    change: str
    payload: dict[str, Any]
    log: str = ""
    number: int = 0
    data: bytes = field(default=b"", repr=False)

    @property
    def is_base(self) -> bool:
        """No event, but the number after which the stream is complete."""
        return self.kind == "base"

    @property
    def is_reset(self) -> bool:
        """Does the stream go on from another place after this?"""
        return self.kind == "reset"


@dataclass
class Stream:
    """One client's view of a workspace, over all its connections. It began after number `after` (None: wherever the
    server was)."""

    name: str
    workspace: str
    after: int | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


@dataclass(frozen=True)
class SubmittedPrompt:
    """A prompt that some client sent, with the id it carries ("" for none)."""

    workspace: str
    session: str
    run_id: str


@dataclass
class ClientLog:
    """Everything that the clients of one house noted."""

    workspaces: dict[str, Path] = field(default_factory=dict)  # id -> data directory
    prompts: list[SubmittedPrompt] = field(default_factory=list)
    acknowledged: list[SubmittedPrompt] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def submitted(self, workspace: str, session: str, run_id: str) -> None:
        """A prompt is about to be sent."""
        self.prompts.append(SubmittedPrompt(workspace, session, run_id))

    def accepted(self, workspace: str, session: str, run_id: str) -> None:
        """A prompt was answered by 202."""
        self.acknowledged.append(SubmittedPrompt(workspace, session, run_id))


@dataclass(frozen=True)
class RunRow:
    """A run as the file has it."""

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
    """An event as the file has it."""

    number: int
    kind: str
    run_id: str
    data: bytes = field(default=b"", repr=False)


@dataclass
class Stored:
    """What one workspace's file holds."""

    workspace: str
    check: str = "ok"  # of PRAGMA quick_check
    log: str = ""
    runs: list[RunRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    messages: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> role, parts as JSON text
    order: list[str] = field(default_factory=list)  # message ids, oldest first
    sessions: frozenset[str] | None = None  # ids of those that were not deleted; None: nobody looked


def read_stored(workspace: str, data_dir: Path) -> Stored:
    """Read a workspace's file, read-only, from outside its owner."""
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
