"""Resolve the path that a tool is about to read, and ask for permission when it is outside the workspace (W-42).

Files in the directories of skills may be read without permission.
"""

from collections.abc import Mapping
from string import Template

from worker.processes.environment import tool_environment
from worker.toolkit.paths import ResolvedPath, locate
from worker.toolkit.tool import ToolContext, ToolError


async def permitted_path(
    context: ToolContext, given: str, *, verb: str, action: str, params: Mapping[str, object] | None = None
) -> ResolvedPath:
    """Return the resolved path once it may be read. Raises ToolError, ToolDenied."""
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {context.workspace}")
    resolved = await context.children.threads.run(
        lambda _stop: locate(context.workspace, expand_home(given, context)), timeout_s=context.limits.search_deadline_s
    )
    if not resolved.inside and not any(resolved.path.is_relative_to(root) for root in context.readable):
        await context.permit(
            action=action,
            path=str(resolved.path),
            description=f"{verb.capitalize()} {resolved.path}, outside the workspace",
            params=params,
        )
    return resolved


def expand_home(path: str, context: ToolContext) -> str:
    """Replace a leading `~` by the home directory of the workspace's environment."""
    home = context.env.get("HOME", "")
    return home + path[1:] if home and (path == "~" or path.startswith("~/")) else path


def with_variables(path: str, context: ToolContext) -> str:
    """Replace `$NAME` and `${NAME}` by the values that a command would see; variables that are not set stay."""
    return Template(path).safe_substitute(tool_environment(context.env)) if "$" in path else path
