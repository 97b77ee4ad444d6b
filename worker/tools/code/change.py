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
from worker.tools.code.symbol_positions import SymbolPosition, first_answer, server_of
from worker.tools.files.change_file import REQUEST_MAX_BYTES, check_last_read, encode_text
from worker.tools.files.diff import excerpt
from worker.tools.files.file_io import Content, read_content, replace_content, sha256

FILES_MAX = 500
LISTED_MAX = 50
_EDIT: Decoder[WorkspaceEdit | None] = Decoder(WorkspaceEdit | None)


class RenameArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_rename`."""

    symbol: Annotated[str, Meta(description="The name of the symbol, such as `parse` or `Reader.parse`")]
    new_name: Annotated[str, Meta(description="Its new name, without any prefix such as `Reader.`")]
    path: Annotated[
        str, Meta(description="The file or directory in which it is defined; the workspace when left out")
    ] = ""


class ReplaceArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_replace_symbol`."""

    symbol: Annotated[str, Meta(description="The name of the symbol, such as `parse` or `Reader.parse`")]
    file_path: Annotated[str, Meta(description="The file that contains it, absolute or relative to the workspace")]
    replacement: Annotated[str, Meta(description="Whole lines, with their indentation")] = ""
    action: Annotated[
        Literal["replace", "add_before", "add_after", "delete"], Meta(description="What to do; replace when left out")
    ] = "replace"


@dataclass(frozen=True)
class SymbolChange:
    """The change of one file. `was_read`: the session had last read exactly the old content."""

    resolved: ResolvedPath
    content: Content
    old: str
    new: str
    was_read: bool


class Rename:
    """Rename a symbol in all files."""

    spec = ToolSpec(
        "lsp_rename", description_of(__file__, "lsp_rename"), schema_of(RenameArgs), parallel=False, effect="write"
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_rename.md`."""
        arguments = read_args(RenameArgs, args)
        if not arguments.new_name.strip():
            raise ToolError("cannot rename: the new name is empty")

        async def ask(server: LanguageServer, position: SymbolPosition) -> WorkspaceEdit | None:
            edit = await server.request("textDocument/rename", position.params(newName=arguments.new_name), _EDIT)
            return edit if edit is not None and (edit.changes or edit.documentChanges) else None

        for server in self._servers.servers.values():  # files may have changed since the server last read them
            await server.sync()
        edit = await first_answer(self._servers, arguments.symbol, arguments.path, context, ask, verb="rename")
        try:
            by_file = edits_by_file(edit)
        except BadEdit as error:
            raise ToolError(f"cannot rename {arguments.symbol}: {error}") from None
        if len(by_file) > FILES_MAX:
            raise ToolError(
                f"cannot rename {arguments.symbol}: {len(by_file)} files would change, at most {FILES_MAX} may"
            )
        threads, timeout_s = context.children.threads, context.limits.search_deadline_s
        edits = await threads.run(lambda _stop: _edits_by_path(by_file, context), timeout_s=timeout_s)
        last_read = {
            resolved.path: await context.files.last_read(context.session_id, str(resolved.path))
            for resolved, _ in edits
        }
        changes = await threads.run(lambda _stop: _plan(edits, last_read, context), timeout_s=timeout_s)
        names = [change.resolved.shown for change in changes]
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"Rename {arguments.symbol} to {arguments.new_name} in {_listed(names)}",
            params=None,
        )
        count = sum(len(edits_of_file) for _, edits_of_file in edits)
        text = f"Renamed {arguments.symbol} to {arguments.new_name}: {count} places in {_listed(names)}"
        return await _carry_out(changes, text, None, context, self._servers)


class ReplaceSymbol:
    """Replace, remove or extend one symbol."""

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
        arguments = read_args(ReplaceArgs, args)
        steps = steps_of(arguments.symbol)
        if not steps:
            raise ToolError("cannot replace: the symbol is empty; give the name of a function or class")
        if not arguments.replacement and arguments.action != "delete":
            raise ToolError(f"cannot {arguments.action} {arguments.symbol}: the replacement is missing")
        server = await server_of(self._servers, arguments.file_path, context, verb="change")
        threads, timeout_s = context.children.threads, context.limits.search_deadline_s
        resolved = await threads.run(
            lambda _stop: locate_inside(context.workspace, arguments.file_path, verb="change"), timeout_s=timeout_s
        )
        symbols = await symbols_of(server, resolved.path)
        matching = find_symbols(symbols, steps)
        if len(matching) != 1 or (whole := matching[0].whole) is None:
            reason = "there is no such symbol" if not matching else "there are several; name what it belongs to as well"
            existing = "\n".join(outline(symbols)[:LISTED_MAX])
            raise ToolError(
                f"cannot change {arguments.symbol} in {resolved.shown}: {reason}. The file has:\n{existing}"
            )
        last_read = await context.files.last_read(context.session_id, str(resolved.path))

        def plan(_stop: object) -> SymbolChange:
            content = read_content(resolved, context.limits.edit_max_bytes)
            if content is None:
                raise ToolError(f"cannot change {resolved.shown}: it no longer exists")
            check_last_read(resolved, content, last_read)
            old = content.text(resolved.shown)
            return SymbolChange(
                resolved, content, old, replaced_lines(old, whole, arguments.replacement, arguments.action), True
            )

        change = await threads.run(plan, timeout_s=timeout_s)
        texts = {"file_path": str(resolved.path), "old_content": change.old, "new_content": change.new}
        old, new = await threads.run(
            lambda _stop: excerpt(change.old, change.new, REQUEST_MAX_BYTES), timeout_s=timeout_s
        )
        await context.permit(
            action="write",
            path=str(context.workspace),
            description=f"{_DONE[arguments.action]} {arguments.symbol} in {resolved.shown}",
            params=texts | {"old_content": old, "new_content": new},
        )
        metadata: dict[str, object] = {"file_path": str(resolved.path), "action": arguments.action}
        if len(change.old.encode()) + len(change.new.encode()) <= context.limits.tool_metadata_max_bytes:
            metadata |= texts
        text = f"{_DONE[arguments.action]} {arguments.symbol} in {resolved.shown}: done"
        return await _carry_out([change], text, metadata, context, self._servers)


