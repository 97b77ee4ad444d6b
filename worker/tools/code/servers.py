"""The tools `lsp_diagnostics` and `lsp_restart`."""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.lsp.lifecycle import ServerState
from worker.lsp.service import LanguageServers
from worker.toolkit.paths import locate_inside
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.code.symbol_positions import no_server


class DiagnosticsArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_diagnostics`."""

    file_path: Annotated[str, Meta(description="The file to check; the whole project when left out")] = ""


class RestartArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `lsp_restart`."""

    name: Annotated[str, Meta(description="The language server; all when left out")] = ""


class Diagnostics:
    """Show the diagnostics of a file or of the project."""

    spec = ToolSpec(
        "lsp_diagnostics",
        description_of(__file__, "lsp_diagnostics"),
        schema_of(DiagnosticsArgs),
        parallel=False,
        effect="read",
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_diagnostics.md`."""
        arguments = read_args(DiagnosticsArgs, args)
        if not arguments.file_path:
            return ToolResult(self._servers.report(None) or f"No problems are known; {self._running()}")
        resolved = await context.children.threads.run(
            lambda _stop: locate_inside(context.workspace, arguments.file_path, verb="check"),
            timeout_s=context.limits.search_deadline_s,
        )
        if not await self._servers.ready_for(resolved.path):
            if any(server.handles(resolved.path) for server in self._servers.servers.values()):
                raise ToolError(f"cannot check {resolved.shown}: {no_server(self._servers)}")
            return ToolResult(f"{resolved.shown} was not checked: {no_server(self._servers)}")
        text = await self._servers.changed(resolved.path)
        return ToolResult(text or f"No problems found in {resolved.shown}")

    def _running(self) -> str:
        ready = [server.name for server in self._servers.servers.values() if server.state is ServerState.READY]
        if not ready:
            return "no language server runs yet: give a file to start its server"
        return f"running: {', '.join(ready)}; they report the files opened so far"


class Restart:
    """Stop language servers and start them again."""

    spec = ToolSpec(
        "lsp_restart", description_of(__file__, "lsp_restart"), schema_of(RestartArgs), parallel=False, effect="execute"
    )

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `lsp_restart.md`."""
        name = read_args(RestartArgs, args).name
        servers = self._servers.servers
        if name and name not in servers:
            raise ToolError(
                f"cannot restart {name!r}: there is no such server; known servers: {', '.join(servers) or 'none'}"
            )
        chosen = [
            server for server in servers.values() if server.name == name or (not name and server.state in _RESTARTED)
        ]
        if not chosen:
            return ToolResult("No language server runs")
        await asyncio.gather(*(server.stop() for server in chosen))
        ready = await asyncio.gather(*(server.ready(server.plan.start_s) for server in chosen))
        lines = [
            f"{server.name}: {'restarted' if is_ready else server.error or server.state.name.lower()}"
            for server, is_ready in zip(chosen, ready, strict=True)
        ]
        return ToolResult("\n".join(lines), is_error=not all(ready))


_RESTARTED = (ServerState.STARTING, ServerState.READY, ServerState.ERROR)
