"""What may be done without asking."""

from typing import Any

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
def test_decisions(rules: Any, tool: str, action: str, is_allowed: bool) -> None:
    assert rules.decide(tool, action).allowed is is_allowed


def test_a_denial_says_how_to_allow() -> None:
    reason = Rules().decide("bash", "execute").reason
    assert "permissions.allowed_tools" in reason
    assert '"bash"' in reason
