"""Decide when one MCP server is connected: while it is configured, and again only on request after a failure.

Each start has a number, its generation. Facts that carry an earlier generation are ignored.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine


class McpState(Enum):
    """The states of a server. The values appear in the API; one of them contains a space."""

    DISABLED = "disabled"
    STARTING = "starting"
    CONNECTED = "connected"
    ERROR = "error"
    NEEDS_AUTH = "needs auth"


@dataclass(frozen=True, slots=True)
class Launch:
    """Open a connection under this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class End:
    """Close the connection of this generation."""

    generation: int


Effect = Launch | End

_LIVE = (McpState.STARTING, McpState.CONNECTED)


class McpLifecycle(Machine[McpState]):
    """Tracks one MCP server. Each fact about a connection names its generation; a late fact changes nothing."""

    table = {
        McpState.DISABLED: {"start": (McpState.STARTING,)},
        McpState.STARTING: {
            "start": (McpState.STARTING,),
            "connected": (McpState.CONNECTED,),
            "failed": (McpState.ERROR,),
            "refused": (McpState.NEEDS_AUTH,),
            "disable": (McpState.DISABLED,),
        },
        McpState.CONNECTED: {
            "start": (McpState.STARTING,),
            "failed": (McpState.ERROR,),
            "refused": (McpState.NEEDS_AUTH,),
            "disable": (McpState.DISABLED,),
        },
        McpState.ERROR: {"start": (McpState.STARTING,), "disable": (McpState.DISABLED,)},
        McpState.NEEDS_AUTH: {"start": (McpState.STARTING,), "disable": (McpState.DISABLED,)},
    }

    def __init__(self) -> None:
        super().__init__(McpState.DISABLED)
        self.generation = 0
        self.error = ""

    def start(self) -> list[Effect]:
        """Connect, or reconnect: a live connection is closed first."""
        effects: list[Effect] = [End(self.generation)] if self.state in _LIVE else []
        self.generation += 1
        self.error = ""
        return self._move("start", McpState.STARTING, [*effects, Launch(self.generation)])

    def connected(self, generation: int) -> bool:
        """Record that the server has sent its capabilities. False: the connection is outdated, and must be closed."""
        if generation != self.generation or self.state is not McpState.STARTING:
            return False
        self._move("connected", McpState.CONNECTED)
        return True

    def failed(self, generation: int, reason: str) -> bool:
        """Record that connecting failed or the connection broke. Returns whether the state changed."""
        return self._ended("failed", McpState.ERROR, generation, reason)

    def refused(self, generation: int, reason: str) -> bool:
        """Record that the server requires a login. Returns whether the state changed."""
        return self._ended("refused", McpState.NEEDS_AUTH, generation, reason)

    def disable(self) -> list[Effect]:
        """Close the connection and stay disconnected."""
        if self.state is McpState.DISABLED:
            return []
        effects: list[Effect] = [End(self.generation)] if self.state in _LIVE else []
        self.generation += 1
        self.error = ""
        return self._move("disable", McpState.DISABLED, effects)

    def _ended(self, fact: str, state: McpState, generation: int, reason: str) -> bool:
        if generation != self.generation or self.state not in _LIVE:
            return False
        self.error = reason
        self._move(fact, state)
        return True
