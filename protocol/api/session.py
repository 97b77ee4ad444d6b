"""Sessions as API v1 sends them (http-api 3.5)."""

from typing import Annotated, Literal

import msgspec


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    content: str
    status: Literal["pending", "in_progress", "completed"]
    active_form: str = ""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation. Times are Unix seconds; token counts are those of the last model step, not sums."""

    id: str
    parent_session_id: str = ""
    title: str = ""
    message_count: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    summary_message_id: str = ""
    cost: float = 0.0
    todos: list[Todo] = []
    created_at: int = 0
    updated_at: int = 0
    is_busy: bool = False  # computed on reads
    attached_clients: int = 0  # computed on reads, by the supervisor


class SessionWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may say about a session: create reads `title`, put reads all; None leaves a field as it is."""

    id: str | None = None
    title: str | None = None
    cost: Annotated[float, msgspec.Meta(ge=0)] | None = None
    todos: list[Todo] | None = None
