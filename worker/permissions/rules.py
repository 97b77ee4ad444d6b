"""Decide which actions need no request: skip mode and the allow list.

An entry of the allow list is `tool` (every action of it) or `tool:action`. The reason for everything else says how to
allow it; the gate shows it when no client can be asked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleDecision:
    """Whether the action is allowed without a request. When it is not, `reason` is a sentence for model and user."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class Rules:
    """The permissions of one workspace that hold for every run. A change makes a new value."""

    skip: bool = False  # the user switched asking off for this workspace
    allowed: frozenset[str] = frozenset()  # `permissions.allowed_tools`

    def decide(self, tool: str, action: str) -> RuleDecision:
        """Return whether `tool` may do `action`. Tools ask only for actions that need permission."""
        if self.skip:
            return RuleDecision(True, "permissions are skipped in this workspace")
        if tool in self.allowed or f"{tool}:{action}" in self.allowed:
            return RuleDecision(True, "on the allow list")
        return RuleDecision(
            False,
            f"cannot run {tool}: permission to {action} was denied, because {tool!r} is not on the allow list of this "
            f'workspace. To allow it, add "{tool}" or "{tool}:{action}" to permissions.allowed_tools in bulkhead.json, '
            "or switch permission requests off for the workspace.",
        )
