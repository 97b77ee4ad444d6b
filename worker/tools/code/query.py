"""The tools that ask language servers: `lsp_references`, `lsp_definition`, `lsp_call_hierarchy`, `lsp_symbols`."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.json import Decoder

from worker.lsp.connection import LspError
from worker.lsp.documents import read_text
from worker.lsp.server import ANYTHING, LanguageServer
from worker.lsp.service import LanguageServers
from worker.lsp.symbols import outline
from worker.lsp.types import KINDS, CallItem, HierarchyCall, Location, LocationLink, Symbol
from worker.toolkit.file_uris import path_of, uri_of
from worker.toolkit.paths import locate_inside
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.code.symbol_positions import SymbolPosition, SymbolUnknown, first_answer, server_of, shown_location

LOCATIONS_MAX = 200
CONTEXT_LINES = 3
_LOCATIONS: Decoder[list[Location] | None] = Decoder(list[Location] | None)
_ITEMS: Decoder[list[dict[str, object]] | None] = Decoder(list[dict[str, object]] | None)
_CALLS: Decoder[list[HierarchyCall] | None] = Decoder(list[HierarchyCall] | None)
_SYMBOLS: Decoder[list[Symbol] | None] = Decoder(list[Symbol] | None)

_Symbol = Annotated[str, Meta(description="The name of the symbol, such as `parse` or `Reader.parse`")]
_Path = Annotated[
    str, Meta(description="The file or directory in which to look for the name; the workspace when left out")
]


class SymbolArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of the tools that take a symbol."""

    symbol: _Symbol
    path: _Path = ""


class CallArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_call_hierarchy`."""

    symbol: _Symbol
    direction: Annotated[
        Literal["incoming", "outgoing"], Meta(description="Its callers, or the functions that it calls")
    ]
    path: _Path = ""


class FileArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_symbols`."""

    file_path: Annotated[str, Meta(description="The file, absolute or relative to the workspace")]


class References:
    """List the uses of a symbol."""

    spec = ToolSpec(
        "lsp_references",
        description_of(__file__, "lsp_references"),
        schema_of(SymbolArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_references.md`."""
        arguments = read_args(SymbolArgs, args)

        async def ask(server: LanguageServer, position: SymbolPosition) -> list[Location] | None:
            params = position.params(context={"includeDeclaration": True})
            return await server.request("textDocument/references", params, _LOCATIONS) or None

        try:
            locations = await first_answer(
                self._servers, arguments.symbol, arguments.path, context, ask, verb="find the references of"
            )
        except SymbolUnknown as error:  # that there are none is a result too
            return ToolResult(str(error))

        def text(_stop: object) -> str:
            by_file: dict[str, list[tuple[int, int]]] = {}
            for location in locations[:LOCATIONS_MAX]:
                name, line, column = shown_location(location, context.workspace)
                by_file.setdefault(name, []).append((line, column))
            parts = [f"Found {len(locations)} references in {len(by_file)} files"]
            for name, positions in sorted(by_file.items()):
                lines = "\n".join(f"  Line {line}, Column {column}" for line, column in sorted(positions))
                parts.append(f"{name}:\n{lines}")
            if len(locations) > LOCATIONS_MAX:
                parts.append(f"(Only the first {LOCATIONS_MAX} are shown)")
            return "\n\n".join(parts)

        return ToolResult(await context.children.threads.run(text, timeout_s=context.limits.search_deadline_s))


