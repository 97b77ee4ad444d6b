"""Define the values that the store keeps as rows and that other parts decide on: runs and requests."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from protocol.api.agent import Run, RunOutcome, RunState
from protocol.api.message import Attachment
from protocol.api.permission import PermissionPolicy

SUMMARY = "summary"
"""The kind of a run that summarises its session; it has no prompt and no user row."""

TASK, WEB = "task", "web"
"""The kinds of runs that work for another run, in a child session of that one's: in the workspace, and on the web."""

DELEGATED = frozenset({TASK, WEB})

RequestKind = Literal["permission", "question"]


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """One row of the table of runs. Times are Unix milliseconds, 0 for not yet.

    `has_own_turn`: the client chose the run id or a policy for permissions, so the prompt is never merged into the turn
    of another run. `deaths`: how often the run may have ended its worker, counted when it is about to start (W17).
    """

    id: str
    session_id: str
    accept_seq: int
    prompt: str
    attachments: list[Attachment] = field(default_factory=list)
    has_own_turn: bool = False
    kind: str = "prompt"
    state: RunState = "accepted"
    outcome: RunOutcome = ""
    cause: str = ""
    message_id: str = ""
    folded_into: str = ""
    deaths: int = 0
    accepted_at_ms: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0
    permission_policy: PermissionPolicy = ""
    permission_wait_s: float = 0.0

    def shape(self) -> Run:
        """Return this run as the API shows it."""
        return Run(
            id=self.id,
            session_id=self.session_id,
            state=self.state,
            outcome=self.outcome,
            cause=self.cause,
            prompt=self.prompt,
            message_id=self.message_id,
            folded_into=self.folded_into,
            accepted_at_ms=self.accepted_at_ms,
            started_at_ms=self.started_at_ms,
            ended_at_ms=self.ended_at_ms,
        )


class RequestState(Enum):
    """The stored state of a request."""

    OPEN = "open"
    RESOLVED = "resolved"
    EXPIRED = "expired"  # no answer in time
    CANCELLED = "cancelled"  # the run ended while it waited
    VOID = "void"  # the worker died while it waited


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """One request, as it was stored. `tool`, `action` and `path` are the key of a grant for the session."""

    id: str
    kind: RequestKind
    session_id: str
    run_id: str
    tool_call_id: str
    tool: str = ""
    action: str = ""
    path: str = ""
