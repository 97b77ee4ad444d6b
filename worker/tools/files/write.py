"""The tool `write`: create a file, or replace its whole content."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import PlannedChange, change_file, check_last_read
from worker.tools.files.file_io import Content


class WriteArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `write`."""

    file_path: Annotated[str, Meta(description="The file to write, absolute or relative to the workspace")]
    content: Annotated[str, Meta(description="The whole new content of the file")]


class Write:
    """Write a file in one step; never over a content that the session has not read."""

    spec = ToolSpec("write", description_of(__file__, "write"), schema_of(WriteArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `write.md`."""
        arguments = read_args(WriteArgs, args)

        def plan(
            resolved: ResolvedPath, content: Content | None, last_read: str | None, stop: StopFlag
        ) -> PlannedChange:
            size = len(arguments.content.encode("utf-8", "replace"))
            if content is None:
                return PlannedChange(None, arguments.content, f"Created {resolved.shown} ({size} bytes)")
            check_last_read(resolved, content, last_read)
            old = content.data.decode("utf-8", "replace")
            if old == arguments.content:
                raise ToolError(f"cannot write {resolved.shown}: it already has exactly this content")
            return PlannedChange(old, arguments.content, f"Replaced {resolved.shown} ({size} bytes)")

        return await change_file(context, arguments.file_path, plan, verb="write", shows_diff=True)
