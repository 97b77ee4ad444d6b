"""Provide a permission gate that decides by the configured rules alone and never asks a client."""

from worker.permissions.rules import Rules
from worker.toolkit.tool import AccessRequest, ToolDenied


class RulesGate:
    """Allow an access if the rules allow it; otherwise deny it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def permit(self, request: AccessRequest) -> None:
        """Return if the rules allow the access. Raises ToolDenied."""
        decision = self._rules.decide(request.tool, request.action)
        if not decision.allowed:
            raise ToolDenied(decision.reason)
