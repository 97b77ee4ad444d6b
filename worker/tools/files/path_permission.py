"""Where a path leads that a tool wants to read, and the permission for it when that is outside of the workspace (W-42).

What lies in the directories of skills may be read without asking.
"""

from collections.abc import Mapping
from string import Template

from worker.processes.environment import tool_environment
from worker.toolkit.paths import ResolvedPath, locate
from worker.toolkit.tool import ToolContext, ToolError


async def permitted_path(
    context: ToolContext, given: str, *, verb: str, action: str, params: Mapping[str, object] | None = None
) -> ResolvedPath:
    """The place, once it may be read. Raises ToolError, Denied."""
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {context.workspace}")
    place = await context.children.threads.run(
        lambda _stop: locate(context.workspace, expanded(given, context)), timeout_s=context.limits.search_deadline_s
    )
    if not place.inside and not any(place.path.is_relative_to(root) for root in context.readable):
        await context.permit(
            action=action,
            path=str(place.path),
            description=f"{verb.capitalize()} {place.path}, outside the workspace",
            params=params,
        )
    return place


def expanded(path: str, context: ToolContext) -> str:
    """`~` means the home directory, as the environment of the workspace has it."""
    home = context.env.get("HOME", "")
    return home + path[1:] if home and (path == "~" or path.startswith("~/")) else path


def with_variables(path: str, context: ToolContext) -> str:
    """`$NAME` and `${NAME}` by their values, as a command would see them; names that are not set stay as they are."""
    return Template(path).safe_substitute(tool_environment(context.env)) if "$" in path else path
