"""What a terminal shows of a run: each piece of text once, notes beside it, nothing of other runs."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.api.agent import RunComplete
from protocol.api.message import (
    FinishData,
    FinishPart,
    Message,
    Part,
    ReasoningData,
    ReasoningPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from supervisor.cli.terminal.run_output import Note, RunOutput, Shown, Text


def said(text: str, message: str = "m1", *more: Part, session: str = "s") -> Message:
    return Message(id=message, session_id=session, role="assistant", parts=[TextPart(TextData(text=text)), *more])


def asked(text: str) -> Message:
    return Message(id="u", session_id="s", role="user", parts=[TextPart(TextData(text=text))])


def end(text: str, message: str = "m1") -> RunComplete:
    return RunComplete(session_id="s", message_id=message, run_id="r", text=text)


def view(is_open: bool = True) -> RunOutput:
    return RunOutput("s", "the prompt", is_open=is_open)


def printed(shown: list[Shown]) -> str:
    return "".join(one.text for one in shown if isinstance(one, Text))


def notes(shown: list[Shown]) -> list[str]:
    return [one.text for one in shown if isinstance(one, Note)]


def test_only_what_is_new_is_printed() -> None:
    answer = view()
    assert answer.take(said("Hel")) == [Text("Hel")]
    assert answer.take(said("Hello")) == [Text("lo")]
    assert answer.take(said("Hello")) == []
    assert answer.take(said("He")) == []  # an older snapshot
    assert answer.finish(end("Hello!")) == [Text("!"), Text("\n")]


@given(text=st.text(min_size=1), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_snapshots_in_any_rhythm_make_the_text_once(text: str, cuts: list[int]) -> None:
    answer, shown = view(), ""
    for cut in sorted(min(cut, len(text)) for cut in cuts):
        shown += printed(answer.take(said(text[:cut])))
    shown += printed(answer.finish(end(text)))
    assert shown == (text if text.endswith("\n") else text + "\n")


def test_an_end_without_snapshots_still_prints_the_text() -> None:
    assert printed(view().finish(end("all of it"))) == "all of it\n"


def test_steps_begin_on_a_line_of_their_own() -> None:
    answer = view()
    call = ToolCallPart(ToolCallData(id="c", name="ls", input='{"path": "."}', finished=True))
    result = ToolResultData(tool_call_id="c", name="ls", content="a\nb")
    shown = answer.take(said("Looking.", "m1", call))
    shown += answer.take(Message(id="t", session_id="s", role="tool", parts=[ToolResultPart(result)]))
    shown += answer.take(said("Two files.", "m2"))
    shown += answer.finish(end("Two files.", "m2"))
    assert printed(shown) == "Looking.\nTwo files.\n"
    assert notes(shown) == ['→ ls {"path": "."}', "  ✓ ls: a b"]


def test_a_call_is_shown_once_when_it_is_complete() -> None:
    answer = view()
    assert answer.take(said("x", "m1", ToolCallPart(ToolCallData(id="c", name="ls", input='{"pa')))) == [Text("x")]
    done = said("x", "m1", ToolCallPart(ToolCallData(id="c", name="ls", input="{}", finished=True)))
    assert notes(answer.take(done)) == ["→ ls {}"]
    assert answer.take(done) == []


def test_thinking_is_one_note() -> None:
    answer = view()
    thought = ReasoningPart(ReasoningData(thinking="hm\n" * 200, finished_at=1))
    message = Message(id="m1", session_id="s", role="assistant", parts=[thought])
    [line] = notes(answer.take(message))
    assert line.startswith("· hm hm")
    assert len(line) < 110
    assert answer.take(message) == []


def test_a_part_that_begins_again_says_so() -> None:
    answer = view()
    answer.take(said("Hello wor"))
    shown = answer.take(said("Good day"))
    assert notes(shown) == ["the model started this part again"]
    assert printed(shown) == "\nGood day"


def test_another_runs_messages_are_not_ours() -> None:
    answer = view(is_open=False)
    assert answer.take(said("of the run before us", "m0")) == []
    assert not answer.may_begin(asked("another prompt"))
    assert not answer.may_begin(said("the prompt"))
    assert answer.may_begin(asked("the prompt"))
    answer.is_open = True
    assert answer.take(said("ours", "m1")) == [Text("ours")]
    assert answer.take(said("a child's", "m2", session="s$$1")) == []
    assert not answer.may_begin(asked("the prompt"))


def test_a_cancelled_answer_keeps_what_was_said() -> None:
    answer = view()
    answer.take(said("half of"))
    cut = said("half of it", "m1", FinishPart(FinishData(reason="canceled", time=1)))
    assert printed(answer.take(cut)) == " it"
    assert printed(answer.finish(end("half of it"))) == "\n"
