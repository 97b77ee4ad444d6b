"""Events: what clients see of a workspace.

An event with a number is a row of the workspace's log: stored with the change it tells of, replayable, without
holes. An event without one (number 0) is a snapshot of something still growing; a newer snapshot of the same `key`
replaces it, and a numbered event of that key makes it void.

`data` is the finished JSON envelope of the HTTP API (http: `{"type", "payload": {"type", "payload"}}`) on one line;
nobody between the worker and the client opens it.
"""

import re
from dataclasses import dataclass

import msgspec

from protocol.ids import RunId, SessionId


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of one workspace."""

    kind: str  # the outer type of the envelope: `message`, `session`, `run_complete`, …
    data: bytes
    number: int = 0
    key: str = ""  # what a snapshot shows (a message id)
    session_id: SessionId = SessionId("")
    run_id: RunId = RunId("")

    @property
    def is_snapshot(self) -> bool:
        """Has this event no number, so that it may be replaced by a newer one?"""
        return self.number == 0


EVENT_KINDS = frozenset(
    {
        "message",
        "session",
        "file",
        "permission_request",
        "permission_notification",
        "question_batch_request",
        "question_batch_notification",
        "agent_event",
        "run_complete",
        "lsp_event",
        "mcp_event",
        "skills_event",
        "config_changed",
        "update_available",
    }
)
"""The outer types that the Crush client knows."""

OWN_EVENT_KINDS = frozenset({"workspace_state", "reset"})
"""Our own additions, sent only on streams that asked for ids: the Crush client would log a warning for each."""

MARK_KIND = "log_mark"
"""Not an event but a remark inside the supervisor: the log goes at least as far as this number (Z08)."""

_EVENT_ID = re.compile(r"([A-Za-z0-9]{1,64})\.([0-9]{1,18})\Z")


@dataclass(frozen=True, slots=True)
class EventId:
    """The SSE `id:` of a numbered event: which log, which row."""

    log_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.log_id}.{self.number}"


def parse_event_id(text: str) -> EventId | None:
    """Read a `Last-Event-ID`; None for anything that we never sent."""
    match = _EVENT_ID.match(text)
    return EventId(match[1], int(match[2])) if match else None
