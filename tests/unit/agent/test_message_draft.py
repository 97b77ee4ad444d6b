"""Test the assistant row while it is streamed: which changes are stored at once, and how an open row is closed."""

from protocol.api.message import FinishPart, Message, ReasoningPart, TextPart, ToolCallPart
from worker.agent.message_draft import (
    EMPTY_INPUT,
    MessageDraft,
    answers_for,
    calls_of,
    close_message,
    finish_of,
    text_of,
)

ROW = Message(id="m1", session_id="s1", role="assistant", parts=[], model="m", provider="p")


def test_one_leading_newline_is_dropped_while_the_row_is_empty() -> None:
    draft = MessageDraft(ROW)
    draft.add_text("\n")
    draft.add_text("\nHi")
    assert draft.text == "Hi"
    draft.add_text("\n")
    assert draft.text == "Hi\n"


def test_parts_keep_the_order_of_arrival_and_the_finish_is_last() -> None:
    draft = MessageDraft(ROW)
    draft.add_text("a")
    draft.start_tool_call("c1", "ls")
    draft.add_thinking("t", 5)
    draft.add_text("b")
    draft.finish("end_turn", 9)
    kinds = [type(part) for part in draft.snapshot().parts]
    assert kinds == [TextPart, ToolCallPart, ReasoningPart, FinishPart]
    assert text_of(draft.snapshot()) == "ab"


def test_W_22_thinking_blocks_keep_their_metadata_and_position() -> None:
    draft = MessageDraft(ROW)
    draft.add_thinking("one", 5)
    draft.end_thinking(6, signature="s1", provider="p")
    draft.add_text("text")
    draft.end_thinking(7, signature="redacted", block_id="r", provider="p")
    draft.add_thinking("two", 8)
    part = draft.snapshot().parts[0]
    assert isinstance(part, ReasoningPart)
    assert part.data.thinking == "one\n\ntwo"
    assert [(block.thinking, block.signature, block.before_text) for block in part.data.blocks] == [
        ("one", "s1", True),
        ("", "redacted", False),
        ("two", "", False),
    ]
    assert (part.data.started_at, part.data.finished_at) == (5, 0)
    assert len(draft.snapshot().parts) == 2


def test_a_reset_discards_everything_that_was_streamed() -> None:
    draft = MessageDraft(ROW)
    draft.add_thinking("t", 1)
    draft.add_text("a")
    draft.start_tool_call("c1", "ls")
    draft.reset()
    assert draft.snapshot() == ROW


def test_appended_text_is_reported_until_anything_else_changes() -> None:
    draft = MessageDraft(ROW)
    draft.add_text("a")
    assert draft.take_appended() is None, "a new part is not growth"
    assert draft.growing == (0, "text")
    draft.add_text("b")
    draft.add_text("ü")
    assert draft.take_appended() == (1, "bü")
    assert draft.take_appended() == (3, "")
    draft.add_thinking("t", 1)
    assert draft.take_appended() is None
    draft.add_thinking("u", 1)
    assert draft.growing == (1, "thinking")
    assert draft.take_appended() == (1, "u")
    draft.end_thinking(2)
    draft.add_text("c")
    assert draft.take_appended() is None, "the end of the thinking is not growth"
    draft.add_text("d")
    draft.start_tool_call("c1", "ls")
    assert draft.take_appended() is None
    assert draft.growing is None


def test_clients_get_no_block_for_thinking_that_is_open() -> None:
    draft = MessageDraft(ROW)
    draft.add_thinking("one", 5)
    draft.end_thinking(6)
    draft.add_thinking("two", 7)
    shown, stored = draft.snapshot_around(draft.growing_text).parts[0], draft.snapshot().parts[0]
    assert isinstance(shown, ReasoningPart)
    assert isinstance(stored, ReasoningPart)
    assert shown.data.thinking == stored.data.thinking == "one\n\ntwo"
    assert [block.thinking for block in shown.data.blocks] == ["one"]
    assert [block.thinking for block in stored.data.blocks] == ["one", "two"]


def test_closing_a_row_completes_its_open_parts() -> None:
    draft = MessageDraft(ROW)
    draft.add_thinking("t", 1)
    draft.start_tool_call("c1", "ls")
    draft.start_tool_call("c2", "ls")
    draft.end_tool_call("c2", '{"a":1}')
    closed = close_message(draft.snapshot(), "canceled", 7, title="why", details="more")
    assert [(call.input, call.finished) for call in calls_of(closed)] == [(EMPTY_INPUT, True), ('{"a":1}', True)]
    finish = finish_of(closed)
    assert finish is not None
    assert (finish.reason, finish.time, finish.message, finish.details) == ("canceled", 7, "why", "more")
    assert [answer.is_error for answer in answers_for(calls_of(closed), "x")] == [True, True]
    closed_twice = close_message(closed, "error", 8)
    assert sum(isinstance(part, FinishPart) for part in closed_twice.parts) == 1
