"""One language server: its process, its conversation, its documents, its diagnostics.

Its death is a state and never more than that: the next use starts it again (`states.py` says when).
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec.json import Decoder

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.limits import Limits
from worker.config.expand import expand, shell_runner
from worker.lsp.catalogue import handles
from worker.lsp.connection import Connection, LspError
from worker.lsp.diagnostics import DiagnosticsStore, SettleTimer
from worker.lsp.documents import Documents, OnDisk, read_text, stamp_of
from worker.lsp.initialize_params import initialize_params
from worker.lsp.lifecycle import Effect, End, Launch, ServerLifecycle, ServerState
from worker.lsp.types import Capabilities, Initialized, Published, Report
from worker.processes.child import ChildProcess, ChildProcesses
from worker.processes.environment import tool_environment
from worker.toolkit.file_uris import uri_of

T = TypeVar("T")

OTHERS_MAX = 8  # other open files that are looked at again after a change
ANYTHING: Decoder[object] = Decoder(object)
"""For answers of which nothing is read, or whose shape is not known."""
_INITIALIZED = Decoder(Initialized)
_REPORT = Decoder(Report)

GOODBYE_S = 1.0
NOTE_BYTES = 4096  # kept of what a server writes to its error output, at each end


@dataclass(frozen=True)
class ServerPlan:
    """How to run a server. `command`, `args` and the values of `env` are templates."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    filetypes: tuple[str, ...] = ()
    root_markers: tuple[str, ...] = ()
    init_options: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    start_s: float = 30.0
    is_disabled: bool = False


