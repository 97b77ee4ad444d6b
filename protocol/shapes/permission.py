"""Permissions and questions as clients ask and answer them (http-api 3.10)."""

from typing import Annotated, Any, Literal

import msgspec


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """The body of both `…/permissions/skip`."""

    skip: bool


class PermissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question for a permission. `params` is an object, or null, by the tool's name."""

    id: str = ""
    session_id: str = ""
    tool_call_id: str = ""
    tool_name: str = ""
    description: str = ""
    action: str = ""
    params: dict[str, Any] | None = None
    path: str = ""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/permissions/grant`."""

    permission: PermissionRequest
    action: Literal["allow", "allow_session", "deny"]


class QuestionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question; with nothing in it the question was skipped."""

    request_id: str = ""
    selected_ids: list[str] | None = None
    fill_in_text: str = ""
    yes: bool | None = None
    notes: dict[str, Any] | None = None


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/questions/answer`. The batch's id comes empty from clients, so it is not asked for."""

    batch_request_id: str = ""
    responses: Annotated[list[QuestionResponse], msgspec.Meta(max_length=100)] | None = None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """Did this call decide it? False: somebody else was first, or nothing is pending."""

    resolved: bool
