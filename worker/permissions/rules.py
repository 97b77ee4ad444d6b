"""What never asks: skip mode and the allow list.

An entry of the allow list is `tool` (every action of it) or `tool:action`. Until a client can be asked, what is not
allowed here is denied, with a reason that says how to allow it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleDecision:
    """May the tool do it; `reason` says why, in a sentence for model and user when it may not."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class Rules:
    """The standing permissions of one workspace. A change makes a new value."""

    skip: bool = False  # the user switched asking off for this workspace
    allowed: frozenset[str] = frozenset()  # `permissions.allowed_tools`

    def decide(self, tool: str, action: str) -> RuleDecision:
        """May `tool` do `action`? What needs no permission, like reading inside the workspace, is never asked for."""
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