class LanguageServer:
    """One server of a workspace, whether it runs or not. All methods are for the loop."""

    def __init__(
        self,
        plan: ServerPlan,
        *,
        workspace: Path,
        env: Mapping[str, str],
        children: ChildProcesses,
        on_state: Callable[["LanguageServer"], None],
        on_diagnostics: Callable[["LanguageServer"], None],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`env` is the workspace's: templates see all of it, the process what tools may see, and the plan's own."""
        self.plan = plan
        self.board = DiagnosticsStore()
        self.connected_at: float | None = None
        self._workspace = workspace
        self._env = env
        self._children = children
        self._on_state = on_state
        self._on_diagnostics = on_diagnostics
        self._limits = limits
        self._clock = clock
        self._log = log
        self._machine = ServerLifecycle(is_disabled=plan.is_disabled)
        self._tasks = TaskOwner(f"lsp {plan.name}", log)
        self._process: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._capabilities = Capabilities()
        self._documents = Documents(limits.lsp_documents_max)
        self._syncing = asyncio.Lock()
        self._is_refreshing = False
        self._is_warm = False
        self._told_at = 0  # the board's count of changes when the server was last told of a file
        self._moved = asyncio.Event()  # the state or the diagnostics changed

    @property
    def name(self) -> str:
        """By which people call it."""
        return self.plan.name

    @property
    def state(self) -> ServerState:
        """Where it is now."""
        return self._machine.state

    @property
    def error(self) -> str:
        """Why it is in the state error; "" otherwise."""
        return self._machine.error

    def handles(self, path: Path) -> bool:
        """Is this a file for it?"""
        return handles(self.plan.filetypes, path)

    # --- its life ---------------------------------------------------------------------------------------------------

    def want(self) -> None:
        """Somebody has a use for it: start it unless it runs, is disabled, or has failed a moment ago."""
        self._perform(self._machine.wanted(self._clock.now()))

    async def ready(self, timeout_s: float) -> bool:
        """Want it, and wait; False when it is not ready within that time or has failed."""
        self.want()
        await self._wait(lambda: self.state is not ServerState.STARTING, timeout_s)
        return self.state is ServerState.READY

    async def stop(self) -> None:
        """End its process. The next use starts it again. Bounded."""
        connection = self._connection
        was_ready = self.state is ServerState.READY
        if was_ready and connection is not None:
            with contextlib.suppress(LspError):
                await connection.request("shutdown", None, ANYTHING, timeout_s=GOODBYE_S)
            connection.notify("exit", None)
        process = self._process
        self._forget()
        self._perform(self._machine.stop())
        if process is not None:
            await asyncio.wait({process}, timeout=self._limits.settle_s)

    async def close(self) -> None:
        """End it for good."""
        self._machine.stop()
        await self._tasks.close(self._limits.settle_s)

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Launch():
                    before = self._process
                    self._process = self._tasks.start(self._run(before), "process")
                case End():
                    if self._process is not None and self._process is not asyncio.current_task():
                        self._process.cancel()
        if effects:
            self._tell_state()

    def _forget(self) -> None:
        self.board.clear()
        self.connected_at = None

    def _tell_state(self) -> None:
        self._moved.set()
        self._on_state(self)

    async def _run(self, before: "asyncio.Task[None] | None") -> None:
        """One process from its start to its end."""
        if before is not None and not before.done():
            await asyncio.wait({before}, timeout=self._limits.settle_s)
        connection: Connection | None = None
        child: ChildProcess | None = None

        def feed(data: bytes) -> None:  # not before the loop's next round, when there is a connection
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
                head_bytes=NOTE_BYTES,
                tail_bytes=NOTE_BYTES,
                stdin=True,
                on_stdout=feed,
                is_service=True,
            )
            self._connection = connection = self._connect(child)
            reason = await self._serve(child, connection)
            if child.is_ending:  # not by itself: the worker ends all its children
                self._machine.stop()
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
        note = child.stderr.text().strip() if child is not None else ""
        self._log.warning("language server failed", extra=fields(server=self.name, reason=reason, stderr=note[-1000:]))
        self._forget()
        self._machine.failed(reason[:1000], self._clock.now())
        self._tell_state()

    async def _expanded(self) -> tuple[list[str], dict[str, str]]:
        plan, base = self.plan, dict(self._env)

        def job(_stop: object) -> tuple[list[str], dict[str, str]]:
            run = shell_runner(self._workspace, base)
            env = tool_environment(base) | {name: expand(value, base, run) for name, value in plan.env.items()}
            return [expand(part, base, run) for part in (plan.command, *plan.args)], env

        argv, env = await self._children.threads.run(job, timeout_s=plan.start_s)
        if not argv[0]:
            raise LspError("it has no command; set lsp.<name>.command")
        return argv, env

    def _connect(self, child: ChildProcess) -> Connection:
        return Connection(
            self.name,
            write=child.write,
            settings=self.plan.options,
            folders=[{"uri": uri_of(self._workspace), "name": self._workspace.name}],
            on_diagnostics=self._published,
            on_refresh=self._refresh,
            on_registered=self._moved.set,
            limits=self._limits,
            log=self._log,
        )

    async def _serve(self, child: ChildProcess, connection: Connection) -> str:
        """Introduce ourselves, then wait for the end; the reason for it. Raises LspError."""
        watching = self._tasks.start(self._watch(child, connection, None), "exit")
        try:
            params = initialize_params(self._workspace, os.getpid(), self.plan.init_options)
            answer = await connection.request("initialize", params, _INITIALIZED, timeout_s=self.plan.start_s)
            self._capabilities = answer.capabilities
            connection.notify("initialized", {})
            if self.plan.options:
                connection.notify("workspace/didChangeConfiguration", {"settings": self.plan.options})
            self.connected_at = self._clock.wall()
            self._is_warm = False
            self._machine.started(self._clock.now())
            self._tell_state()
            return await connection.broken
        finally:
            watching.cancel()

    async def _watch(self, child: ChildProcess, connection: Connection, timeout_s: float | None) -> None:
        """Break off the conversation when the process ends; at the latest after `timeout_s`."""
        code = await child.exited() if timeout_s is None else await child.exited_within(timeout_s)
        if code is None:
            connection.fail("it closed its output")
        else:
            connection.fail(f"its process ended with code {code}" if code >= 0 else f"signal {-code} ended its process")

    # --- its documents ----------------------------------------------------------------------------------------------

    async def sync(self, path: Path | None = None, changed: Sequence[Path] = ()) -> bool:
        """Tell it what is on the disk now: of `path`, which is opened, and of all that is open already; and that other
        files have `changed`. Says whether `path` is something new to it.
        """
        async with self._syncing:
            known = self._documents.stamps
            limits = self._limits

            def look(_stop: object) -> dict[Path, OnDisk | None]:
                stale = [other for other, stamp in known.items() if other != path and stamp_of(other) != stamp]
                wanted = [*stale, path] if path is not None else stale
                return {one: read_text(one, limits.lsp_document_max_bytes) for one in wanted}

            found = await self._children.threads.run(look, timeout_s=limits.search_deadline_s)
            connection = self._connection
            if connection is None or self.state is not ServerState.READY:
                return False
            is_new = False
            for one, now in found.items():
                was_open = self._documents.knows(one)
                tells = self._documents.update(one, now)
                if tells:
                    self._told_at = self.board.changes
                for tell in tells:
                    connection.notify(tell.method, tell.params)
                if tells and one == path:
                    is_new = True
                if tells:
                    kind = 3 if now is None else 2 if was_open else 1
                    change = {"changes": [{"uri": uri_of(one), "type": kind}]}
                    connection.notify("workspace/didChangeWatchedFiles", change)
            news = [{"uri": uri_of(other), "type": 2} for other in changed if not self._documents.knows(other)]
            if news:
                connection.notify("workspace/didChangeWatchedFiles", {"changes": news})
            return is_new

    async def request(self, method: str, params: object, answer: Decoder[T], *, timeout_s: float | None = None) -> T:
        """The answer to one request. Raises LspError."""
        if self._connection is None or self.state is not ServerState.READY:
            raise LspError(f"{self.name} is not ready{': ' + self.error if self.error else ''}")
        return await self._connection.request(
            method, params, answer, timeout_s=self._limits.lsp_answer_s if timeout_s is None else timeout_s
        )

    # --- its diagnostics --------------------------------------------------------------------------------------------

    async def check(self, path: Path, *, most_s: float, none_s: float, stable_s: float) -> None:
        """Wait for what it says of `path` as it is now; see `Quiet` for how long. Bounded by `most_s`."""
        if not self._is_warm:  # a server that has just begun reads the whole project first
            none_s = most_s
        quiet = SettleTimer(self._clock.now(), most_s=most_s, none_s=none_s, stable_s=stable_s)
        changes = self._told_at  # the answer may be here already
        # It may say only after its greeting that it wants to be asked, so that is looked at each time.
        while (left := quiet.left(self._clock.now())) > 0 and self.state is ServerState.READY and not self._pulls:
            if await self._wait(partial(self._has_news, changes), left):
                changes = self.board.changes
                self._is_warm = True
                quiet.news(self._clock.now())
        if self._pulls:
            others = [other for other in reversed(self._documents.stamps) if other != path][:OTHERS_MAX]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await asyncio.gather(*(self._pull(one, most_s) for one in (path, *others)))
                    self._is_warm = True
        if most_s >= self._limits.lsp_change_max_s:
            self._is_warm = True  # it says nothing of a file without problems

    async def warm(self, path: Path) -> None:
        """Wait once after each start until it has looked at a file: before that it does not know the project."""
        if not self._is_warm:
            limits = self._limits
            await self.check(
                path,
                most_s=limits.lsp_change_max_s,
                none_s=limits.lsp_change_max_s,
                stable_s=limits.lsp_change_stable_s,
            )

    @property
    def _pulls(self) -> bool:
        """Does it want to be asked for diagnostics?"""
        connection = self._connection
        later = connection is not None and "textDocument/diagnostic" in connection.registered
        return later or bool(self._capabilities.diagnosticProvider)

    def _has_news(self, since: int) -> bool:
        return self.board.changes != since or self._pulls

    async def _pull(self, path: Path, timeout_s: float) -> None:
        params = {"textDocument": {"uri": uri_of(path)}}
        try:
            report = await self.request("textDocument/diagnostic", params, _REPORT, timeout_s=timeout_s)
        except LspError as error:
            self._log.info("no diagnostics", extra=fields(server=self.name, reason=str(error)))
            return
        if report.kind == "full":
            self._published(Published(uri=uri_of(path), diagnostics=report.items))

    def _published(self, published: Published) -> None:
        if self.board.put(published.uri, published.diagnostics):
            self._on_diagnostics(self)
        self._moved.set()

    def _refresh(self) -> None:
        """The server has found out more about files that were looked at already."""
        if self.state is ServerState.READY and not self._is_refreshing:
            self._is_refreshing = True
            self._tasks.start(self._pull_open(), "refresh")

    async def _pull_open(self) -> None:
        try:
            for path in list(reversed(self._documents.stamps))[:OTHERS_MAX]:
                await self._pull(path, self._limits.lsp_answer_s)
        finally:
            self._is_refreshing = False

    async def _wait(self, is_it: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not is_it():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True
