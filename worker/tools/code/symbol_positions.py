"""Find the positions of a symbol's name in files, and ask language servers about them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from worker.lsp.connection import LspError
from worker.lsp.server import LanguageServer
from worker.lsp.service import LanguageServers
from worker.lsp.symbols import columns_of, looks_like_declaration, steps_of, word_pattern
from worker.lsp.types import Location
from worker.toolkit.file_uris import path_of, uri_of
from worker.toolkit.paths import locate, locate_inside
from worker.toolkit.tool import ToolContext, ToolError
from worker.tools.search.grep import GrepArgs, find_matches

T = TypeVar("T")

POSITIONS_MAX = 20
TIMEOUT_S = 60.0  # for all positions together


class SymbolUnknown(ToolError):
    """The name does not occur, or is not a symbol for the servers that answered."""


@dataclass(frozen=True)
class SymbolPosition:
    """A position in a file: line and UTF-16 column, counted from 0."""

    path: Path
    line: int
    character: int

    def params(self, **more: object) -> dict[str, object]:
        """Return the parameters of a request of the protocol."""
        position = {"line": self.line, "character": self.character}
        return {"textDocument": {"uri": uri_of(self.path)}, "position": position, **more}


async def find_positions(symbol: str, path: str, context: ToolContext, *, verb: str) -> list[SymbolPosition]:
    """Find the last part of the symbol's name, likely declarations first. Raises SymbolUnknown, ToolError."""
    steps = steps_of(symbol)
    if not steps:
        raise ToolError(f"cannot {verb}: the symbol is empty; give the name of a function, class or variable")
    word = steps[-1]
    directory, matches, _ = await find_matches(GrepArgs(pattern=word_pattern(word), path=path or "."), context)
    positions = [
        (not looks_like_declaration(match.text), SymbolPosition(directory / match.path, match.line - 1, columns[0]))
        for match in matches
        if (columns := columns_of(match.text, word))
    ]
    if not positions:
        raise SymbolUnknown(f"cannot {verb} {symbol}: {word} was not found in {path or 'the workspace'}")
    return [position for _, position in sorted(positions, key=lambda item: item[0])]


async def first_answer(
    servers: LanguageServers,
    symbol: str,
    path: str,
    context: ToolContext,
    ask: Callable[[LanguageServer, SymbolPosition], Awaitable[T | None]],
    *,
    verb: str,
) -> T:
    """Return the first answer of a server about one of the symbol's positions. Raises SymbolUnknown, ToolError."""
    problem = ""
    tried = 0
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for position in await find_positions(symbol, path, context, verb=verb):
                if tried >= POSITIONS_MAX:
                    break
                ready = await servers.ready_for(position.path)
                tried += bool(ready)
                for server in ready:
                    try:
                        answer = await ask(server, position)
                    except LspError as error:
                        problem = str(error)
                        continue
                    if answer is not None:
                        return answer
    except TimeoutError:
        problem = f"no answer within {TIMEOUT_S:g} s"
    if not tried:
        raise ToolError(f"cannot {verb} {symbol}: {no_server(servers)}")
    if problem:
        raise ToolError(f"cannot {verb} {symbol}: no language server knows it: {problem}")
    raise SymbolUnknown(f"cannot {verb} {symbol}: no language server knows it")


async def server_of(servers: LanguageServers, file_path: str, context: ToolContext, *, verb: str) -> LanguageServer:
    """Return the first server of a file, ready and with the file opened. Raises ToolError."""
    resolved = await context.children.threads.run(
        lambda _stop: locate_inside(context.workspace, file_path, verb=verb), timeout_s=context.limits.search_deadline_s
    )
    ready = await servers.ready_for(resolved.path)
    if not ready:
        raise ToolError(f"cannot {verb} {resolved.shown}: {no_server(servers)}")
    return ready[0]


def no_server(servers: LanguageServers) -> str:
    """Say why there is no server: which are configured, and their states."""
    states = [
        f"{server.name} is {server.state.name.lower()}{' (' + server.error + ')' if server.error else ''}"
        for server in servers.servers.values()
    ]
    if not states:
        return "no language server handles this file; install one, or configure it under `lsp`"
    return f"no language server is ready for it: {', '.join(states)}"


def shown_location(location: Location, workspace: Path) -> tuple[str, int, int]:
    """Return file (relative to the workspace if inside), line and column of a location, counted from 1."""
    path = path_of(location.uri)
    name = locate(workspace, str(path)).shown if path is not None else location.uri
    return name, location.range.start.line + 1, location.range.start.character + 1
