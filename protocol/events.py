"""Define the events that clients see of a workspace, and the table of their kinds.

A numbered event is a row of the workspace's event log: stored in the same transaction as the change that it reports,
replayable, numbered without holes. An event without a number (number 0) is a snapshot of something that is still
growing or changing: a newer snapshot with the same `key` replaces it, and a numbered event with that key makes it void.
An event with a `growth` has no number either: it appends to the snapshot of its key that was sent before it.

`data` is the finished JSON envelope of the HTTP API, `{"type", "payload": {"type", "payload"}}`, on one line. Between
the worker that makes it and the client no process parses it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import msgspec

from protocol.api.agent import AgentEvent, RunComplete
from protocol.api.config import ConfigChanged
from protocol.api.envelope import Change, StreamReset
from protocol.api.file import FileVersion
from protocol.api.lsp import LspEvent
from protocol.api.mcp import McpEvent
from protocol.api.message import GrowingField, Message, MessageDelta
from protocol.api.permission import PermissionNotification, PermissionRequest, QuestionNotification, QuestionRequest
from protocol.api.services import SkillsChanged
from protocol.api.session import Session
from protocol.api.workspace import WorkspaceState
from protocol.ids import RunId, SessionId


class Growth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an event appends to a snapshot. The event's `data` is the appended text, escaped for a JSON string.

    The snapshot is the message whose id is the event's `key`. `part` and `field` name its only string that grows, and
    `at` is the length of that string before, in Unicode code points.
    """

    base: int  # bytes of the snapshot before its tail; one with another length is not what this continues
    part: int
    field: GrowingField
    at: int
    tail: bytes = b""  # the new tail; empty if it is unchanged


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of one workspace."""

    kind: str  # the outer type of the envelope, a key of `EVENTS`
    data: bytes
    tail_bytes: int = 0  # of a snapshot that may grow: how much of `data` comes after the growing text
    growth: Growth | None = None
    number: int = 0
    key: str = ""  # what the event is about (a message id, a server's name)
    session_id: SessionId = SessionId("")
    run_id: RunId = RunId("")

    @property
    def is_snapshot(self) -> bool:
        """Return whether this event has no number: it is a snapshot, or the growth of one."""
        return self.number == 0


class Delivery(Enum):
    """How the events of a kind reach clients, and where one may be dropped. The values are the words of the docs."""

    # Stored before it is sent. Worker and supervisor may drop it from memory and read it from the log again.
    NUMBERED = "numbered"
    # Not stored. Worker and supervisor keep the newest of each key, and drop the oldest when there are too many.
    SNAPSHOT = "snapshot"
    # Each stored change is numbered; snapshots show how the next one grows.
    NUMBERED_AND_SNAPSHOT = "numbered, and snapshots in between"
    # Made by the supervisor, without a number: neither stored nor replayed.
    SUPERVISOR = "by the supervisor"
    # Known to the Crush client and never sent by Bulkhead.
    NEVER = "never sent"

    @property
    def is_numbered(self) -> bool:
        """Return whether events of this kind may be stored with a number."""
        return self in (Delivery.NUMBERED, Delivery.NUMBERED_AND_SNAPSHOT)

    @property
    def has_snapshots(self) -> bool:
        """Return whether events of this kind may be sent without being stored."""
        return self in (Delivery.SNAPSHOT, Delivery.NUMBERED_AND_SNAPSHOT)


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row of `EVENTS`. `changes` are the inner types that its events may have."""

    name: str
    payload: type[msgspec.Struct] | None  # None only where nothing is ever sent
    changes: tuple[Change, ...]
    summary: str
    delivery: Delivery = Delivery.NUMBERED
    needs: Literal["", "ids", "deltas"] = ""  # the query parameter by which a stream asks for this kind

    @property
    def is_own(self) -> bool:
        """Return whether only streams that asked for it get this kind: the Crush client does not know it."""
        return bool(self.needs)


_CREATED: tuple[Change, ...] = ("created",)
_UPDATED: tuple[Change, ...] = ("updated",)
_ALL: tuple[Change, ...] = ("created", "deleted", "updated")

