"""API types for prompts, runs and the agent."""

from typing import Annotated, Literal

import msgspec

from protocol.api.message import Attachment, Message
from protocol.api.permission import PermissionPolicy
from protocol.api.provider import Model, SelectedModel
from protocol.ids import ID_PATTERN

NOT_BLANK_PATTERN = r"^[^\x00]*[^\s\x00\x1c-\x1f][^\x00]*$"
"""Matches a text that contains more than white space and no NUL."""

WAIT_MAX_S = 7 * 24 * 3600.0

RunState = Literal["accepted", "queued", "active", "ended"]
RunOutcome = Literal["", "completed", "failed", "cancelled", "interrupted"]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/agent`.

    `run_id` is the idempotency key of the prompt within its workspace; without it the server generates one.
    `permission_wait_s` is the deadline for the permission policy `wait`; 0 means the server's default.
    """

    session_id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": ID_PATTERN})] = ""
    run_id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^$|{ID_PATTERN}"})] = ""
    prompt: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": NOT_BLANK_PATTERN})] = ""
    attachments: list[Attachment] | None = None
    permission_policy: PermissionPolicy = ""
    permission_wait_s: Annotated[float, msgspec.Meta(ge=0, le=WAIT_MAX_S)] = 0.0


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The response to an accepted prompt."""

    run_id: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted prompt with its state and outcome.

    Times are Unix milliseconds, 0 if the event has not happened yet. `cause` says why the run did not complete.
    `message_id` is the assistant's message. `folded_into` is the run that answered this prompt together with its own,
    if there was one.
    """

    id: str
    session_id: str
    state: RunState
    outcome: RunOutcome = ""
    cause: str = ""
    prompt: str = ""
    message_id: str = ""
    folded_into: str = ""
    accepted_at_ms: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0


class RunComplete(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The final event of a run; every run has exactly one."""

    session_id: str = msgspec.field()
    message_id: str = msgspec.field()
    run_id: str = ""
    text: str = ""
    error: str = ""
    cancelled: bool = False


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Reports the progress of the agent; `type` is `agent_finished`, `error`, `retrying` and so on.

    Clients treat a non-empty `error` as the end of the run; a run that continues only sets `progress`. `message` is
    absent or a complete message, never null.
    """

    type: str = msgspec.field()
    error: str = ""
    progress: str = ""
    run_id: str = ""
    session_id: str = ""
    session_title: str = ""
    message: Message | msgspec.UnsetType = msgspec.UNSET


class InitAgent(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/agent/init`; it may be omitted.

    `interactive` says whether a user can answer permission requests and questions.
    """

    interactive: bool = False


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `GET …/agent`. `is_ready`: a model is configured and prompts are accepted."""

    is_busy: bool
    is_ready: bool
    model: Model
    model_cfg: SelectedModel
