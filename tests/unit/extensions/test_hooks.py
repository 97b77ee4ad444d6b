"""Hooks: what they say, what several say together, and that a broken one stops nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from worker.config.sections import HookSettings
from worker.hooks.results import EXIT_DENY, EXIT_HALT, Answer, Heard, answer_of, together
from worker.hooks.service import hooks_of


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "answer"),
    [
        (0, "", "", Answer()),
        (0, "not json", "", Answer()),
        (0, "[1]", "", Answer()),
        (0, "[" * 100_000, "", Answer()),
        (0, '{"decision": "allow", "reason": "fine"}', "", Answer("allow", reason="fine")),
        (0, '{"decision": "maybe"}', "", Answer()),
        (0, '{"context": ["a", 1, "b"]}', "", Answer(note="a\nb")),
        (0, '{"updated_input": {"x": 1}}', "", Answer(patch={"x": 1})),
        (0, '{"updated_input": "x"}', "", Answer()),
        (0, '{"halt": true, "reason": "stop"}', "", Answer("deny", halt=True, reason="stop")),
        (
            0,
            json.dumps(
                {
                    "hookSpecificOutput": {
                        "permissionDecision": "deny",
                        "permissionDecisionReason": "no",
                        "updatedInput": {"y": 2},
                        "additionalContext": "see",
                    }
                }
            ),
            "",
            Answer("deny", reason="no", note="see", patch={"y": 2}),
        ),
        (EXIT_DENY, '{"decision": "allow"}', "not this\n", Answer("deny", reason="not this")),
        (EXIT_HALT, "", "enough", Answer("deny", halt=True, reason="enough")),
        (1, '{"decision": "deny"}', "crash", Answer()),
        (None, '{"decision": "deny"}', "", Answer()),
        (-9, "", "", Answer()),
    ],
)
def test_what_a_hook_says(code, stdout, stderr, answer):
    assert answer_of(code, stdout, stderr) == answer


ANSWERS = st.builds(
    Answer,
    decision=st.sampled_from(["", "allow", "deny"]),
    halt=st.booleans(),
    patch=st.dictionaries(st.sampled_from("ab"), st.integers()),
)


@given(st.lists(ANSWERS, max_size=5))
def test_a_denial_wins_over_an_allowance_and_that_over_silence(answers):
    answer = together([Heard("h", "", one) for one in answers])
    assert (answer.decision == "deny") == any(one.decision == "deny" or one.halt for one in answers)
    assert answer.halt == any(one.halt for one in answers)
    if answer.decision == "deny":
        assert answer.patch == {}
    else:
        assert set(answer.patch) == {key for one in answers for key in one.patch}


def test_reasons_and_notes_are_joined_and_the_last_patch_wins():
    answer = together(
        [
            Heard("a", "", Answer(reason="r1", note="n1", patch={"x": 1})),
            Heard("b", "", Answer(reason="r2", patch={"x": 2})),
        ]
    )
    assert (answer.reason, answer.note, answer.patch) == ("r1\nr2", "n1", {"x": 2})


def test_the_name_of_the_event_counts_in_any_spelling():
    settings = [HookSettings(command="true", matcher="^bash$", timeout=3)]
    for name in ("PreToolUse", "pre_tool_use", "PRETOOLUSE"):
        (hook,) = hooks_of({name: settings, "PostToolUse": settings}, Limits())
        assert hook.matches("bash")
        assert not hook.matches("mcp_bash")
        assert hook.timeout_s == 3.0


def test_a_matcher_that_is_no_expression_is_refused():
    with pytest.raises(ValueError, match="no regular expression"):
        HookSettings(command="x", matcher="(")


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_time_that_is_none_is_the_usual_one(timeout):
    (hook,) = hooks_of({"PreToolUse": [HookSettings(command="true", timeout=timeout)]}, Limits())
    assert hook.timeout_s == Limits().hook_s
