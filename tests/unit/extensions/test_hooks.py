"""Test hooks: how their output is read, how several answers are combined, and that a failing hook blocks nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from worker.config.sections import HookSettings
from worker.hooks.results import EXIT_DENY, EXIT_HALT, HookAnswer, HookOutput, answer_of, combine
from worker.hooks.service import hooks_of


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "answer"),
    [
        (0, "", "", HookAnswer()),
        (0, "not json", "", HookAnswer()),
        (0, "[1]", "", HookAnswer()),
        (0, "[" * 100_000, "", HookAnswer()),
        (0, '{"decision": "allow", "reason": "fine"}', "", HookAnswer("allow", reason="fine")),
        (0, '{"decision": "maybe"}', "", HookAnswer()),
        (0, '{"context": ["a", 1, "b"]}', "", HookAnswer(note="a\nb")),
        (0, '{"updated_input": {"x": 1}}', "", HookAnswer(patch={"x": 1})),
        (0, '{"updated_input": "x"}', "", HookAnswer()),
        (0, '{"halt": true, "reason": "stop"}', "", HookAnswer("deny", halt=True, reason="stop")),
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
            HookAnswer("deny", reason="no", note="see", patch={"y": 2}),
        ),
        (EXIT_DENY, '{"decision": "allow"}', "not this\n", HookAnswer("deny", reason="not this")),
        (EXIT_HALT, "", "enough", HookAnswer("deny", halt=True, reason="enough")),
        (1, '{"decision": "deny"}', "crash", HookAnswer()),
        (None, '{"decision": "deny"}', "", HookAnswer()),
        (-9, "", "", HookAnswer()),
    ],
)
def test_a_hook_answers_by_its_exit_code_and_its_output(
    code: int | None, stdout: str, stderr: str, answer: HookAnswer
) -> None:
    assert answer_of(code, stdout, stderr) == answer


ANSWERS = st.builds(
    HookAnswer,
    decision=st.sampled_from(["", "allow", "deny"]),
    halt=st.booleans(),
    patch=st.dictionaries(st.sampled_from("ab"), st.integers()),
)


@given(st.lists(ANSWERS, max_size=5))
def test_deny_wins_over_allow_and_drops_all_patches(answers: list[HookAnswer]) -> None:
    answer = combine([HookOutput("h", "", one) for one in answers])
    assert (answer.decision == "deny") == any(one.decision == "deny" or one.halt for one in answers)
    assert answer.halt == any(one.halt for one in answers)
    if answer.decision == "deny":
        assert answer.patch == {}
    else:
        assert set(answer.patch) == {key for one in answers for key in one.patch}


def test_reasons_and_notes_are_joined_and_the_last_patch_wins() -> None:
    answer = combine(
        [
            HookOutput("a", "", HookAnswer(reason="r1", note="n1", patch={"x": 1})),
            HookOutput("b", "", HookAnswer(reason="r2", patch={"x": 2})),
        ]
    )
    assert (answer.reason, answer.note, answer.patch) == ("r1\nr2", "n1", {"x": 2})


def test_the_name_of_the_event_is_accepted_in_any_spelling() -> None:
    settings = [HookSettings(command="true", matcher="^bash$", timeout=3)]
    for name in ("PreToolUse", "pre_tool_use", "PRETOOLUSE"):
        (hook,) = hooks_of({name: settings, "PostToolUse": settings}, Limits())
        assert hook.matches("bash")
        assert not hook.matches("mcp_bash")
        assert hook.timeout_s == 3.0


def test_a_matcher_that_is_not_a_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        HookSettings(command="x", matcher="(")


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_timeout_that_is_not_positive_means_the_default(timeout: int) -> None:
    (hook,) = hooks_of({"PreToolUse": [HookSettings(command="true", timeout=timeout)]}, Limits())
    assert hook.timeout_s == Limits().hook_s
