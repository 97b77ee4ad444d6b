"""API types for permission requests and for the agent's questions."""

from typing import Annotated, Any, Literal

import msgspec

PermissionPolicy = Literal["", "ask", "allow", "deny", "wait"]
"""How the permission requests of a run are decided.

`ask` waits for a client, `allow` grants without asking, `deny` refuses at once, `wait` refuses at a deadline. ""
depends on whether a client is attached.
"""

QuestionType = Literal["yes_no", "single_choice", "multi_choice", "free_text"]


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `GET` and `POST …/permissions/skip`: whether tools run without permission."""

    skip: bool


class PermissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for permission to run a tool. The keys of `params` depend on `tool_name`; it may be null."""

    id: str = ""
    session_id: str = ""
    tool_call_id: str = ""
    tool_name: str = ""
    description: str = ""
    action: str = ""
    params: dict[str, Any] | None = None
    path: str = ""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/permissions/grant`. `allow_session` also allows later requests of the same kind."""

    permission: PermissionRequest
    action: Literal["allow", "allow_session", "deny"]


class PermissionNotification(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `permission_notification`. If neither granted nor denied, the request is open."""

    tool_call_id: str
    granted: bool = False
    denied: bool = False


class Choice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the choices for the answer to a question."""

    id: str = msgspec.field()
    label: str = msgspec.field()
    description: str = ""


class QuestionItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question of the agent, part of a batch."""

    id: str = msgspec.field()
    type: QuestionType = msgspec.field()
    question: str = msgspec.field()
    label: str = ""
    description: str = ""
    choices: list[Choice] = []


class QuestionRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch of questions that the agent asks the user."""

    id: str = msgspec.field()
    session_id: str = msgspec.field()
    tool_call_id: str = msgspec.field()
    questions: list[QuestionItem] = msgspec.field()
    confirm_title: str = ""
    confirm_description: str = ""


class QuestionNotification(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `question_batch_notification`: a batch was answered, refused or withdrawn."""

    batch_id: str


class QuestionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question; without any content the question was skipped."""

    request_id: str = ""
    selected_ids: list[str] | None = None
    fill_in_text: str = ""
    yes: bool | None = None
    notes: dict[str, Any] | None = None


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/questions/answer`.

    `batch_request_id` may be empty: the batch is then found by the ids of the answered questions, and without those it
    is the oldest open batch.
    """

    batch_request_id: str = ""
    responses: Annotated[list[QuestionResponse], msgspec.Meta(max_length=100)] | None = None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this call decided the request. False: it was already decided, or nothing is open."""

    resolved: bool
