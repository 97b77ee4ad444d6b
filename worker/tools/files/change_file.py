"""How every tool changes a file: plan, ask, plan again and write in one step, then remember and look what is wrong.

The plan is made twice: once to show people what they are asked about, and once more when the answer is there, because
meanwhile the file may have become another one. Only then it is written, under a lock that all tools of a worker share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocol.limits import Limits
from worker.processes.thread_pool import Stop
from worker.toolkit.paths import ResolvedPath, check_workspace, locate
from worker.toolkit.tool import ToolContext, ToolError, ToolResult
from worker.tools.files.diff import compare, excerpt
from worker.tools.files.file_io import Content, read_content, replace_content, sha256
from worker.tools.files.path_permission import expanded

ASKED_MAX_BYTES = 1024 * 1024
"""Of the texts in a request: clients send it back whole, and it is stored with the events."""


@dataclass(frozen=True)
class Planned:
    """What shall become of a file: its text before (None for a new file) and after, and a sentence that says so."""

    old: str | None
    new: str
    done: str
    metadata: Mapping[str, object] = field(default_factory=dict)


Plan = Callable[[ResolvedPath, Content | None, str | None, Stop], Planned]
"""Given the place, its content (None for no file), the hash that the session has seen, and what tells it to give up.
Raises ToolError. Blocks."""


async def change_file(
    context: ToolContext, given: str, plan: Plan, *, verb: str, shows_diff: bool = False
) -> ToolResult:
    """Change the file at `given` as planned. Raises ToolError, Denied."""
    limits, threads = context.limits, context.children.threads
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {context.workspace}")
    place = await threads.run(
        lambda _stop: locate(context.workspace, expanded(given, context)), timeout_s=limits.search_deadline_s
    )
    seen = await context.files.last_read(context.session_id, str(place.path))

    def planned(stop: Stop) -> tuple[Content | None, Planned]:
        if place.inside:
            check_workspace(context.workspace, verb)  # else it would be made again as a parent (H05)
        before = read_content(place, limits.edit_max_bytes)
        return before, plan(place, before, seen, stop)

    def write(stop: Stop) -> Planned:
        with threads.writing:  # between this plan and the write, no other session of ours changes the file
            before, wanted = planned(stop)
            data = encoded(wanted.new, limits.edit_max_bytes, place.shown)
            replace_content(place, data, before.mode if before else None)
        return wanted

    def to_ask(stop: Stop) -> tuple[Planned, str, str]:
        _, wanted = planned(stop)
        encoded(wanted.new, limits.edit_max_bytes, place.shown)
        return wanted, *excerpt(wanted.old or "", wanted.new, ASKED_MAX_BYTES)

    wanted, old, new = await threads.run(to_ask, timeout_s=limits.search_deadline_s)
    await context.permit(
        action="write",
        path=str(context.workspace if place.inside else place.path),
        description=f"{'Create' if wanted.old is None else 'Change'} {place.shown}",
        params={"file_path": str(place.path), "old_content": old, "new_content": new},
    )
    wanted = await threads.run(write, timeout_s=limits.search_deadline_s)
    path = str(place.path)
    await context.files.record_read(context.session_id, path, sha256(wanted.new.encode()))
    await context.history.record(context.session_id, path, wanted.old, wanted.new)
    metadata = await threads.run(
        lambda _stop: _metadata(wanted, place, limits, shows_diff), timeout_s=limits.search_deadline_s
    )
    wrong = await context.code.changed(place.path)
    text = f"<result>\n{wanted.done}\n</result>"
    return ToolResult(f"{text}\n{wrong}" if wrong else text, metadata={**metadata, **wanted.metadata})


def encoded(text: str, max_bytes: int, shown: str) -> bytes:
    """`text` as it goes into a file. Raises ToolError when it cannot, or is too long."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolError(f"cannot write {shown}: the text holds half a character at {error.start}") from error
    if len(data) > max_bytes:
        raise ToolError(f"cannot write {shown}: more than {max_bytes} bytes; write it in parts with bash")
    return data


def check_seen(place: ResolvedPath, now: Content, seen: str | None) -> None:
    """Raise ToolError unless the session has last seen exactly this content (W-65)."""
    if seen is None:
        raise ToolError(f"cannot change {place.shown}: it has not been read in this session; view it first")
    if seen != now.sha256:
        raise ToolError(f"cannot change {place.shown}: it has changed since it was last read; view it again")


def _metadata(wanted: Planned, place: ResolvedPath, limits: Limits, shows_diff: bool) -> dict[str, object]:
    """Counts of lines; and both texts, for clients that draw the difference, when they are not too long (W-62)."""
    old = wanted.old or ""
    change = compare(old, wanted.new, place.shown, limits.tool_metadata_max_bytes)
    metadata: dict[str, object] = {"additions": change.additions, "removals": change.removals}
    if shows_diff:
        return {"diff": change.diff, **metadata}
    if len(old.encode()) + len(wanted.new.encode()) <= limits.tool_metadata_max_bytes:
        metadata |= {"old_content": old, "new_content": wanted.new}
    return metadata
