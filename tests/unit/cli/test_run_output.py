"""The output of a run on a terminal: each piece of text once, notes between, nothing of other runs."""

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


def assistant(text: str, message: str = "m1", *more: Part, session: str = "s") -> Message:
    return Message(id=message, session_id=session, role="assistant", parts=[TextPart(TextData(text=text)), *more])


def user(text: str) -> Message:
    return Message(id="u", session_id="s", role="user", parts=[TextPart(TextData(text=text))])


def completed(text: str, message: str = "m1") -> RunComplete:
    return RunComplete(session_id="s", message_id=message, run_id="r", text=text)


def new_output(is_open: bool = True) -> RunOutput:
    return RunOutput("s", "the prompt", is_open=is_open)


def printed(shown: list[Shown]) -> str:
    return "".join(one.text for one in shown if isinstance(one, Text))


def notes(shown: list[Shown]) -> list[str]:
    return [one.text for one in shown if isinstance(one, Note)]


def test_only_new_text_is_printed() -> None:
    output = new_output()
    assert output.take(assistant("Hel")) == [Text("Hel")]
    assert output.take(assistant("Hello")) == [Text("lo")]
    assert output.take(assistant("Hello")) == []
    assert output.take(assistant("He")) == []  # an older snapshot
    assert output.finish(completed("Hello!")) == [Text("!"), Text("\n")]


@given(text=st.text(min_size=1), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_any_snapshots_of_a_text_print_it_exactly_once(text: str, cuts: list[int]) -> None:
    output, shown = new_output(), ""
    for cut in sorted(min(cut, len(text)) for cut in cuts):
        shown += printed(output.take(assistant(text[:cut])))
    shown += printed(output.finish(completed(text)))
    assert shown == (text if text.endswith("\n") else text + "\n")


def test_a_run_without_snapshots_still_prints_the_text() -> None:
    assert printed(new_output().finish(completed("all of it"))) == "all of it\n"


def test_steps_begin_on_a_line_of_their_own() -> None:
    output = new_output()
    call = ToolCallPart(ToolCallData(id="c", name="ls", input='{"path": "."}', finished=True))
    result = ToolResultData(tool_call_id="c", name="ls", content="a\nb")
    shown = output.take(assistant("Looking.", "m1", call))
    shown += output.take(Message(id="t", session_id="s", role="tool", parts=[ToolResultPart(result)]))
    shown += output.take(assistant("Two files.", "m2"))
    shown += output.finish(completed("Two files.", "m2"))
    assert printed(shown) == "Looking.\nTwo files.\n"
    assert notes(shown) == ['→ ls {"path": "."}', "  ✓ ls: a b"]


def test_a_call_is_shown_once_when_it_is_complete() -> None:
    output = new_output()
    assert output.take(assistant("x", "m1", ToolCallPart(ToolCallData(id="c", name="ls", input='{"pa')))) == [Text("x")]
    done = assistant("x", "m1", ToolCallPart(ToolCallData(id="c", name="ls", input="{}", finished=True)))
    assert notes(output.take(done)) == ["→ ls {}"]
    assert output.take(done) == []


def test_reasoning_is_one_note() -> None:
    output = new_output()
    thought = ReasoningPart(ReasoningData(thinking="hm\n" * 200, finished_at=1))
    message = Message(id="m1", session_id="s", role="assistant", parts=[thought])
    [line] = notes(output.take(message))
    assert line.startswith("· hm hm")
    assert len(line) < 110
    assert output.take(message) == []


def test_a_restarted_part_is_announced() -> None:
    output = new_output()
    output.take(assistant("Hello wor"))
    shown = output.take(assistant("Good day"))
    assert notes(shown) == ["the model started this part again"]
    assert printed(shown) == "\nGood day"


def test_messages_of_other_runs_are_not_printed() -> None:
    output = new_output(is_open=False)
    assert output.take(assistant("of an earlier run", "m0")) == []
    assert not output.may_begin(user("another prompt"))
    assert not output.may_begin(assistant("the prompt"))
    assert output.may_begin(user("the prompt"))
    output.is_open = True
    assert output.take(assistant("this run", "m1")) == [Text("this run")]
    assert output.take(assistant("a child's", "m2", session="s$$1")) == []
    assert not output.may_begin(user("the prompt"))


def test_a_cancelled_run_keeps_the_printed_text() -> None:
    output = new_output()
    output.take(assistant("half of"))
    cut = assistant("half of it", "m1", FinishPart(FinishData(reason="canceled", time=1)))
    assert printed(output.take(cut)) == " it"
    assert printed(output.finish(completed("half of it"))) == "\n"
