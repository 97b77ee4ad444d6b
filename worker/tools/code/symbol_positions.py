"""From a symbol's name to places in files that a language server can be asked about."""

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

SPOTS_MAX = 20
ASK_S = 60.0  # all spots together


class SymbolUnknown(ToolError):
    """The name stands nowhere, or means nothing to the servers that answered."""


@dataclass(frozen=True)
class Spot:
    """A place in a file: line and UTF-16 column, counted from 0."""

    path: Path
    line: int
    character: int

    def params(self, **more: object) -> dict[str, object]:
        """As the protocol wants it."""
        position = {"line": self.line, "character": self.character}
        return {"textDocument": {"uri": uri_of(self.path)}, "position": position, **more}


async def spots_of(symbol: str, path: str, context: ToolContext, *, verb: str) -> list[Spot]:
    """Where the last part of the symbol's name stands, likely declarations first. Raises SymbolUnknown, ToolError."""
    steps = steps_of(symbol)
    if not steps:
        raise ToolError(f"cannot {verb}: the symbol is empty; give the name of a function, class or variable")
    word = steps[-1]
    directory, matches, _ = await find_matches(GrepArgs(pattern=word_pattern(word), path=path or "."), context)
    spots = [
        (not looks_like_declaration(match.text), Spot(directory / match.path, match.line - 1, columns[0]))
        for match in matches
        if (columns := columns_of(match.text, word))
    ]
    if not spots:
        raise SymbolUnknown(f"cannot {verb} {symbol}: {word} was not found in {path or 'the workspace'}")
    return [spot for _, spot in sorted(spots, key=lambda one: one[0])]


async def first_answer(
    servers: LanguageServers,
    symbol: str,
    path: str,
    context: ToolContext,
    ask: Callable[[LanguageServer, Spot], Awaitable[T | None]],
    *,
    verb: str,
) -> T:
    """What the first server says that knows the symbol at one of its places. Raises SymbolUnknown, ToolError."""
    refused = ""
    asked = 0
    try:
        async with asyncio.timeout(ASK_S):
            for spot in await spots_of(symbol, path, context, verb=verb):
                if asked >= SPOTS_MAX:
                    break
                ready = await servers.ready_for(spot.path)
                asked += bool(ready)
                for server in ready:
                    try:
                        answer = await ask(server, spot)
                    except LspError as error:
                        refused = str(error)
                        continue
                    if answer is not None:
                        return answer
    except TimeoutError:
        refused = f"no answer within {ASK_S:g} s"
    if not asked:
        raise ToolError(f"cannot {verb} {symbol}: {no_server(servers)}")
    if refused:
        raise ToolError(f"cannot {verb} {symbol}: no language server knows it: {refused}")
    raise SymbolUnknown(f"cannot {verb} {symbol}: no language server knows it")


async def server_of(servers: LanguageServers, file_path: str, context: ToolContext, *, verb: str) -> LanguageServer:
    """The first server of a file, ready and told of it. Raises ToolError."""
    place = await context.children.threads.run(
        lambda _stop: locate_inside(context.workspace, file_path, verb=verb), timeout_s=context.limits.search_deadline_s
    )
    ready = await servers.ready_for(place.path)
    if not ready:
        raise ToolError(f"cannot {verb} {place.shown}: {no_server(servers)}")
    return ready[0]


def no_server(servers: LanguageServers) -> str:
    """Why there is no server: what is configured, and how it is."""
    known = [
        f"{server.name} is {server.state.name.lower()}{' (' + server.error + ')' if server.error else ''}"
        for server in servers.servers.values()
    ]
    if not known:
        return "no language server handles this file; install one, or configure it under `lsp`"
    return f"no language server is ready for it: {', '.join(known)}"


def shown_location(location: Location, workspace: Path) -> tuple[str, int, int]:
    """File (relative to the workspace where it is inside), line and column of a place, counted from 1."""
    path = path_of(location.uri)
    name = locate(workspace, str(path)).shown if path is not None else location.uri
    return name, location.range.start.line + 1, location.range.start.character + 1
