"""The language servers of one workspace: which there are, started when a file wants them, told to clients.

None is started before a file of its language is read, changed or asked about. They do not keep the worker awake.
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
from worker.config.load import Config
from worker.config.sections import LspSettings
from worker.lsp.catalogue import CATALOGUE, GENERIC, KnownServer, handles, known_server
from worker.lsp.diagnostics import FileDiagnostics, report
from worker.lsp.lifecycle import ServerState
from worker.lsp.server import LanguageServer, ServerPlan
from worker.lsp.types import LspEvent, LspInfo
from worker.processes.child import ChildProcesses
from worker.toolkit.extension import Extension
from worker.toolkit.paths import locate
from worker.toolkit.tool import Tool, ToolError

ABSENT_S = 30.0
"""So long a command that is not installed is not looked for again."""
START_S = 30.0
_NEVER = "0001-01-01T00:00:00Z"


class LanguageServers(Extension):
    """Also `CodeServers`: what the tools that read and change files want to know."""

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
        """`show` sends an event that is not stored; `tools` makes the tools that ask this service."""
        self.workspace = Path(os.path.realpath(workspace))
        self.limits = limits
        self._children = children
        self._publish_snapshot = publish_snapshot
        self._clock = clock
        self._log = log
        self._tools = tools(self)
        self._tasks = TaskOwner("language servers", log)
        self._servers: dict[str, LanguageServer] = {}
        self._auto = True
        self._env: Mapping[str, str] = {}
        self._absent: dict[str, float] = {}
        self._is_closed = False

    # --- Service ----------------------------------------------------------------------------------------------------

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Servers whose settings are as before go on; the others are ended."""
        plans = {name: plan_of(name, settings) for name, settings in config.lsp.items()}
        self._auto = config.options.auto_lsp is not False
        is_same_env = dict(env) == dict(self._env)
        self._env = dict(env)
        self._absent.clear()
        for name, server in list(self._servers.items()):
            is_bundled = name not in plans and self._auto and server.plan == _bundled(name)
            if is_same_env and (plans.get(name) == server.plan or is_bundled):
                continue
            del self._servers[name]
            self._tasks.start(server.close(), f"close {name}")
        for name, plan in plans.items():
            if name not in self._servers:
                self._servers[name] = self._make(plan)

    def tools(self) -> Sequence[Tool]:
        """None where no server can ever run."""
        return self._tools if self._auto or self._servers else ()

    async def close(self) -> None:
        """End all."""
        self._is_closed = True
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        await self._tasks.close(self.limits.settle_s)

    # --- CodeServers ------------------------------------------------------------------------------------------------

    async def seen(self, path: Path) -> str:
        """The file was read: start its servers, and say what is known already or shows within a moment."""
        limits = self.limits
        await self._wanted(path)
        return await self._looked_at(path, limits.lsp_view_s, limits.lsp_view_s, limits.lsp_view_s)

    async def changed(self, path: Path, others: Sequence[Path] = ()) -> str:
        """The file was changed, and others with it: tell the servers and wait for what they say of the first."""
        limits = self.limits
        for server in await self._wanted(path):
            await server.ready(limits.lsp_start_wait_s)
        return await self._looked_at(
            path, limits.lsp_change_max_s, limits.lsp_change_none_s, limits.lsp_change_stable_s, others
        )

    async def _looked_at(
        self, path: Path, most_s: float, none_s: float, stable_s: float, others: Sequence[Path] = ()
    ) -> str:
        ready = [server for server in self._of(path) if server.state is ServerState.READY]

        async def look(server: LanguageServer) -> None:
            is_new = await server.sync(path, [other for other in others if server.handles(other)])
            if is_new or stable_s < most_s:
                await server.check(path, most_s=most_s, none_s=none_s, stable_s=stable_s)

        await asyncio.gather(*(look(server) for server in ready))
        return self.report(path) if ready else ""

    # --- for tools and operations -----------------------------------------------------------------------------------

    @property
    def servers(self) -> Mapping[str, LanguageServer]:
        """All that are known, by name: the configured ones and those that were started by themselves."""
        return self._servers

    async def ready_for(self, path: Path) -> list[LanguageServer]:
        """The servers of this file, started and told of it; [] when there are none, or none gets ready in time."""
        wanted = await self._wanted(path)
        await asyncio.gather(*(server.ready(server.plan.start_s) for server in wanted))
        ready = [server for server in wanted if server.state is ServerState.READY]
        await asyncio.gather(*(server.sync(path) for server in ready))
        await asyncio.gather(*(server.warm(path) for server in ready))
        return ready

    async def start_for(self, given: str) -> None:
        """Start the servers of this file; their states tell the rest. Raises BadInput for what is no path."""
        try:
            place = await self._children.threads.run(
                lambda _stop: locate(self.workspace, given), timeout_s=self.limits.search_deadline_s
            )
        except ToolError as error:
            raise BadInput(str(error)) from None
        await self._wanted(place.path)

    async def stop_all(self) -> None:
        """End the processes of all. The next use starts them again. Bounded."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    def report(self, path: Path | None) -> str:
        """What all servers say of this file and of the project; "" for nothing."""
        return report(path, [server.board.found for server in self._servers.values()], self.workspace)

    def found(self, name: str) -> FileDiagnostics | None:
        """The diagnostics of one server, None when it is not known."""
        server = self._servers.get(name)
        return server.board.found if server is not None else None

    def infos(self) -> dict[str, LspInfo]:
        """All servers as clients see them."""
        return {
            name: LspInfo(
                name=name,
                state=server.state.value,
                error=server.error,
                diagnostic_count=server.board.count,
                connected_at=_stamp(server.connected_at),
            )
            for name, server in sorted(self._servers.items())
        }

    # --- which servers a file has -----------------------------------------------------------------------------------

    def _of(self, path: Path) -> list[LanguageServer]:
        if self.workspace not in path.parents:
            return []
        return [server for server in self._servers.values() if server.handles(path)]

    async def _wanted(self, path: Path) -> list[LanguageServer]:
        """The servers of this file, being started."""
        if self._is_closed or self.workspace not in path.parents:
            return []
        mine = self._of(path)
        taken = {entry.family for server in self._servers.values() if (entry := _known_of(server)) is not None}
        bundled = [e for e in CATALOGUE if e.family not in taken and handles(e.filetypes, path)] if self._auto else []
        if not mine and not bundled:
            return []
        now = self._clock.now()
        asked = [entry for entry in bundled if self._absent.get(entry.command, -ABSENT_S) + ABSENT_S <= now]
        search = self._env.get("PATH", os.defpath)

        def look(_stop: object) -> tuple[list[LanguageServer], list[KnownServer], list[KnownServer]]:
            names = _names(self.workspace)
            fit = [server for server in mine if _has_marker(server.plan.root_markers, names)]
            rooted = [entry for entry in asked if _has_marker(entry.root_markers, names)]
            there = [entry for entry in rooted if shutil.which(entry.command, path=search) is not None]
            return fit, there, [entry for entry in rooted if entry not in there]

        fit, there, absent = await self._children.threads.run(look, timeout_s=self.limits.search_deadline_s)
        self._absent |= {entry.command: now for entry in absent}
        for entry in there:
            if entry.command in GENERIC or entry.family in taken or entry.name in self._servers:
                continue
            taken.add(entry.family)
            self._servers[entry.name] = server = self._make(_plan_of_known(entry))
            fit.append(server)
        for server in fit:
            server.want()
        return [server for server in fit if server.state is not ServerState.DISABLED]

    def _make(self, plan: ServerPlan) -> LanguageServer:
        return LanguageServer(
            plan,
            workspace=self.workspace,
            env=self._env,
            children=self._children,
            on_state=lambda server: self._tell(server, "state_changed"),
            on_diagnostics=lambda server: self._tell(server, "diagnostics_changed"),
            limits=self.limits,
            clock=self._clock,
            log=self._log,
        )

    def _tell(self, server: LanguageServer, what: str) -> None:
        payload = LspEvent(
            type=what,
            name=server.name,
            state=server.state.value,
            error=server.error,
            diagnostic_count=server.board.count,
        )
        # Not stored: what counts is the present state, and that can be asked for.
        self._publish_snapshot(snapshot_event(payload, key=f"lsp {what} {server.name}"))


def plan_of(name: str, settings: LspSettings) -> ServerPlan:
    """How to run a server of the configuration; what it leaves out comes from the catalogue."""
    known = known_server(name, settings.command)
    args = tuple(settings.args) if settings.args is not None else ()
    if settings.args is None and known is not None:
        args = known.args
    filetypes = tuple(settings.filetypes or ()) or (known.filetypes if known is not None else ())
    init_options = settings.init_options
    if init_options is None and known is not None and known.init_options:
        init_options = dict(known.init_options)
    return ServerPlan(
        name=name,
        command=settings.command or (known.command if known is not None else ""),
        args=args,
        env=dict(settings.env or {}),
        filetypes=filetypes,
        root_markers=tuple(settings.root_markers or ()),  # who names a server wants it, with or without a marker
        init_options=init_options,
        options=settings.options or {},
        start_s=float(settings.timeout) if settings.timeout > 0 else START_S,
        is_disabled=settings.disabled,
    )


def _plan_of_known(entry: KnownServer) -> ServerPlan:
    return ServerPlan(
        name=entry.name,
        command=entry.command,
        args=entry.args,
        filetypes=entry.filetypes,
        root_markers=entry.root_markers,
        init_options=dict(entry.init_options) or None,
    )


def _bundled(name: str) -> ServerPlan | None:
    return next((_plan_of_known(entry) for entry in CATALOGUE if entry.name == name), None)


def _known_of(server: LanguageServer) -> KnownServer | None:
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
