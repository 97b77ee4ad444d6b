"""The rules for the order of events: a valid stream passes, and streams that break one rule do not."""

import pytest

from tests.support.checks.event_order import check_order
from tests.support.checks.history import Seen

Part = tuple[str, dict[str, object]]
"""Kind and data of a part of a message."""


def message(name: str, *parts: Part, change: str = "updated", role: str = "assistant") -> Seen:
    stored_parts = [{"type": kind, "data": data} for kind, data in parts]
    return Seen("message", change, {"id": name, "session_id": "s", "role": role, "parts": stored_parts})


def text(value: str) -> Part:
    return ("text", {"text": value})


FINISH: Part = ("finish", {"reason": "end_turn", "time": 0})
CALL: Part = ("tool_call", {"id": "c"})
RESULT: Part = ("tool_result", {"tool_call_id": "c"})
USER = message("u", text("hi"), change="created", role="user")
NEW = message("a", change="created")
DONE = message("a", text("hello"), FINISH)
FINISHED = Seen("agent_event", "created", {"type": "agent_finished", "session_id": "s"})
END = Seen("run_complete", "updated", {"session_id": "s", "run_id": "r", "message_id": "a", "text": "hello"})
DROPPED = Seen("run_complete", "updated", {"session_id": "s", "run_id": "q", "message_id": "", "cancelled": True})
TOOL = message("t", RESULT, change="created", role="tool")


def test_a_valid_order_passes() -> None:
    grown = message("a", text("hel"), CALL)
    check_order([USER, NEW, grown, TOOL, DROPPED, message("a", text("hello"), CALL, FINISH), FINISHED, END])
    again = message("u2", text("more"), change="created", role="user")
    check_order([USER, NEW, DONE, FINISHED, END, again, message("b", change="created")])


@pytest.mark.parametrize(
    "seen",
    [
        [USER, DONE],
        [USER, NEW, NEW],
        [USER, NEW, END],
        [USER, NEW, message("a", text("hello")), END],
        [USER, NEW, message("a", text("other"), FINISH), END],
        [USER, NEW, DONE, END, DONE],
        [USER, NEW, DONE, FINISHED, DONE, END],
        [USER, NEW, TOOL],
        [USER, NEW, TOOL, message("a", CALL)],
        [USER, NEW, message("a", text("hello")), message("a", text("he"))],
        [USER, NEW, message("a", text("hello")), message("a")],
        [USER, NEW, message("a", text("h"), CALL), message("a", CALL, text("h"))],
    ],
)
def test_an_order_that_breaks_a_rule_is_found(seen: list[Seen]) -> None:
    with pytest.raises(AssertionError):
        check_order(seen)
