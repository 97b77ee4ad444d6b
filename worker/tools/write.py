"""The tool `write`: a whole file, new or replaced."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.tools.changes import Change, compare
from worker.tools.disk import Content, read_content, replace_content, sha256
from worker.tools.paths import Place, locate_inside
from worker.tools.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of


class WriteArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `write`."""

    file_path: Annotated[str, Meta(description="The file to write, absolute or relative to the workspace")]
    content: Annotated[str, Meta(description="The whole new content of the file")]


class Write:
    """Writes inside the workspace, in one step; never over something that the session has not seen."""

    spec = ToolSpec("write", description_of("write"), schema_of(WriteArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `write.md`."""
        wanted = read_args(WriteArgs, args)
        limits, threads = context.limits, context.children.threads
        data = encoded(wanted.content, limits.edit_max_bytes, wanted.file_path)
        place = await threads.run(
            lambda _stop: locate_inside(context.workspace, wanted.file_path, verb="write"),
            within_s=limits.search_deadline_s,
        )
        seen = await context.files.last_read(context.session_id, str(place.path))

        def look(_stop: object = None) -> Content | None:
            before = read_content(place, limits.edit_max_bytes)
            if before is not None:
                check_seen(place, before, seen)
                if before.data == data:
                    raise ToolError(f"cannot write {place.shown}: it already has exactly this content")
            return before

        def write(_stop: object) -> tuple[Content | None, Change]:
            with threads.writing:  # between this check and the write, no other session of ours changes the file
                before = look()
                replace_content(place, data, before.mode if before else None)
            old = before.data.decode("utf-8", "replace") if before else ""
            return before, compare(old, wanted.content, place.shown, limits.tool_metadata_max_bytes)

        found = await threads.run(look, within_s=limits.search_deadline_s)
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"{'Replace' if found else 'Create'} {place.shown}",
            params={
                "file_path": str(place.path),
                "old_content": found.data.decode("utf-8", "replace") if found else "",
                "new_content": wanted.content,
            },
        )
        before, change = await threads.run(write, within_s=limits.search_deadline_s)
        await context.files.record_read(context.session_id, str(place.path), sha256(data))
        wrong = await context.code.changed(place.path)
        done = f"<result>\n{'Replaced' if before else 'Created'} {place.shown} ({len(data)} bytes)\n</result>"
        return ToolResult(
            f"{done}\n{wrong}" if wrong else done,
            metadata={"diff": change.diff, "additions": change.additions, "removals": change.removals},
        )


def encoded(text: str, max_bytes: int, shown: str) -> bytes:
    """`text` as it goes into a file. Raises ToolError when it cannot, or is too long."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolError(f"cannot write {shown}: the text holds half a character at {error.start}") from error
    if len(data) > max_bytes:
        raise ToolError(f"cannot write {shown}: more than {max_bytes} bytes; write it in parts with bash")
    return data


def check_seen(place: Place, now: Content, seen: str | None) -> None:
    """Raise ToolError unless the session has last seen exactly this content (W-65)."""
    if seen is None:
        raise ToolError(f"cannot change {place.shown}: it has not been read in this session; view it first")
    if seen != now.sha256:
        raise ToolError(f"cannot change {place.shown}: it has changed since it was last read; view it again")
