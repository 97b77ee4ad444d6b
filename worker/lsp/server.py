"""Run one language server: its process, the connection to it, its open documents and its diagnostics.

Its failure is a state and affects nothing else: the next use starts it again (`lifecycle.py` decides when).
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.json import Decoder

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.limits import Limits
from worker.config.expand import expand, shell_runner
from worker.lsp.catalogue import handles
from worker.lsp.connection import Connection, ConnectionCallbacks, LspError
from worker.lsp.diagnostics import DiagnosticsStore, SettleTimer
from worker.lsp.documents import Documents, OnDisk, read_text, stamp_of
from worker.lsp.initialize_params import initialize_params
from worker.lsp.lifecycle import Effect, End, Launch, ServerLifecycle, ServerState
from worker.lsp.settings import ServerPlan
from worker.lsp.types import Capabilities, Initialized, Published, Report
from worker.processes.child import ChildProcess, ChildProcesses
from worker.processes.environment import tool_environment
from worker.toolkit.file_uris import uri_of

T = TypeVar("T")

OTHERS_MAX = 8
"""How many other open files are checked again after a change."""
ANYTHING: Decoder[object] = Decoder(object)
"""For results that are not read, or whose type is not known."""
_INITIALIZED = Decoder(Initialized)
_REPORT = Decoder(Report)
_CREATED, _CHANGED, _DELETED = 1, 2, 3  # the protocol's FileChangeType

SHUTDOWN_S = 1.0
"""How long to wait for the response to `shutdown`."""
STDERR_KEPT_BYTES = 4096
"""How much of a server's error output is kept, at the beginning and at the end."""


@dataclass(frozen=True)
class LspEnvironment:
    """What all servers of a worker share."""

    workspace: Path
    children: ChildProcesses
    limits: Limits
    clock: Clock
    log: logging.Logger


