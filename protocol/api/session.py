"""API types for sessions."""

from typing import Annotated, Literal

import msgspec


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a session's task list. `active_form` is shown while the item is in progress."""

    content: str
    status: Literal["pending", "in_progress", "completed"]
    active_form: str = ""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. Times are Unix seconds.

    Token counts are those of the last request to the model, not sums. `is_busy` and `attached_clients` are computed
    for each response.
    """

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
    is_busy: bool = False
    attached_clients: int = 0


class WriteSession(msgspec.Struct, frozen=True, kw_only=True):
    """The body for creating or changing a session. Creating only uses `title`; null keeps a field unchanged."""

    id: str | None = None
    title: str | None = None
    cost: Annotated[float, msgspec.Meta(ge=0)] | None = None
    todos: list[Todo] | None = None
