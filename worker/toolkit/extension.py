"""Define what runs beside the runs of a worker: language servers, MCP servers, background jobs, hooks, skills.

An extension that has nothing to contribute keeps the answers of the base class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.config.load import WorkspaceConfig
from worker.toolkit.tool import Tool


class Extension:
    """One extension. Every method that is not awaited is called on the loop and must not block."""

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Use this configuration, at the start and after each change; `env` is the environment for children."""

    async def refresh(self) -> None:
        """Look for changes before a turn begins. Bounded."""

    def tools(self) -> Sequence[Tool]:
        """Return the tools for the next turn that are known only at run time."""
        return ()

    def notes(self) -> Sequence[str]:
        """Return paragraphs for the system prompt of the next turn."""
        return ()

    def readable(self) -> Sequence[Path]:
        """Return resolved directories outside the workspace that the next turn may read without permission."""
        return ()

    @property
    def busy(self) -> int:
        """How many activities keep this worker from being put to sleep."""
        return 0

    @property
    def connected(self) -> int:
        """How many connected servers the worker keeps, whose state would be lost with it."""
        return 0

    async def settled(self) -> None:
        """Return when everything that `configure` began has finished. Bounded."""

    async def close(self) -> None:
        """End everything, because the worker closes. Bounded."""


class Extensions:
    """All extensions of one worker, in the order in which they are configured, asked and closed."""

    def __init__(self, *extensions: Extension) -> None:
        self._extensions = extensions

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Pass this configuration to each."""
        for extension in self._extensions:
            extension.configure(config, env)

    async def settled(self) -> None:
        """Wait until each has finished what its configuration began. Bounded."""
        for extension in self._extensions:
            await extension.settled()

    async def refresh(self) -> None:
        """Have each look for changes before a turn begins. Bounded."""
        for extension in self._extensions:
            await extension.refresh()

    def tools(self) -> list[Tool]:
        """Return the tools of all."""
        return [tool for extension in self._extensions for tool in extension.tools()]

    def notes(self) -> list[str]:
        """Return the paragraphs of all."""
        return [note for extension in self._extensions for note in extension.notes()]

    def readable(self) -> tuple[Path, ...]:
        """Return the readable directories of all."""
        return tuple(path for extension in self._extensions for path in extension.readable())

    @property
    def busy(self) -> int:
        """How many activities keep this worker from being put to sleep."""
        return sum(extension.busy for extension in self._extensions)

    @property
    def connected(self) -> int:
        """How many connected servers the worker keeps, whose state would be lost with it."""
        return sum(extension.connected for extension in self._extensions)

    async def close(self) -> None:
        """Close each. Bounded."""
        for extension in self._extensions:
            await extension.close()