class Definition:
    """Show where a symbol is defined, with the lines around it."""

    spec = ToolSpec(
        "lsp_definition",
        description_of(__file__, "lsp_definition"),
        schema_of(SymbolArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_definition.md`."""
        arguments = read_args(SymbolArgs, args)

        async def ask(server: LanguageServer, position: SymbolPosition) -> list[Location] | None:
            answer = await server.request("textDocument/definition", position.params(), ANYTHING)
            return _locations(answer) or None

        locations = await first_answer(
            self._servers, arguments.symbol, arguments.path, context, ask, verb="find the definition of"
        )
        location = locations[0]

        def read_lines(_stop: object) -> tuple[str, int, str]:
            name, line, _ = shown_location(location, context.workspace)
            path = path_of(location.uri)
            disk = read_text(path, context.limits.edit_max_bytes) if path is not None else None
            lines = disk.text.splitlines() if disk is not None else []
            first = max(0, line - 1 - CONTEXT_LINES)
            rows = enumerate(lines[first : line + CONTEXT_LINES], start=first + 1)
            return name, line, "\n".join(f"{number:6}|{row[:500]}" for number, row in rows)

        name, line, content = await context.children.threads.run(read_lines, timeout_s=context.limits.search_deadline_s)
        more = f"\n({len(locations) - 1} more definitions)" if len(locations) > 1 else ""
        return ToolResult(
            f"{arguments.symbol} is defined at {name}:{line}\n{content}{more}",
            metadata={"file_path": str(path_of(location.uri) or location.uri), "line": line, "content": content},
        )


class CallHierarchy:
    """List the callers of a function, or the functions that it calls."""

    spec = ToolSpec(
        "lsp_call_hierarchy",
        description_of(__file__, "lsp_call_hierarchy"),
        schema_of(CallArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_call_hierarchy.md`."""
        arguments = read_args(CallArgs, args)

        async def ask(server: LanguageServer, position: SymbolPosition) -> list[HierarchyCall] | None:
            method = "textDocument/prepareCallHierarchy"
            # The server wants its item back unchanged, with all its fields.
            items = await server.request(method, position.params(), _ITEMS)
            if not items:
                return None
            method = f"callHierarchy/{arguments.direction}Calls"
            return await server.request(method, {"item": items[0]}, _CALLS) or []

        verb = "find the calls of"
        calls = await first_answer(self._servers, arguments.symbol, arguments.path, context, ask, verb=verb)
        others = [other for call in calls if (other := call.caller or call.callee) is not None]
        if not others:
            what = "Nothing calls" if arguments.direction == "incoming" else "No calls are made by"
            return ToolResult(f"{what} {arguments.symbol}")

        def text(_stop: object) -> str:
            lines = [_call_line(other, context.workspace) for other in others[:LOCATIONS_MAX]]
            title = "Callers of" if arguments.direction == "incoming" else "Called by"
            return f"{title} {arguments.symbol}:\n" + "\n".join(lines)

        return ToolResult(await context.children.threads.run(text, timeout_s=context.limits.search_deadline_s))


class Symbols:
    """Show the outline of a file."""

    spec = ToolSpec(
        "lsp_symbols",
        description_of(__file__, "lsp_symbols"),
        schema_of(FileArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_symbols.md`."""
        arguments = read_args(FileArgs, args)
        server = await server_of(self._servers, arguments.file_path, context, verb="outline")
        path = locate_inside(context.workspace, arguments.file_path, verb="outline").path
        symbols = await symbols_of(server, path)
        return ToolResult("\n".join(outline(symbols)) or f"{arguments.file_path} has no symbols")


async def symbols_of(server: LanguageServer, path: Path) -> list[Symbol]:
    """Ask the server for the symbols of a file. Raises ToolError."""
    params = {"textDocument": {"uri": uri_of(path)}}
    try:
        return await server.request("textDocument/documentSymbol", params, _SYMBOLS) or []
    except LspError as error:
        raise ToolError(f"cannot find the symbols of {path.name}: {error}") from None


def _locations(answer: object) -> list[Location]:
    """Read the answer to a definition request: one location, several, or links. Raises ToolError."""
    locations = []
    for one in answer if isinstance(answer, list) else [answer]:
        try:
            if isinstance(one, dict) and "targetUri" in one:
                link = msgspec.convert(one, LocationLink)
                locations.append(Location(uri=link.targetUri, range=link.targetSelectionRange))
            elif one is not None:
                locations.append(msgspec.convert(one, Location))
        except msgspec.ValidationError as error:
            raise ToolError(f"cannot read the location of the definition: {error}") from None
    return locations


def _call_line(item: CallItem, workspace: Path) -> str:
    name, line, _ = shown_location(Location(uri=item.uri, range=item.selectionRange), workspace)
    kind = KINDS[item.kind] if 0 < item.kind < len(KINDS) else "symbol"
    return f"  {kind} {item.name} ({name}:{line})"