EVENTS: Mapping[str, EventKind] = {
    row.name: row
    for row in (
        EventKind("agent_event", AgentEvent, _CREATED, "The agent finished, failed, or waits before it tries again"),
        EventKind("config_changed", ConfigChanged, _UPDATED, "The configuration was changed"),
        EventKind("file", FileVersion, _CREATED, "A version of a file that a session changed"),
        EventKind("lsp_event", LspEvent, _UPDATED, "State or diagnostics of a language server", Delivery.SNAPSHOT),
        EventKind("mcp_event", McpEvent, _UPDATED, "State or lists of an MCP server", Delivery.SNAPSHOT),
        EventKind(
            "message", Message, _ALL, "A message of a session, as it is now", delivery=Delivery.NUMBERED_AND_SNAPSHOT
        ),
        EventKind(
            "message_delta",
            MessageDelta,
            _UPDATED,
            "Text to append to a message, instead of a snapshot of the whole message",
            delivery=Delivery.SUPERVISOR,
            needs="deltas",
        ),
        EventKind(
            "permission_notification",
            PermissionNotification,
            _CREATED,
            "The state of a tool call's permission: granted, denied, or (with neither) waiting",
        ),
        EventKind("permission_request", PermissionRequest, _CREATED, "A request for permission that waits"),
        EventKind("question_batch_notification", QuestionNotification, _CREATED, "A batch of questions is closed"),
        EventKind("question_batch_request", QuestionRequest, _CREATED, "A batch of questions that waits"),
        EventKind(
            "reset",
            StreamReset,
            _UPDATED,
            "Events are missing: load everything again and continue from `cursor`",
            delivery=Delivery.SUPERVISOR,
            needs="ids",
        ),
        EventKind("run_complete", RunComplete, _UPDATED, "The end of a run, exactly once for each run"),
        EventKind("session", Session, _ALL, "A session, as it is now"),
        EventKind("skills_event", SkillsChanged, _UPDATED, "Other skills than before were found"),
        EventKind("update_available", None, _UPDATED, "A newer version of the client exists", delivery=Delivery.NEVER),
        EventKind(
            "workspace_state",
            WorkspaceState,
            _UPDATED,
            "The state of the workspace and its worker",
            delivery=Delivery.SUPERVISOR,
            needs="ids",
        ),
    )
}
"""Every kind of event by its name, the outer type of the envelope."""

_BY_PAYLOAD = {row.payload: row for row in EVENTS.values() if row.payload is not None}

MARK_KIND = "log_mark"
"""Internal, never sent to clients: informs the hub that the log goes at least up to this number, when no event did."""

_encoder = msgspec.json.Encoder()


def numbered_event(
    payload: msgspec.Struct,
    change: Change | None = None,
    *,
    number: int,
    key: str = "",
    session_id: str = "",
    run_id: str = "",
) -> Event:
    """Make an event for the log. Raises ValueError as `event_data`, and for a kind that has no numbers."""
    row = _row(payload)
    if not row.delivery.is_numbered:
        raise ValueError(f"cannot number an event of kind {row.name}: its delivery is {row.delivery.value!r}")
    return _event(row, payload, change, number, key, session_id, run_id)


def snapshot_event(
    payload: msgspec.Struct, change: Change | None = None, *, key: str, session_id: str = "", run_id: str = ""
) -> Event:
    """Make an event that is sent without being stored. Raises ValueError as `event_data`, and for a kind without
    snapshots."""
    row = _row(payload)
    if not row.delivery.has_snapshots:
        raise ValueError(f"cannot send a snapshot of kind {row.name}: its delivery is {row.delivery.value!r}")
    return _event(row, payload, change, 0, key, session_id, run_id)


def event_data(payload: msgspec.Struct, change: Change | None = None) -> bytes:
    """Return the envelope of an event: JSON on one line, `type` first. The type of `payload` decides the kind.

    `change` may be left out for a kind that has only one. Raises ValueError for a payload without a row in `EVENTS`,
    and for a change that its row does not have.
    """
    return _data(_row(payload), payload, change)


def _row(payload: msgspec.Struct) -> EventKind:
    row = _BY_PAYLOAD.get(type(payload))
    if row is None:
        raise ValueError(f"cannot send {type(payload).__name__} as an event: no row of EVENTS has it as its payload")
    return row


def _event(
    row: EventKind,
    payload: msgspec.Struct,
    change: Change | None,
    number: int,
    key: str,
    session_id: str,
    run_id: str,
) -> Event:
    return Event(
        kind=row.name,
        data=_data(row, payload, change),
        number=number,
        key=key,
        session_id=SessionId(session_id),
        run_id=RunId(run_id),
    )


def _data(row: EventKind, payload: msgspec.Struct, change: Change | None) -> bytes:
    if change is None and len(row.changes) == 1:
        (change,) = row.changes
    if change not in row.changes:
        raise ValueError(f"cannot send {row.name} with change {change!r}: use one of {', '.join(row.changes)}")
    inner = _encoder.encode(payload)
    return b'{"type":"%b","payload":{"type":"%b","payload":%b}}' % (row.name.encode(), change.encode(), inner)


_EVENT_ID = re.compile(r"([A-Za-z0-9]{1,64})\.([0-9]{1,18})\Z")


@dataclass(frozen=True, slots=True)
class EventId:
    """The SSE `id:` of a numbered event: the log and the number in it."""

    log_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.log_id}.{self.number}"


def parse_event_id(text: str) -> EventId | None:
    """Parse a `Last-Event-ID`; return None for a text that cannot be the id of an event."""
    match = _EVENT_ID.match(text)
    return EventId(match[1], int(match[2])) if match else None
