"""A gate of the standing rules alone: there is nobody to ask."""

from worker.permissions.rules import Rules
from worker.toolkit.tool import Denied, Wish


class RulesGate:
    """Decides by the rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def permit(self, wish: Wish) -> None:
        """Return when the rules allow it."""
        decision = self._rules.decide(wish.tool, wish.action)
        if not decision.allowed:
            raise Denied(decision.reason)
