"""Test which calls the permission rules allow without a request."""

import pytest

from worker.permissions.rules import Rules


@pytest.mark.parametrize(
    ("rules", "tool", "action", "is_allowed"),
    [
        (Rules(), "write", "write", False),
        (Rules(), "bash", "execute", False),
        (Rules(skip=True), "bash", "execute", True),
        (Rules(allowed=frozenset({"bash"})), "bash", "execute", True),
        (Rules(allowed=frozenset({"bash:execute"})), "bash", "execute", True),
        (Rules(allowed=frozenset({"bash:read"})), "bash", "execute", False),
        (Rules(allowed=frozenset({"edit"})), "write", "write", False),
        (Rules(allowed=frozenset({"edit:write"})), "edit", "write", True),
    ],
)
def test_a_call_is_allowed_when_its_tool_or_its_action_is(
    rules: Rules, tool: str, action: str, is_allowed: bool
) -> None:
    assert rules.decide(tool, action).allowed is is_allowed


def test_a_denial_names_the_setting_that_would_allow_the_call() -> None:
    reason = Rules().decide("bash", "execute").reason
    assert "permissions.allowed_tools" in reason
    assert '"bash"' in reason
