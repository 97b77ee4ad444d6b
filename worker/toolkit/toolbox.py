"""Which tools a session has."""

from collections.abc import Collection, Iterable

from worker.toolkit.tool import Tool, ToolSpec


class Toolbox:
    """Tools by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.spec.name: tool for tool in sorted(tools, key=lambda tool: tool.spec.name)}

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told, sorted by name."""
        return tuple(tool.spec for tool in self._tools.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._tools)

    def joined(self, tools: Iterable[Tool]) -> "Toolbox":
        """These and more; of two tools with one name the one that was here first stays."""
        return Toolbox({tool.spec.name: tool for tool in (*tools, *self._tools.values())}.values())

    def without(self, names: Collection[str]) -> "Toolbox":
        """All but these."""
        return Toolbox(tool for name, tool in self._tools.items() if name not in names)

    def only(self, names: Collection[str]) -> "Toolbox":
        """None but these."""
        return Toolbox(tool for name, tool in self._tools.items() if name in names)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, None when there is none."""
        return self._tools.get(name)
