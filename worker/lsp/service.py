"""Manage the language servers of one workspace: start them on first use, and publish their states to clients.

A server starts when a file of its language is read, changed or queried. The servers do not keep the worker awake.
"""

import asyncio
import fnmatch
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput
from protocol.events import Event, snapshot_event
from protocol.limits import Limits
from worker.config.load import WorkspaceConfig
from worker.lsp.catalogue import CATALOGUE, GENERIC, KnownServer, handles, known_server
from worker.lsp.diagnostics import FileDiagnostics, report
from worker.lsp.lifecycle import ServerState
from worker.lsp.server import LanguageServer, LspEnvironment
from worker.lsp.settings import ServerPlan, catalogue_plan, plan_of, plan_of_known
from worker.lsp.types import LspEvent, LspInfo
from worker.processes.child import ChildProcesses
from worker.toolkit.extension import Extension
from worker.toolkit.paths import locate
from worker.toolkit.tool import Tool, ToolError

ABSENT_S = 30.0
"""How long a command that is not installed is not searched for again."""
_NEVER = "0001-01-01T00:00:00Z"


class LanguageServers(Extension):
    """All language servers of the workspace.

    Implements `CodeServers`, through which the tools that read and change files get diagnostics.
    """

    def __init__(
        self,
        *,
        workspace: Path,
        children: ChildProcesses,
        publish_snapshot: Callable[[Event], None],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        tools: Callable[["LanguageServers"], Sequence[Tool]],
    ) -> None:
        """Make a service without servers; `configure` adds the configured ones.

        `publish_snapshot` sends an event that is not stored; `tools` makes the tools that use this service.
        """
        self.workspace = Path(os.path.realpath(workspace))
        self.limits = limits
        self._environment = LspEnvironment(self.workspace, children, limits, clock, log)
        self._publish_snapshot = publish_snapshot
        self._tools = tools(self)
        self._tasks = TaskOwner("language servers", log)
        self._servers: dict[str, LanguageServer] = {}
        self._starts_known = True
        self._env: Mapping[str, str] = {}
        self._absent: dict[str, float] = {}  # command -> when it was not found
        self._is_closed = False

    # --- Extension --------------------------------------------------------------------------------------------------

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Keep the servers whose settings did not change; end the others."""
        plans = {name: plan_of(name, settings) for name, settings in config.lsp.items()}
        self._starts_known = config.options.auto_lsp is not False
        is_same_env = dict(env) == dict(self._env)
        self._env = dict(env)
        self._absent.clear()
        for name, server in list(self._servers.items()):
            is_known = name not in plans and self._starts_known and server.plan == catalogue_plan(name)
            if is_same_env and (plans.get(name) == server.plan or is_known):
                continue
            del self._servers[name]
            self._tasks.start(server.close(), f"close {name}")
        for name, plan in plans.items():
            if name not in self._servers:
                self._servers[name] = self._make(plan)

    def tools(self) -> Sequence[Tool]:
        """Return the tools that use language servers; none if no server can ever run."""
        return self._tools if self._starts_known or self._servers else ()

    async def close(self) -> None:
        """End all servers for good. Bounded."""
        self._is_closed = True
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        await self._tasks.close(self.limits.settle_s)

    # --- CodeServers ------------------------------------------------------------------------------------------------

    async def seen(self, path: Path) -> str:
        """Start the servers of a file that was read. Returns the diagnostics that exist or arrive within a moment."""
        limits = self.limits
        await self._start_servers(path)
        return await self._checked(path, limits.lsp_view_s, limits.lsp_view_s, limits.lsp_view_s)

    async def changed(self, path: Path, others: Sequence[Path] = ()) -> str:
        """Notify the servers that a file has changed, and others with it. Returns the diagnostics of the first file."""
        limits = self.limits
        for server in await self._start_servers(path):
            await server.ready(limits.lsp_start_wait_s)
        return await self._checked(
            path, limits.lsp_change_max_s, limits.lsp_change_none_s, limits.lsp_change_stable_s, others
        )

    async def _checked(
        self, path: Path, max_s: float, none_s: float, stable_s: float, others: Sequence[Path] = ()
    ) -> str:
        ready = [server for server in self._handling(path) if server.state is ServerState.READY]

        async def check(server: LanguageServer) -> None:
            is_new = await server.sync(path, [other for other in others if server.handles(other)])
            if is_new or stable_s < max_s:
                await server.check(path, max_s=max_s, none_s=none_s, stable_s=stable_s)

        await asyncio.gather(*(check(server) for server in ready))
        return self.report(path) if ready else ""

    # --- for tools and operations -----------------------------------------------------------------------------------

    @property
    def servers(self) -> Mapping[str, LanguageServer]:
        """The configured servers and those started from the catalogue, by name."""
        return self._servers

    async def ready_for(self, path: Path) -> list[LanguageServer]:
        """Start the servers of a file and open it in them. Returns those that are ready in time."""
        servers = await self._start_servers(path)
        await asyncio.gather(*(server.ready(server.plan.start_s) for server in servers))
        ready = [server for server in servers if server.state is ServerState.READY]
        await asyncio.gather(*(server.sync(path) for server in ready))
        await asyncio.gather(*(server.warm(path) for server in ready))
        return ready

    async def start_for(self, given: str) -> None:
        """Start the servers of a file, without waiting until they are ready. Raises BadInput for an invalid path."""
        try:
            location = await self._environment.children.threads.run(
                lambda _stop: locate(self.workspace, given), timeout_s=self.limits.search_deadline_s
            )
        except ToolError as error:
            raise BadInput(str(error)) from None
        await self._start_servers(location.path)

    async def stop_all(self) -> None:
        """End the processes of all servers. The next use starts them again. Bounded."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    def report(self, path: Path | None) -> str:
        """Return the diagnostics of a file and of the project as text; "" if there are none."""
        return report(path, [server.diagnostics.by_uri for server in self._servers.values()], self.workspace)

    def found(self, name: str) -> FileDiagnostics | None:
        """Return the diagnostics of one server, or None if there is no server of that name."""
        server = self._servers.get(name)
        return server.diagnostics.by_uri if server is not None else None

    @property
    def connected(self) -> int:
        """Count the connected servers."""
        return sum(server.connected_at is not None for server in self._servers.values())

    def infos(self) -> dict[str, LspInfo]:
        """Return all servers as the API shows them, by name."""
        return {
            name: LspInfo(
                name=name,
                state=server.state.value,
                error=server.error,
                diagnostic_count=server.diagnostics.count,
                connected_at=_stamp(server.connected_at),
            )
            for name, server in sorted(self._servers.items())
        }

    # --- the servers of a file --------------------------------------------------------------------------------------

    def _handling(self, path: Path) -> list[LanguageServer]:
        if self.workspace not in path.parents:
            return []
        return [server for server in self._servers.values() if server.handles(path)]

    async def _start_servers(self, path: Path) -> list[LanguageServer]:
        """Start the servers of a file, from the configuration and the catalogue, and return those not disabled."""
        if self._is_closed or self.workspace not in path.parents:
            return []
        existing = self._handling(path)
        families = {entry.family for server in self._servers.values() if (entry := _entry_of(server)) is not None}
        candidates = [entry for entry in CATALOGUE if entry.family not in families and handles(entry.filetypes, path)]
        if not self._starts_known:
            candidates = []
        if not existing and not candidates:
            return []
        now = self._environment.clock.now()
        candidates = [entry for entry in candidates if self._absent.get(entry.command, -ABSENT_S) + ABSENT_S <= now]
        search_path = self._env.get("PATH", os.defpath)

        def search(_stop: object) -> tuple[list[LanguageServer], list[KnownServer], list[KnownServer]]:
            names = _names(self.workspace)
            servers = [server for server in existing if _has_marker(server.plan.root_markers, names)]
            marked = [entry for entry in candidates if _has_marker(entry.root_markers, names)]
            installed = [entry for entry in marked if shutil.which(entry.command, path=search_path) is not None]
            return servers, installed, [entry for entry in marked if entry not in installed]

        servers, installed, absent = await self._environment.children.threads.run(
            search, timeout_s=self.limits.search_deadline_s
        )
        self._absent |= {entry.command: now for entry in absent}
        for entry in installed:
            if entry.command in GENERIC or entry.family in families or entry.name in self._servers:
                continue
            families.add(entry.family)
            self._servers[entry.name] = server = self._make(plan_of_known(entry))
            servers.append(server)
        for server in servers:
            server.start()
        return [server for server in servers if server.state is not ServerState.DISABLED]

    def _make(self, plan: ServerPlan) -> LanguageServer:
        return LanguageServer(plan, self._env, self._environment, self._publish)

    def _publish(self, server: LanguageServer, event_type: str) -> None:
        payload = LspEvent(
            type=event_type,
            name=server.name,
            state=server.state.value,
            error=server.error,
            diagnostic_count=server.diagnostics.count,
        )
        # Not stored: only the current state matters, and clients can request it.
        self._publish_snapshot(snapshot_event(payload, key=f"lsp {event_type} {server.name}"))


def _entry_of(server: LanguageServer) -> KnownServer | None:
    return known_server(server.plan.name, server.plan.command)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _has_marker(markers: Sequence[str], names: Sequence[str]) -> bool:
    return not markers or any(fnmatch.filter(names, marker) for marker in markers)


def _stamp(wall: float | None) -> str:
    if wall is None:
        return _NEVER
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