_DONE = {"replace": "Replace", "add_before": "Add before", "add_after": "Add after", "delete": "Delete"}


def replaced_lines(text: str, whole: Range, replacement: str, action: str) -> str:
    """Replace or remove the lines of the range, or add lines before or after it. Raises ToolError."""
    starts = line_starts(text)
    lines = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True) if start < end]
    first, last = whole.start.line, whole.end.line
    if whole.end.character == 0 and last > first:
        last -= 1  # a range that ends before the first character of a line does not include it
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


def _edits_by_path(
    by_file: Mapping[Path, list[TextEdit]], context: ToolContext
) -> list[tuple[ResolvedPath, list[TextEdit]]]:
    """Group the edits by resolved path: a server may name a file twice, by a link. Blocks. Raises ToolError."""
    merged: dict[Path, tuple[ResolvedPath, list[TextEdit]]] = {}
    for path, edits in sorted(by_file.items()):
        resolved = locate_inside(context.workspace, str(path), verb="rename in")
        existing = merged.setdefault(resolved.path, (resolved, []))[1]
        existing += [edit for edit in edits if edit not in existing] if existing else edits
    return list(merged.values())


def _plan(
    edits_by_path: Sequence[tuple[ResolvedPath, list[TextEdit]]],
    last_read: Mapping[Path, str | None],
    context: ToolContext,
) -> list[SymbolChange]:
    """Apply the edits to the current contents of the files. Blocks. Raises ToolError."""
    changes = []
    for resolved, edits in edits_by_path:
        content = read_content(resolved, context.limits.edit_max_bytes)
        if content is None:
            raise ToolError(f"cannot rename in {resolved.shown}: it does not exist")
        if (digest := last_read[resolved.path]) is not None:  # a session that read the file must know this content
            check_last_read(resolved, content, digest)
        old = content.text(resolved.shown)
        try:
            new = apply_edits(old, edits)
        except BadEdit as error:
            raise ToolError(f"cannot rename in {resolved.shown}: {error}") from None
        changes.append(SymbolChange(resolved, content, old, new, digest is not None))
    return changes


async def _carry_out(
    changes: list[SymbolChange],
    done: str,
    metadata: dict[str, object] | None,
    context: ToolContext,
    servers: LanguageServers,
) -> ToolResult:
    """Write all files unless one has changed meanwhile, then record it and get diagnostics. Raises ToolError."""
    threads, limits = context.children.threads, context.limits
    written: list[SymbolChange] = []

    def write(_stop: object) -> None:
        with threads.writing:  # no other session of this worker changes a file between the check and the write
            for change in changes:
                current = read_content(change.resolved, limits.edit_max_bytes)
                if current is None or current.data != change.content.data:
                    raise ToolError(f"cannot change {change.resolved.shown}: it has changed meanwhile; try again")
            for change in changes:
                data = encode_text(change.new, limits.edit_max_bytes, change.resolved.shown)
                replace_content(change.resolved, data, change.content.mode)
                written.append(change)

    problem = ""
    try:
        await threads.run(write, timeout_s=limits.search_deadline_s)
    except ToolError as error:
        if not written:
            raise
        problem = str(error)
    for change in written:
        path = str(change.resolved.path)
        await context.history.record(context.session_id, path, change.old, change.new)
        if change.was_read:  # a file that the session never read must still be read before an edit
            await context.files.record_read(context.session_id, path, sha256(change.new.encode()))
    if problem:
        names = _listed([change.resolved.shown for change in written])
        raise ToolError(f"{problem}\nAlready changed: {names}")
    text = f"<result>\n{done}\n</result>"
    problems = await servers.changed(written[0].resolved.path, [change.resolved.path for change in written[1:]])
    return ToolResult(f"{text}\n{problems}" if problems else text, metadata=metadata)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    return f"{len(names)} {'file' if len(names) == 1 else 'files'}: {', '.join(names[:LISTED_MAX])}{more}"
