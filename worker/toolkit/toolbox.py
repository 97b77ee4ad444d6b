"""Hold the tools of one turn, by name."""

from collections.abc import Collection, Iterable

from worker.toolkit.tool import AgentKind, Tool, ToolSpec


class Toolbox:
    """Tools by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.spec.name: tool for tool in sorted(tools, key=lambda tool: tool.spec.name)}

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The specifications, sorted by name."""
        return tuple(tool.spec for tool in self._tools.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._tools)

    def joined(self, tools: Iterable[Tool]) -> "Toolbox":
        """Return a toolbox with these tools and more; of two tools with one name the one that is here already stays."""
        return Toolbox({tool.spec.name: tool for tool in (*tools, *self._tools.values())}.values())

    def without(self, names: Collection[str]) -> "Toolbox":
        """Return a toolbox without the tools of these names."""
        return Toolbox(tool for name, tool in self._tools.items() if name not in names)

    def of_agent(self, agent: AgentKind) -> "Toolbox":
        """Return a toolbox with the tools that this agent has."""
        return Toolbox(tool for tool in self._tools.values() if agent in tool.spec.agents)

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, None when there is none."""
        return self._tools.get(name)
