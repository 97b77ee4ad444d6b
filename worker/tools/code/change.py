"""The tools that change code as language servers understand it: `lsp_rename` and `lsp_replace_symbol`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.json import Decoder

from worker.lsp.edits import BadEdit, apply_edits, edits_by_file, line_starts
from worker.lsp.server import LanguageServer
from worker.lsp.service import LanguageServers
from worker.lsp.symbols import find_symbols, outline, steps_of
from worker.lsp.types import Range, TextEdit, WorkspaceEdit
from worker.toolkit.paths import ResolvedPath, locate_inside
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.code.query import symbols_of
from worker.tools.code.symbol_positions import Spot, first_answer, server_of
from worker.tools.files.change_file import REQUEST_MAX_BYTES, check_last_read, encode_text
from worker.tools.files.diff import excerpt
from worker.tools.files.file_io import Content, read_content, replace_content, sha256

FILES_MAX = 500
LISTED_MAX = 50
_EDIT: Decoder[WorkspaceEdit | None] = Decoder(WorkspaceEdit | None)


class RenameArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_rename`."""

    symbol: Annotated[str, Meta(description="The name of the symbol, such as `parse` or `Reader.parse`")]
    new_name: Annotated[str, Meta(description="Its new name, without what stands before the last dot")]
    path: Annotated[str, Meta(description="The file or directory in which it is defined; all when left out")] = ""


class ReplaceArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_replace_symbol`."""

    symbol: Annotated[str, Meta(description="The name of the symbol, such as `parse` or `Reader.parse`")]
    file_path: Annotated[str, Meta(description="The file that holds it, absolute or relative to the workspace")]
    replacement: Annotated[str, Meta(description="Whole lines, with their indentation")] = ""
    action: Annotated[
        Literal["replace", "add_before", "add_after", "delete"], Meta(description="What to do; replace when left out")
    ] = "replace"


@dataclass(frozen=True)
class Change:
    """What becomes of one file. `seen`: the session knew exactly its old content."""

    place: ResolvedPath
    before: Content
    old: str
    new: str
    seen: bool


class Rename:
    """Renames a symbol over all files."""

    spec = ToolSpec(
        "lsp_rename", description_of(__file__, "lsp_rename"), schema_of(RenameArgs), parallel=False, effect="write"
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_rename.md`."""
        wanted = read_args(RenameArgs, args)
        if not wanted.new_name.strip():
            raise ToolError("cannot rename: the new name is empty")

        async def ask(server: LanguageServer, spot: Spot) -> WorkspaceEdit | None:
            edit = await server.request("textDocument/rename", spot.params(newName=wanted.new_name), _EDIT)
            return edit if edit is not None and (edit.changes or edit.documentChanges) else None

        for server in self._servers.servers.values():  # other files may have changed since it last looked
            await server.sync()
        edit = await first_answer(self._servers, wanted.symbol, wanted.path, context, ask, verb="rename")
        try:
            by_file = edits_by_file(edit)
        except BadEdit as error:
            raise ToolError(f"cannot rename {wanted.symbol}: {error}") from None
        if len(by_file) > FILES_MAX:
            raise ToolError(
                f"cannot rename {wanted.symbol}: {len(by_file)} files would change, at most {FILES_MAX} may"
            )
        threads, timeout_s = context.children.threads, context.limits.search_deadline_s
        by_place = await threads.run(lambda _stop: _by_place(by_file, context), timeout_s=timeout_s)
        seen = {place.path: await context.files.last_read(context.session_id, str(place.path)) for place, _ in by_place}
        changes = await threads.run(lambda _stop: _planned(by_place, seen, context), timeout_s=timeout_s)
        names = [change.place.shown for change in changes]
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"Rename {wanted.symbol} to {wanted.new_name} in {_listed(names)}",
            params=None,
        )
        count = sum(len(edits) for _, edits in by_place)
        text = f"Renamed {wanted.symbol} to {wanted.new_name}: {count} places in {_listed(names)}"
        return await _carry_out(changes, text, None, context, self._servers)


class ReplaceSymbol:
    """Replaces, removes or extends one symbol."""

    spec = ToolSpec(
        "lsp_replace_symbol",
        description_of(__file__, "lsp_replace_symbol"),
        schema_of(ReplaceArgs),
        parallel=False,
        effect="write",
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_replace_symbol.md`."""
        wanted = read_args(ReplaceArgs, args)
        steps = steps_of(wanted.symbol)
        if not steps:
            raise ToolError("cannot replace: the symbol is empty; give the name of a function or class")
        if not wanted.replacement and wanted.action != "delete":
            raise ToolError(f"cannot {wanted.action} {wanted.symbol}: the replacement is missing")
        server = await server_of(self._servers, wanted.file_path, context, verb="change")
        threads, timeout_s = context.children.threads, context.limits.search_deadline_s
        place = await threads.run(
            lambda _stop: locate_inside(context.workspace, wanted.file_path, verb="change"), timeout_s=timeout_s
        )
        symbols = await symbols_of(server, place.path)
        found = find_symbols(symbols, steps)
        if len(found) != 1 or (whole := found[0].whole) is None:
            why = "there is no such symbol" if not found else "it is there more than once; name what it belongs to too"
            known = "\n".join(outline(symbols)[:LISTED_MAX])
            raise ToolError(f"cannot change {wanted.symbol} in {place.shown}: {why}. The file has:\n{known}")
        seen = await context.files.last_read(context.session_id, str(place.path))

        def plan(_stop: object) -> Change:
            before = read_content(place, context.limits.edit_max_bytes)
            if before is None:
                raise ToolError(f"cannot change {place.shown}: it does not exist any more")
            check_last_read(place, before, seen)
            old = before.text(place.shown)
            return Change(place, before, old, replaced_lines(old, whole, wanted.replacement, wanted.action), True)

        change = await threads.run(plan, timeout_s=timeout_s)
        content = {"file_path": str(place.path), "old_content": change.old, "new_content": change.new}
        old, new = await threads.run(
            lambda _stop: excerpt(change.old, change.new, REQUEST_MAX_BYTES), timeout_s=timeout_s
        )
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"{_DONE[wanted.action]} {wanted.symbol} in {place.shown}",
            params=content | {"old_content": old, "new_content": new},
        )
        metadata: dict[str, object] = {"file_path": str(place.path), "action": wanted.action}
        if len(change.old.encode()) + len(change.new.encode()) <= context.limits.tool_metadata_max_bytes:
            metadata |= content
        text = f"{_DONE[wanted.action]} {wanted.symbol} in {place.shown}: done"
        return await _carry_out([change], text, metadata, context, self._servers)