class LanguageServer:
    """One server of a workspace, running or not. All methods run on the event loop."""

    def __init__(
        self,
        plan: ServerPlan,
        env: Mapping[str, str],
        environment: LspEnvironment,
        on_event: Callable[["LanguageServer", str], None],
    ) -> None:
        """Make a server that does not run yet.

        `env` is the workspace's environment: the plan's templates can use all of it, and the process gets the part
        that tools may see, plus the plan's own variables. `on_event` is called with the type of each event.
        """
        self.plan = plan
        self.diagnostics = DiagnosticsStore()
        self.connected_at: float | None = None
        self._env = env
        self._on_event = on_event
        self._workspace = environment.workspace
        self._children = environment.children
        self._limits = environment.limits
        self._clock = environment.clock
        self._log = environment.log
        self._lifecycle = ServerLifecycle(is_disabled=plan.is_disabled)
        self._tasks = TaskOwner(f"lsp {plan.name}", environment.log)
        self._process: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._capabilities = Capabilities()
        self._documents = Documents(environment.limits.lsp_documents_max)
        self._sync_lock = asyncio.Lock()
        self._is_refreshing = False
        self._is_warm = False
        self._updates_at_sync = 0  # `diagnostics.changes` when the server last received a file
        self._updated = asyncio.Event()  # the state or the diagnostics changed

    @property
    def name(self) -> str:
        """The name in the configuration or the catalogue."""
        return self.plan.name

    @property
    def state(self) -> ServerState:
        """The current state."""
        return self._lifecycle.state

    @property
    def error(self) -> str:
        """Why the state is ERROR; "" otherwise."""
        return self._lifecycle.error

    def handles(self, path: Path) -> bool:
        """Return whether this is a file of one of its languages."""
        return handles(self.plan.filetypes, path)

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it unless it runs, is disabled, or is in its delay after a failure."""
        self._perform(self._lifecycle.wanted(self._clock.now()))

    async def ready(self, timeout_s: float) -> bool:
        """Start it if needed and wait. Returns whether it is ready within the time."""
        self.start()
        await self._wait(lambda: self.state is not ServerState.STARTING, timeout_s)
        return self.state is ServerState.READY

    async def stop(self) -> None:
        """End its process. The next use starts it again. Bounded."""
        connection = self._connection
        was_ready = self.state is ServerState.READY
        if was_ready and connection is not None:
            with contextlib.suppress(LspError):
                await connection.request("shutdown", None, ANYTHING, timeout_s=SHUTDOWN_S)
            connection.notify("exit", None)
        process = self._process
        self._reset()
        self._perform(self._lifecycle.stop())
        if process is not None:
            await asyncio.wait({process}, timeout=self._limits.settle_s)

    async def close(self) -> None:
        """End it for good. Bounded."""
        self._lifecycle.stop()
        await self._tasks.close(self._limits.settle_s)

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Launch():
                    self._process = self._tasks.start(self._run(self._process), "process")
                case End():
                    if self._process is not None and self._process is not asyncio.current_task():
                        self._process.cancel()
        if effects:
            self._publish_state()

    def _reset(self) -> None:
        self.diagnostics.clear()
        self.connected_at = None

    def _publish_state(self) -> None:
        self._updated.set()
        self._on_event(self, "state_changed")

    async def _run(self, previous: "asyncio.Task[None] | None") -> None:
        """Run one process from start to end, after the task of the previous one has ended."""
        if previous is not None and not previous.done():
            await asyncio.wait({previous}, timeout=self._limits.settle_s)
        connection: Connection | None = None
        child: ChildProcess | None = None

        def feed(data: bytes) -> None:  # called in the next iteration of the loop at the earliest: `connection` is set
            if connection is not None and data:
                connection.feed(data)
            elif connection is not None and child is not None:
                self._tasks.start(self._watch(child, connection, self._limits.tool_pipe_grace_s), "output closed")

        try:
            argv, env = await self._expanded()
            child = await self._children.start(
                argv,
                env=env,
                cwd=self._workspace,
                head_bytes=STDERR_KEPT_BYTES,
                tail_bytes=STDERR_KEPT_BYTES,
                stdin=True,
                on_stdout=feed,
                is_service=True,
            )
            self._connection = connection = self._connect(child)
            reason = await self._serve(child, connection)
            if child.is_ending:  # the worker closes and ends all its children
                self._lifecycle.stop()
        except TimeoutError:
            reason = f"it was not ready within {self.plan.start_s:g} s"
        except (OSError, ValueError, BulkheadError, LspError) as error:  # ValueError: a NUL in a word of its command
            reason = str(error)
        finally:
            self._connection = None
            self._documents.clear()
            if connection is not None:
                connection.fail("it was ended")
            if child is not None:
                await child.end()
        if self.state not in (ServerState.STARTING, ServerState.READY):
            return
        stderr = child.stderr.text().strip()[-1000:] if child is not None else ""
        self._log.warning("language server failed", extra=fields(server=self.name, reason=reason, stderr=stderr))
        self._reset()
        self._lifecycle.failed(reason[:1000], self._clock.now())
        self._publish_state()

    async def _expanded(self) -> tuple[list[str], dict[str, str]]:
        plan, base = self.plan, dict(self._env)

        def job(_stop: object) -> tuple[list[str], dict[str, str]]:
            run = shell_runner(self._workspace, base)
            env = tool_environment(base) | {name: expand(value, base, run) for name, value in plan.env.items()}
            return [expand(part, base, run) for part in (plan.command, *plan.args)], env

        argv, env = await self._children.threads.run(job, timeout_s=plan.start_s)
        if not argv[0]:
            raise LspError(f"it has no command; set lsp.{plan.name}.command")
        return argv, env

    def _connect(self, child: ChildProcess) -> Connection:
        return Connection(
            self.name,
            write=child.write,
            settings=self.plan.options,
            folders=[{"uri": uri_of(self._workspace), "name": self._workspace.name}],
            callbacks=ConnectionCallbacks(
                on_diagnostics=self._store, on_refresh=self._refresh, on_registered=self._updated.set
            ),
            limits=self._limits,
            log=self._log,
        )

    async def _serve(self, child: ChildProcess, connection: Connection) -> str:
        """Initialize the server, wait until the connection is over, and return the reason. Raises LspError."""
        watching = self._tasks.start(self._watch(child, connection, None), "exit")
        try:
            params = initialize_params(self._workspace, os.getpid(), self.plan.init_options)
            initialized = await connection.request("initialize", params, _INITIALIZED, timeout_s=self.plan.start_s)
            self._capabilities = initialized.capabilities
            connection.notify("initialized", {})
            if self.plan.options:
                connection.notify("workspace/didChangeConfiguration", {"settings": self.plan.options})
            self.connected_at = self._clock.wall()
            self._is_warm = False
            self._lifecycle.started(self._clock.now())
            self._publish_state()
            return await connection.broken
        finally:
            watching.cancel()

    async def _watch(self, child: ChildProcess, connection: Connection, timeout_s: float | None) -> None:
        """End the connection when the process ends, or after `timeout_s`."""
        code = await child.exited() if timeout_s is None else await child.exited_within(timeout_s)
        if code is None:
            connection.fail("it closed its output")
        else:
            connection.fail(f"its process ended with code {code}" if code >= 0 else f"signal {-code} ended its process")

    # --- documents --------------------------------------------------------------------------------------------------

    async def sync(self, path: Path | None = None, changed: Sequence[Path] = ()) -> bool:
        """Send the server the current content of `path`, which is opened, and of all open files; report that the files
        in `changed` have changed.

        Returns whether the content of `path` is new to the server.
        """
        async with self._sync_lock:
            stamps = self._documents.stamps
            limits = self._limits

            def read_changed(_stop: object) -> dict[Path, OnDisk | None]:
                stale = [other for other, stamp in stamps.items() if other != path and stamp_of(other) != stamp]
                to_read = [*stale, path] if path is not None else stale
                return {one: read_text(one, limits.lsp_document_max_bytes) for one in to_read}

            contents = await self._children.threads.run(read_changed, timeout_s=limits.search_deadline_s)
            connection = self._connection
            if connection is None or self.state is not ServerState.READY:
                return False
            is_new = False
            for one, now in contents.items():
                was_open = self._documents.is_open(one)
                notifications = self._documents.update(one, now)
                if not notifications:
                    continue
                self._updates_at_sync = self.diagnostics.changes
                for notification in notifications:
                    connection.notify(notification.method, notification.params)
                if one == path:
                    is_new = True
                kind = _DELETED if now is None else _CHANGED if was_open else _CREATED
                change = {"changes": [{"uri": uri_of(one), "type": kind}]}
                connection.notify("workspace/didChangeWatchedFiles", change)
            closed = [other for other in changed if not self._documents.is_open(other)]
            if closed:
                changes = [{"uri": uri_of(other), "type": _CHANGED} for other in closed]
                connection.notify("workspace/didChangeWatchedFiles", {"changes": changes})
            return is_new

    async def request(self, method: str, params: object, result: Decoder[T], *, timeout_s: float | None = None) -> T:
        """Send a request and return the decoded result. Raises LspError."""
        if self._connection is None or self.state is not ServerState.READY:
            raise LspError(f"{self.name} is not ready{': ' + self.error if self.error else ''}")
        return await self._connection.request(
            method, params, result, timeout_s=self._limits.lsp_answer_s if timeout_s is None else timeout_s
        )

    # --- diagnostics ------------------------------------------------------------------------------------------------

    async def check(self, path: Path, *, max_s: float, none_s: float, stable_s: float) -> None:
        """Wait for the diagnostics of the current content of `path`; `SettleTimer` explains the times."""
        if not self._is_warm:  # a server that has just started reads the whole project first
            none_s = max_s
        timer = SettleTimer(self._clock.now(), max_s=max_s, none_s=none_s, stable_s=stable_s)
        changes = self._updates_at_sync  # diagnostics that came since then belong to the current content
        # A server may register for pull diagnostics any time after `initialize`, so this is checked in each iteration.
        while (
            (left_s := timer.remaining(self._clock.now())) > 0
            and self.state is ServerState.READY
            and not self._uses_pull
        ):
            if await self._wait(partial(self._has_update, changes), left_s):
                changes = self.diagnostics.changes
                self._is_warm = True
                timer.updated(self._clock.now())
        if self._uses_pull:
            others = [other for other in reversed(self._documents.stamps) if other != path][:OTHERS_MAX]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_s):
                    await asyncio.gather(*(self._pull(one, max_s) for one in (path, *others)))
                    self._is_warm = True
        if max_s >= self._limits.lsp_change_max_s:
            self._is_warm = True  # a server may publish nothing for a file without problems

    async def warm(self, path: Path) -> None:
        """Wait once after each start until it has checked a file: before that it has not read the project."""
        if not self._is_warm:
            limits = self._limits
            await self.check(
                path,
                max_s=limits.lsp_change_max_s,
                none_s=limits.lsp_change_max_s,
                stable_s=limits.lsp_change_stable_s,
            )

    @property
    def _uses_pull(self) -> bool:
        """Whether the client has to request diagnostics, instead of waiting until the server publishes them."""
        connection = self._connection
        is_registered = connection is not None and "textDocument/diagnostic" in connection.registered
        return is_registered or bool(self._capabilities.diagnosticProvider)

    def _has_update(self, since: int) -> bool:
        return self.diagnostics.changes != since or self._uses_pull

    async def _pull(self, path: Path, timeout_s: float) -> None:
        params = {"textDocument": {"uri": uri_of(path)}}
        try:
            report = await self.request("textDocument/diagnostic", params, _REPORT, timeout_s=timeout_s)
        except LspError as error:
            self._log.info("no diagnostics", extra=fields(server=self.name, reason=str(error)))
            return
        if report.kind == "full":
            self._store(Published(uri=uri_of(path), diagnostics=report.items))

    def _store(self, published: Published) -> None:
        if self.diagnostics.put(published.uri, published.diagnostics):
            self._on_event(self, "diagnostics_changed")
        self._updated.set()

    def _refresh(self) -> None:
        """Pull the diagnostics of the open files again, because the server says that they have changed."""
        if self.state is ServerState.READY and not self._is_refreshing:
            self._is_refreshing = True
            self._tasks.start(self._pull_open(), "refresh")

    async def _pull_open(self) -> None:
        try:
            for path in list(reversed(self._documents.stamps))[:OTHERS_MAX]:
                await self._pull(path, self._limits.lsp_answer_s)
        finally:
            self._is_refreshing = False

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._updated.clear()
                    await self._updated.wait()
        except TimeoutError:
            return False
        return True
