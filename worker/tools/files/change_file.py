"""Change a file: plan, ask for permission, plan again and write in one step, then record it and get diagnostics.

The change is planned twice: once to show it in the permission request, and again after the answer, because the file may
have changed meanwhile. The second plan and the write share a lock that all tools of a worker use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocol.limits import Limits
from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath, check_workspace, locate
from worker.toolkit.tool import ToolContext, ToolError, ToolResult
from worker.tools.files.diff import compare, excerpt
from worker.tools.files.file_io import Content, read_content, replace_content, sha256
from worker.tools.files.path_permission import expand_home

REQUEST_MAX_BYTES = 1024 * 1024
"""Of the two texts in a permission request: clients send it back whole, and it is stored with the events."""


@dataclass(frozen=True)
class PlannedChange:
    """A planned change: the text before (None for a new file) and after, and a sentence for the result."""

    old: str | None
    new: str
    done: str
    metadata: Mapping[str, object] = field(default_factory=dict)


Plan = Callable[[ResolvedPath, Content | None, str | None, StopFlag], PlannedChange]
"""Takes the path, its content (None for no file), the hash that the session last read, and a `Stop` that is set when
the caller timed out. Raises ToolError. Blocks."""


async def change_file(
    context: ToolContext, given: str, plan: Plan, *, verb: str, shows_diff: bool = False
) -> ToolResult:
    """Change the file at the path `given` as planned. Raises ToolError, ToolDenied."""
    limits, threads = context.limits, context.children.threads
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {context.workspace}")
    resolved = await threads.run(
        lambda _stop: locate(context.workspace, expand_home(given, context)), timeout_s=limits.search_deadline_s
    )
    last_read = await context.files.last_read(context.session_id, str(resolved.path))

    def make_plan(stop: StopFlag) -> tuple[Content | None, PlannedChange]:
        if resolved.inside:
            check_workspace(context.workspace, verb)  # else it would be created as a missing parent (H05)
        content = read_content(resolved, limits.edit_max_bytes)
        return content, plan(resolved, content, last_read, stop)

    def write(stop: StopFlag) -> PlannedChange:
        with threads.writing:  # no other session of this worker changes the file between the plan and the write
            content, change = make_plan(stop)
            data = encode_text(change.new, limits.edit_max_bytes, resolved.shown)
            replace_content(resolved, data, content.mode if content else None)
        return change

    def describe(stop: StopFlag) -> tuple[PlannedChange, str, str]:
        _, change = make_plan(stop)
        encode_text(change.new, limits.edit_max_bytes, resolved.shown)
        return change, *excerpt(change.old or "", change.new, REQUEST_MAX_BYTES)

    change, old, new = await threads.run(describe, timeout_s=limits.search_deadline_s)
    await context.permit(
        action="write",
        path=str(context.workspace if resolved.inside else resolved.path),
        description=f"{'Create' if change.old is None else 'Change'} {resolved.shown}",
        params={"file_path": str(resolved.path), "old_content": old, "new_content": new},
    )
    change = await threads.run(write, timeout_s=limits.search_deadline_s)
    path = str(resolved.path)
    await context.files.record_read(context.session_id, path, sha256(change.new.encode()))
    await context.history.record(context.session_id, path, change.old, change.new)
    metadata = await threads.run(
        lambda _stop: _metadata(change, resolved, limits, shows_diff), timeout_s=limits.search_deadline_s
    )
    problems = await context.code.changed(resolved.path)
    text = f"<result>\n{change.done}\n</result>"
    return ToolResult(f"{text}\n{problems}" if problems else text, metadata={**metadata, **change.metadata})


def encode_text(text: str, max_bytes: int, shown: str) -> bytes:
    """Encode a text for a file. Raises ToolError when that is impossible, or it is too long."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolError(f"cannot write {shown}: the text has half a surrogate pair at {error.start}") from error
    if len(data) > max_bytes:
        raise ToolError(f"cannot write {shown}: it would have more than {max_bytes} bytes; write it in parts with bash")
    return data


def check_last_read(resolved: ResolvedPath, content: Content, last_read: str | None) -> None:
    """Raise ToolError unless the session has last read exactly this content (W-65)."""
    if last_read is None:
        raise ToolError(f"cannot change {resolved.shown}: it has not been read in this session; view it first")
    if last_read != content.sha256:
        raise ToolError(f"cannot change {resolved.shown}: it has changed since it was last read; view it again")


def _metadata(change: PlannedChange, resolved: ResolvedPath, limits: Limits, shows_diff: bool) -> dict[str, object]:
    """Return the line counts, and both texts for clients that draw the difference unless they are too long (W-62)."""
    old = change.old or ""
    comparison = compare(old, change.new, resolved.shown, limits.tool_metadata_max_bytes)
    metadata: dict[str, object] = {"additions": comparison.additions, "removals": comparison.removals}
    if shows_diff:
        return {"diff": comparison.diff, **metadata}
    if len(old.encode()) + len(change.new.encode()) <= limits.tool_metadata_max_bytes:
        metadata |= {"old_content": old, "new_content": change.new}
    return metadata
