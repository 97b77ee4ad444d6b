"""What lives beside the runs for as long as the worker: language servers, MCP servers, background jobs and the like.

`runs/equipment.py` calls these; a service that has nothing to say keeps the answers of this class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.config.load import Config
from worker.toolkit.tool import Tool


class Service:
    """One of them. All that is not awaited is called on the loop and must not block."""

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """The configuration of the workspace, at the start and after each change; `env` is meant for children."""

    async def refresh(self) -> None:
        """A turn is about to begin: look whether something is new. Bounded."""

    def tools(self) -> Sequence[Tool]:
        """What the next turn may call."""
        return ()

    def notes(self) -> Sequence[str]:
        """Paragraphs for the system prompt of the next turn."""
        return ()

    def readable(self) -> Sequence[Path]:
        """Resolved directories outside the workspace that the next turn may read without asking."""
        return ()

    @property
    def busy(self) -> int:
        """How many things are under way that forbid sending this worker to sleep."""
        return 0

    async def settled(self) -> None:
        """Return when what `configure` began has come to an end. Bounded."""

    async def close(self) -> None:
        """The worker closes: end everything. Bounded."""


class FixedTools(Service):
    """Tools that need something of this worker, and no more than that."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = tools

    def tools(self) -> Sequence[Tool]:
        """Always the same."""
        return self._tools