_DONE = {"replace": "Replace", "add_before": "Add before", "add_after": "Add after", "delete": "Delete"}


def replaced_lines(text: str, whole: Range, replacement: str, action: str) -> str:
    """The text with the lines of the range replaced, removed, or with lines added before or after. Raises ToolError."""
    starts = line_starts(text)
    lines = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True) if start < end]
    first, last = whole.start.line, whole.end.line
    if whole.end.character == 0 and last > first:
        last -= 1  # a range that ends before the first character of a line does not mean that line
    if not 0 <= first <= last < len(lines):
        raise ToolError(f"cannot change lines {first + 1} to {last + 1}: the file has {len(lines)}")
    end = "\r\n" if lines[first].endswith("\r\n") else "\n"
    new = [line + end for line in replacement.splitlines()]
    if last == len(lines) - 1 and new and not lines[last].endswith(("\n", "\r")):
        if action in ("replace", "add_after"):
            new[-1] = new[-1].removesuffix(end)
        if action == "add_after":
            lines[last] += end
    match action:
        case "add_before":
            lines[first:first] = new
        case "add_after":
            lines[last + 1 : last + 1] = new
        case "delete":
            del lines[first : last + 1]
        case _:
            lines[first : last + 1] = new
    return "".join(lines)


def _by_place(
    by_file: Mapping[Path, list[TextEdit]], context: ToolContext
) -> list[tuple[ResolvedPath, list[TextEdit]]]:
    """The edits of each real file: a server that looks through links names one file twice. Blocks. Raises ToolError."""
    found: dict[Path, tuple[ResolvedPath, list[TextEdit]]] = {}
    for path, edits in sorted(by_file.items()):
        place = locate_inside(context.workspace, str(path), verb="rename in")
        known = found.setdefault(place.path, (place, []))[1]
        known += [edit for edit in edits if edit not in known] if known else edits
    return list(found.values())


def _planned(
    by_place: Sequence[tuple[ResolvedPath, list[TextEdit]]], seen: Mapping[Path, str | None], context: ToolContext
) -> list[Change]:
    """What the edits make of the files as they are now. Blocks. Raises ToolError."""
    changes = []
    for place, edits in by_place:
        before = read_content(place, context.limits.edit_max_bytes)
        if before is None:
            raise ToolError(f"cannot rename in {place.shown}: it does not exist")
        if (known := seen[place.path]) is not None:  # what the session believes to know has to be true
            check_last_read(place, before, known)
        old = before.text(place.shown)
        try:
            new = apply_edits(old, edits)
        except BadEdit as error:
            raise ToolError(f"cannot rename in {place.shown}: {error}") from None
        changes.append(Change(place, before, old, new, known is not None))
    return changes


async def _carry_out(
    changes: list[Change],
    done: str,
    metadata: dict[str, object] | None,
    context: ToolContext,
    servers: LanguageServers,
) -> ToolResult:
    """Write all files unless one has changed meanwhile, then tell everybody. Raises ToolError."""
    threads, limits = context.children.threads, context.limits
    written: list[Change] = []

    def write(_stop: object) -> None:
        with threads.writing:  # no other session of ours changes one of them between the check and the write
            for change in changes:
                now = read_content(change.place, limits.edit_max_bytes)
                if now is None or now.data != change.before.data:
                    raise ToolError(f"cannot change {change.place.shown}: it has changed in the meantime; try again")
            for change in changes:
                data = encode_text(change.new, limits.edit_max_bytes, change.place.shown)
                replace_content(change.place, data, change.before.mode)
                written.append(change)

    problem = ""
    try:
        await threads.run(write, timeout_s=limits.search_deadline_s)
    except ToolError as error:
        if not written:
            raise
        problem = str(error)
    for change in written:
        path = str(change.place.path)
        await context.history.record(context.session_id, path, change.old, change.new)
        if change.seen:  # what the session never read it must still read before it may edit it
            await context.files.record_read(context.session_id, path, sha256(change.new.encode()))
    if problem:
        names = _listed([change.place.shown for change in written])
        raise ToolError(f"{problem}\nChanged before that: {names}")
    text = f"<result>\n{done}\n</result>"
    wrong = await servers.changed(written[0].place.path, [change.place.path for change in written[1:]])
    return ToolResult(f"{text}\n{wrong}" if wrong else text, metadata=metadata)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    return f"{len(names)} {'file' if len(names) == 1 else 'files'}: {', '.join(names[:LISTED_MAX])}{more}"
