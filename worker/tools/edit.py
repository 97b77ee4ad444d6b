"""The tool `edit`: replaces a text in a file that the session has read, or makes a new file."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.limits import Limits
from worker.tools.changes import compare
from worker.tools.disk import Content, read_content, replace_content, sha256
from worker.tools.paths import Place, locate_inside
from worker.tools.replace import NoMatch, SeveralMatches, replace_text
from worker.tools.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.write import check_seen, encoded


class EditArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `edit`."""

    file_path: Annotated[str, Meta(description="The file to change, absolute or relative to the workspace")]
    old_string: Annotated[str, Meta(description="The text to replace, exactly as it stands; empty makes a new file")]
    new_string: Annotated[str, Meta(description="What to put in its place; empty deletes the text")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not only one")] = False


class Edit:
    """Changes one file inside the workspace, in one step."""

    spec = ToolSpec("edit", description_of("edit"), schema_of(EditArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `edit.md`."""
        wanted = read_args(EditArgs, args)
        limits, threads = context.limits, context.children.threads
        place = await threads.run(
            lambda _stop: locate_inside(context.workspace, wanted.file_path, verb="edit"),
            within_s=limits.search_deadline_s,
        )
        seen = await context.files.last_read(context.session_id, str(place.path))

        def plan(_stop: object = None) -> tuple[Content | None, str, str, str]:
            before = read_content(place, limits.edit_max_bytes)
            if wanted.old_string == "":
                return before, *_new_file(place, before, wanted)
            return before, *_changed(place, before, seen, wanted)

        def edit(_stop: object) -> tuple[str, str, str]:
            with threads.writing:  # between this check and the write, no other session of ours changes the file
                before, old, new, done = plan()
                data = encoded(new, limits.edit_max_bytes, place.shown)
                replace_content(place, data, before.mode if before else None)
            return old, new, done

        _, old, new, done = await threads.run(plan, within_s=limits.search_deadline_s)
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"{'Edit' if old else 'Create'} {place.shown}",
            params={"file_path": str(place.path), "old_content": old, "new_content": new},
        )
        old, new, done = await threads.run(edit, within_s=limits.search_deadline_s)
        await context.files.record_read(context.session_id, str(place.path), sha256(new.encode("utf-8")))
        metadata = await threads.run(
            lambda _stop: _metadata(old, new, place, limits), within_s=limits.search_deadline_s
        )
        wrong = await context.code.changed(place.path)
        return ToolResult(f"<result>\n{done}\n</result>" + (f"\n{wrong}" if wrong else ""), metadata=metadata)


def _new_file(place: Place, before: Content | None, wanted: EditArgs) -> tuple[str, str, str]:
    if before is not None:
        raise ToolError(f"cannot create {place.shown}: it exists; give the text to replace, or use write")
    return "", wanted.new_string, f"Created {place.shown}"


def _changed(place: Place, before: Content | None, seen: str | None, wanted: EditArgs) -> tuple[str, str, str]:
    """Old text, new text and what was done. Raises ToolError."""
    if before is None:
        raise ToolError(f"cannot edit {place.shown}: it does not exist; with an empty old_string it would be created")
    check_seen(place, before, seen)
    old = before.text(place.shown)
    try:
        replaced = replace_text(old, wanted.old_string, wanted.new_string, replace_all=wanted.replace_all)
    except NoMatch:
        raise ToolError(
            f"cannot edit {place.shown}: old_string was not found; it must be exactly as in the file, white space and "
            "line breaks included (without the line numbers that view shows)"
        ) from None
    except SeveralMatches:
        raise ToolError(
            f"cannot edit {place.shown}: old_string occurs more than once; take in more of the surrounding lines so "
            "that it is unique, or set replace_all"
        ) from None
    if replaced.text == old:
        raise ToolError(f"cannot edit {place.shown}: old_string and new_string are the same, nothing would change")
    places = "1 place" if replaced.count == 1 else f"{replaced.count} places"
    return old, replaced.text, f"Changed {places} in {place.shown}"


def _metadata(old: str, new: str, place: Place, limits: Limits) -> dict[str, object]:
    """Counts of lines; and both texts, for clients that draw the difference, when they are not too long (W-62)."""
    change = compare(old, new, place.shown, limits.tool_metadata_max_bytes)
    metadata: dict[str, object] = {"additions": change.additions, "removals": change.removals}
    if len(old.encode()) + len(new.encode()) <= limits.tool_metadata_max_bytes:
        metadata |= {"old_content": old, "new_content": new}
    return metadata
