"""The tool `multiedit`: several replacements in one file, in one step (6.8)."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import Stop
from worker.toolkit.paths import Place
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import Planned, change_file, check_seen
from worker.tools.files.edit import edited
from worker.tools.files.file_io import Content

EDITS_MAX = 500


class OneEdit(msgspec.Struct, frozen=True, kw_only=True):
    """One replacement."""

    old_string: Annotated[str, Meta(description="The text to replace, exactly as it stands")]
    new_string: Annotated[str, Meta(description="What to put in its place; empty deletes the text")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not only one")] = False


class MultiEditArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `multiedit`."""

    file_path: Annotated[str, Meta(description="The file to change, absolute or relative to the workspace")]
    edits: Annotated[list[OneEdit], Meta(description="What to replace, in order")]


class MultiEdit:
    """Changes one file in one step. Some of the edits may fail; that is told, and no error."""

    spec = ToolSpec(
        "multiedit", description_of(__file__, "multiedit"), schema_of(MultiEditArgs), parallel=False, effect="write"
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `multiedit.md`."""
        wanted = read_args(MultiEditArgs, args)
        if not wanted.edits or len(wanted.edits) > EDITS_MAX:
            raise ToolError(f"cannot edit: give 1 to {EDITS_MAX} edits, not {len(wanted.edits)}")

        def plan(place: Place, before: Content | None, seen: str | None, stop: Stop) -> Planned:
            first, *later = wanted.edits
            if any(edit.old_string == "" for edit in later):
                raise ToolError(f"cannot edit {place.shown}: only the first edit may have an empty old_string")
            if first.old_string == "":
                if before is not None:
                    raise ToolError(f"cannot create {place.shown}: it exists; give the text to replace, or use write")
                return _result(place, None, first.new_string, later, done=1, stop=stop)
            if before is None:
                raise ToolError(f"cannot edit {place.shown}: it does not exist")
            check_seen(place, before, seen)
            old = before.text(place.shown)
            return _result(place, old, old, wanted.edits, done=0, stop=stop)

        return await change_file(context, wanted.file_path, plan, verb="edit")


def _result(place: Place, old: str | None, text: str, edits: list[OneEdit], *, done: int, stop: Stop) -> Planned:
    """Carry out `edits` on `text`. Raises ToolError when nothing changes at all."""
    failed: list[dict[str, object]] = []
    made = done
    for index, edit in enumerate(edits, start=done + 1):
        if stop.is_asked:
            raise ToolError(f"cannot edit {place.shown}: edit {index} was not reached in time; give fewer at once")
        try:
            text, _, _ = edited(
                text, edit.old_string, edit.new_string, replace_all=edit.replace_all, shown=f"edit {index}"
            )
            made += 1
        except ToolError as error:
            failed.append({"index": index, "error": str(error), "edit": msgspec.to_builtins(edit)})
    told = "\n".join(f"- {fault['error']}" for fault in failed)
    if not made:
        raise ToolError(f"cannot edit {place.shown}: none of the edits could be carried out\n{told}")
    if text == old:
        raise ToolError(f"cannot edit {place.shown}: after all edits it is as it was")
    said = f"{'Created' if old is None else 'Changed'} {place.shown}: {made} of {made + len(failed)} edits carried out"
    return Planned(
        old,
        text,
        f"{said}\nNot carried out:\n{told}" if failed else said,
        {"edits_applied": made, "edits_failed": failed},
    )
