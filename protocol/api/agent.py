"""Prompts, runs and what is said of the agent (http-api 3.9, 4.3)."""

from typing import Annotated, Literal

import msgspec

from protocol.api.message import Attachment, Message
from protocol.api.permission import PermissionPolicy
from protocol.api.provider import Model, SelectedModel
from protocol.ids import ID_PATTERN

SAYS_SOMETHING = r"^[^\x00]*[^\s\x00\x1c-\x1f][^\x00]*$"
"""A text that is more than white space, and has no NUL."""

WAIT_MAX_S = 7 * 24 * 3600.0

RunState = Literal["accepted", "queued", "active", "ended"]
RunOutcome = Literal["", "completed", "failed", "cancelled", "interrupted"]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/agent`. `run_id` is the idempotency key inside its workspace; the server makes one up without it."""

    session_id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": ID_PATTERN})] = ""
    run_id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^$|{ID_PATTERN}"})] = ""
    prompt: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SAYS_SOMETHING})] = ""
    attachments: list[Attachment] | None = None
    permission_policy: PermissionPolicy = ""
    permission_wait_s: Annotated[float, msgspec.Meta(ge=0, le=WAIT_MAX_S)] = 0.0  # of the policy `wait`; 0: the limit


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the 202."""

    run_id: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted prompt and what became of it. Times are Unix milliseconds, 0 for not yet."""

    id: str
    session_id: str
    state: RunState
    outcome: RunOutcome = ""
    cause: str = ""  # why it did not complete
    prompt: str = ""
    message_id: str = ""  # the assistant row that tells the story
    folded_into: str = ""
    accepted_at_ms: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0


class RunComplete(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one terminal event of a run."""

    session_id: str = msgspec.field()
    message_id: str = msgspec.field()
    run_id: str = ""
    text: str = ""
    error: str = ""
    cancelled: bool = False


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`agent_finished`, `error`, `retrying` and so on. `message` is left out or whole, never null.

    A client that waits for a run takes any `error` text for the end of it: what goes on speaks through `progress`.
    """

    type: str = msgspec.field()
    error: str = ""
    progress: str = ""
    run_id: str = ""
    session_id: str = ""
    session_title: str = ""
    message: Message | msgspec.UnsetType = msgspec.UNSET


class AgentWish(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/agent/init`; the whole body may be left out."""

    interactive: bool = False  # is there somebody who can answer requests and questions?


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`GET …/agent`. Ready means: a model is configured and prompts are taken."""

    is_busy: bool
    is_ready: bool
    model: Model
    model_cfg: SelectedModel
