"""The states of one MCP server: connected as long as the configuration wants it, and started anew only when asked.

Each start has a number, its generation. What an earlier start still says is not heard any more.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine


class McpState(Enum):
    """The values are the words of the API (http-api 3.11); one of them has a space."""

    DISABLED = "disabled"
    STARTING = "starting"
    CONNECTED = "connected"
    ERROR = "error"
    NEEDS_AUTH = "needs auth"


@dataclass(frozen=True, slots=True)
class Launch:
    """Connect, as this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class End:
    """End the connection of this generation."""

    generation: int


Effect = Launch | End

_LIVE = (McpState.STARTING, McpState.CONNECTED)


class McpLife(Machine[McpState]):
    """One MCP server. Every fact about a connection names its generation; a late one changes nothing."""

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
        """Connect it, or connect it again; what runs is ended."""
        effects: list[Effect] = [End(self.generation)] if self.state in _LIVE else []
        self.generation += 1
        self.error = ""
        return self._move("start", McpState.STARTING, [*effects, Launch(self.generation)])

    def connected(self, generation: int) -> bool:
        """It has told what it offers. False: this is none of our connections any more, and it has to end."""
        if generation != self.generation or self.state is not McpState.STARTING:
            return False
        self._move("connected", McpState.CONNECTED)
        return True

    def failed(self, generation: int, reason: str) -> bool:
        """The connection could not be made, or broke. Says whether that is news."""
        return self._ended("failed", McpState.ERROR, generation, reason)

    def refused(self, generation: int, reason: str) -> bool:
        """The server wants somebody to log in first. Says whether that is news."""
        return self._ended("refused", McpState.NEEDS_AUTH, generation, reason)

    def disable(self) -> list[Effect]:
        """Nobody wants it any more."""
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
