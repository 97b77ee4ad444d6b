"""The tool `multiedit`: several replacements in one file, in one step."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import PlannedChange, change_file, check_last_read
from worker.tools.files.edit import apply_edit
from worker.tools.files.file_io import Content

EDITS_MAX = 500


class OneEdit(msgspec.Struct, frozen=True, kw_only=True):
    """One replacement."""

    old_string: Annotated[str, Meta(description="The text to replace, exactly as in the file")]
    new_string: Annotated[str, Meta(description="The text to replace it with; empty deletes the text")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not only one")] = False


class MultiEditArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `multiedit`."""

    file_path: Annotated[str, Meta(description="The file to change, absolute or relative to the workspace")]
    edits: Annotated[list[OneEdit], Meta(description="The replacements, in order")]


class MultiEdit:
    """Change one file in one step. Edits that fail are reported in the result; they are not an error."""

    spec = ToolSpec(
        "multiedit", description_of(__file__, "multiedit"), schema_of(MultiEditArgs), parallel=False, effect="write"
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `multiedit.md`."""
        arguments = read_args(MultiEditArgs, args)
        if not arguments.edits or len(arguments.edits) > EDITS_MAX:
            raise ToolError(f"cannot edit: give 1 to {EDITS_MAX} edits, not {len(arguments.edits)}")

        def plan(
            resolved: ResolvedPath, content: Content | None, last_read: str | None, stop: StopFlag
        ) -> PlannedChange:
            first, *later = arguments.edits
            if any(edit.old_string == "" for edit in later):
                raise ToolError(f"cannot edit {resolved.shown}: only the first edit may have an empty old_string")
            if first.old_string == "":
                if content is not None:
                    raise ToolError(f"cannot create {resolved.shown}: it exists; give the text to replace or use write")
                return _apply_edits(resolved, None, first.new_string, later, done=1, stop=stop)
            if content is None:
                raise ToolError(f"cannot edit {resolved.shown}: it does not exist")
            check_last_read(resolved, content, last_read)
            old = content.text(resolved.shown)
            return _apply_edits(resolved, old, old, arguments.edits, done=0, stop=stop)

        return await change_file(context, arguments.file_path, plan, verb="edit")


def _apply_edits(
    resolved: ResolvedPath, old: str | None, text: str, edits: list[OneEdit], *, done: int, stop: StopFlag
) -> PlannedChange:
    """Apply `edits` to `text`, after `done` earlier ones. Raises ToolError when nothing changes at all."""
    failed: list[dict[str, object]] = []
    applied = done
    for index, edit in enumerate(edits, start=done + 1):
        if stop.is_asked:
            raise ToolError(f"cannot edit {resolved.shown}: edit {index} was not reached in time; give fewer at once")
        try:
            text, _, _ = apply_edit(
                text, edit.old_string, edit.new_string, replace_all=edit.replace_all, shown=f"edit {index}"
            )
            applied += 1
        except ToolError as error:
            failed.append({"index": index, "error": str(error), "edit": msgspec.to_builtins(edit)})
    errors = "\n".join(f"- {failure['error']}" for failure in failed)
    if not applied:
        raise ToolError(f"cannot edit {resolved.shown}: none of the edits could be applied\n{errors}")
    if text == old:
        raise ToolError(f"cannot edit {resolved.shown}: the edits together leave it unchanged")
    verb = "Created" if old is None else "Changed"
    summary = f"{verb} {resolved.shown}: {applied} of {applied + len(failed)} edits applied"
    return PlannedChange(
        old,
        text,
        f"{summary}\nNot applied:\n{errors}" if failed else summary,
        {"edits_applied": applied, "edits_failed": failed},
    )
