"""The tool `write`: a whole file, new or replaced."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import Stop
from worker.toolkit.paths import Place
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import Planned, change_file, check_seen
from worker.tools.files.file_io import Content


class WriteArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `write`."""

    file_path: Annotated[str, Meta(description="The file to write, absolute or relative to the workspace")]
    content: Annotated[str, Meta(description="The whole new content of the file")]


class Write:
    """Writes a file in one step; never over something that the session has not seen."""

    spec = ToolSpec("write", description_of(__file__, "write"), schema_of(WriteArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `write.md`."""
        wanted = read_args(WriteArgs, args)

        def plan(place: Place, before: Content | None, seen: str | None, stop: Stop) -> Planned:
            size = len(wanted.content.encode("utf-8", "replace"))
            if before is None:
                return Planned(None, wanted.content, f"Created {place.shown} ({size} bytes)")
            check_seen(place, before, seen)
            old = before.data.decode("utf-8", "replace")
            if old == wanted.content:
                raise ToolError(f"cannot write {place.shown}: it already has exactly this content")
            return Planned(old, wanted.content, f"Replaced {place.shown} ({size} bytes)")

        return await change_file(context, wanted.file_path, plan, verb="write", shows_diff=True)
