"""Permissions and questions as clients ask and answer them (http-api 3.10)."""

from typing import Annotated, Any, Literal

import msgspec

PermissionPolicy = Literal["", "ask", "allow", "deny", "wait"]
"""What becomes of a run's requests: "" decides by who is attached, `ask` waits for a client, `allow` needs none, `deny`
refuses at once, `wait` refuses at a deadline."""

QuestionType = Literal["yes_no", "single_choice", "multi_choice", "free_text"]


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


class PermissionNotification(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request; neither granted nor denied means that it waits."""

    tool_call_id: str
    granted: bool = False
    denied: bool = False


class Choice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the answers to choose from."""

    id: str = msgspec.field()
    label: str = msgspec.field()
    description: str = ""


class QuestionItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question of a batch."""

    id: str = msgspec.field()
    type: QuestionType = msgspec.field()
    question: str = msgspec.field()
    label: str = ""
    description: str = ""
    choices: list[Choice] = []


class QuestionRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch of questions of the agent."""

    id: str = msgspec.field()
    session_id: str = msgspec.field()
    tool_call_id: str = msgspec.field()
    questions: list[QuestionItem] = msgspec.field()
    confirm_title: str = ""
    confirm_description: str = ""


class QuestionNotification(msgspec.Struct, frozen=True, kw_only=True):
    """The batch is over: answered, refused, or nobody waits any more."""

    batch_id: str


class QuestionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question; with nothing in it the question was skipped."""

    request_id: str = ""
    selected_ids: list[str] | None = None
    fill_in_text: str = ""
    yes: bool | None = None
    notes: dict[str, Any] | None = None


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/questions/answer`. The Crush client leaves the batch's id empty: the questions' ids tell which one is
    meant, and without those it is the batch that waits longest."""

    batch_request_id: str = ""
    responses: Annotated[list[QuestionResponse], msgspec.Meta(max_length=100)] | None = None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """Did this call decide it? False: somebody else was first, or nothing is pending."""

    resolved: bool
