"""The tool `edit`: replace a text in a file that the session has read, or create a file."""

from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.change_file import PlannedChange, change_file, check_last_read
from worker.tools.files.file_io import Content
from worker.tools.files.replace import NoMatch, SeveralMatches, replace_text
from worker.tools.files.whitespace_match import describe_closest_lines, replace_ignoring_whitespace

WHITESPACE_NOTE = (
    "The text matched only when differences in white space were ignored, and the new text was indented like the file. "
    "View the changed lines before the next change."
)


class EditArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `edit`."""

    file_path: Annotated[str, Meta(description="The file to change, absolute or relative to the workspace")]
    old_string: Annotated[str, Meta(description="The text to replace, exactly as in the file; empty creates a file")]
    new_string: Annotated[str, Meta(description="The text to replace it with; empty deletes the text")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not only one")] = False


class Edit:
    """Change one file in one step."""

    spec = ToolSpec("edit", description_of(__file__, "edit"), schema_of(EditArgs), parallel=False, effect="write")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `edit.md`."""
        arguments = read_args(EditArgs, args)

        def plan(
            resolved: ResolvedPath, content: Content | None, last_read: str | None, stop: StopFlag
        ) -> PlannedChange:
            if arguments.old_string == "":
                if content is not None:
                    raise ToolError(f"cannot create {resolved.shown}: it exists; give the text to replace or use write")
                return PlannedChange(None, arguments.new_string, f"Created {resolved.shown}")
            if content is None:
                raise ToolError(f"cannot edit {resolved.shown}: it does not exist; an empty old_string would create it")
            check_last_read(resolved, content, last_read)
            old = content.text(resolved.shown)
            new, count, ignored_whitespace = apply_edit(
                old, arguments.old_string, arguments.new_string, replace_all=arguments.replace_all, shown=resolved.shown
            )
            done = f"Changed {'1 place' if count == 1 else f'{count} places'} in {resolved.shown}"
            return PlannedChange(old, new, f"{done}\n{WHITESPACE_NOTE}" if ignored_whitespace else done)

        return await change_file(context, arguments.file_path, plan, verb="edit")


def apply_edit(text: str, old: str, new: str, *, replace_all: bool, shown: str) -> tuple[str, int, bool]:
    """Replace `old` and return the text, the number of replacements, and whether white space was ignored.

    Raises ToolError that says how to correct the call.
    """
    ignored_whitespace = False
    try:
        try:
            replaced = replace_text(text, old, new, replace_all=replace_all)
        except NoMatch:
            ignored_whitespace = True
            replaced = replace_ignoring_whitespace(text, old, new, replace_all=replace_all)
    except NoMatch:
        raise ToolError(
            f"cannot edit {shown}: old_string was not found; it must be as in the file, without the line numbers that "
            f"view shows{describe_closest_lines(text, old)}"
        ) from None
    except SeveralMatches:
        raise ToolError(
            f"cannot edit {shown}: old_string occurs more than once; include more of the surrounding lines so that it "
            "is unique, or set replace_all"
        ) from None
    if replaced.text == text:
        raise ToolError(f"cannot edit {shown}: old_string and new_string are the same, nothing would change")
    return replaced.text, replaced.count, ignored_whitespace
