"""The tool `edit`: replaces a text in a file that the session has read, or makes a new file."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import Stop
from worker.toolkit.paths import Place
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import Planned, change_file, check_seen
from worker.tools.files.file_io import Content
from worker.tools.files.replace import NoMatch, SeveralMatches, replace_text
from worker.tools.files.whitespace_match import hint, replace_loosely

LOOSE_NOTE = (
    "The text was found only with its white space taken loosely, and the new text was indented as the file is. "
    "Look at the place before the next change."
)


class EditArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `edit`."""

    file_path: Annotated[str, Meta(description="The file to change, absolute or relative to the workspace")]
    old_string: Annotated[str, Meta(description="The text to replace, exactly as it stands; empty makes a new file")]
    new_string: Annotated[str, Meta(description="What to put in its place; empty deletes the text")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not only one")] = False


class Edit:
    """Changes one file in one step."""

    spec = ToolSpec("edit", description_of(__file__, "edit"), schema_of(EditArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `edit.md`."""
        wanted = read_args(EditArgs, args)

        def plan(place: Place, before: Content | None, seen: str | None, stop: Stop) -> Planned:
            if wanted.old_string == "":
                if before is not None:
                    raise ToolError(f"cannot create {place.shown}: it exists; give the text to replace, or use write")
                return Planned(None, wanted.new_string, f"Created {place.shown}")
            if before is None:
                raise ToolError(
                    f"cannot edit {place.shown}: it does not exist; with an empty old_string it would be created"
                )
            check_seen(place, before, seen)
            old = before.text(place.shown)
            new, count, is_loose = edited(
                old, wanted.old_string, wanted.new_string, replace_all=wanted.replace_all, shown=place.shown
            )
            done = f"Changed {'1 place' if count == 1 else f'{count} places'} in {place.shown}"
            return Planned(old, new, f"{done}\n{LOOSE_NOTE}" if is_loose else done)

        return await change_file(context, wanted.file_path, plan, verb="edit")


def edited(text: str, old: str, new: str, *, replace_all: bool, shown: str) -> tuple[str, int, bool]:
    """The text with `old` replaced, how many places changed, and whether white space was taken loosely.

    Raises ToolError that says what would help.
    """
    is_loose = False
    try:
        try:
            replaced = replace_text(text, old, new, replace_all=replace_all)
        except NoMatch:
            is_loose = True
            replaced = replace_loosely(text, old, new, replace_all=replace_all)
    except NoMatch:
        raise ToolError(
            f"cannot edit {shown}: old_string was not found; it must be as in the file, without the line numbers that "
            f"view shows{hint(text, old)}"
        ) from None
    except SeveralMatches:
        raise ToolError(
            f"cannot edit {shown}: old_string occurs more than once; take in more of the surrounding lines so that it "
            "is unique, or set replace_all"
        ) from None
    if replaced.text == text:
        raise ToolError(f"cannot edit {shown}: old_string and new_string are the same, nothing would change")
    return replaced.text, replaced.count, is_loose
