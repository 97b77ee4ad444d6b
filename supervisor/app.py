"""Builds the object graph once, starts and stops it in order; the only place where parts are chosen.

Start: lock, epoch, listeners (health is answered from here on), roster, adoption, router, READY. Requests that need
a workspace wait until adoption is done. End: admission closed, every worker through its shutdown protocol, streams
ended, listeners closed, zygote, router, and the lock last.
"""

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable
from enum import Enum
from functools import partial
from typing import Any

from protocol.base.clock import SystemClock
from protocol.base.logs import Redactor, fields, set_up_logs
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.ids import Generation
from protocol.local_model import is_installed
from protocol.secrets import is_secret_name
from protocol.worker_spec import MARKER, WorkerSpec
from supervisor.admission import Admission
from supervisor.config.server_config import ServerConfig
from supervisor.http.control import ControlHandlers
from supervisor.http.forward import Forward
from supervisor.http.listener_set import ListenerSet
from supervisor.http.listeners import ListenFailed
from supervisor.http.messages import Handler, Request, Response
from supervisor.http.openapi.page import DescriptionHandlers
from supervisor.http.routes import ROUTES
from supervisor.http.sse import EventStreams
from supervisor.http.status import StatusHandlers
from supervisor.http.workspaces import WorkspaceHandlers
from supervisor.launch.local import LocalLauncher
from supervisor.launch.process_usage import measure_process
from supervisor.launch.records import Record, RecordStore
from supervisor.local_model.process import COMMAND as LOCAL_MODEL_COMMAND
from supervisor.local_model.process import LocalModel
from supervisor.routing.router import Router
from supervisor.runtime import RuntimeDir, RuntimeRefused, RuntimeTaken, allow_descriptors, make_private
from supervisor.systemd import Notifier, inherited_sockets
from supervisor.workers.driver import WorkerDriver
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import Workspace
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable, WorkspaceTableFailed

EXIT_CLEAN, EXIT_USAGE, EXIT_TAKEN, EXIT_DEAF = 0, 2, 3, 4
ADOPT_AT_ONCE = 16
HOUSEKEEPING_S_MAX = 1.0
HOUSEKEEPING_S_MIN = 0.05
EXTEND_EVERY_S = 1.0
CLOSED_MAX = 100  # files of other workspaces that a worker is told of


class Leave(Enum):
    """How a server ends."""

    SHUT_DOWN = "shut down"  # workers end too
    DETACH = "detach"  # workers stay for the next supervisor


def serve(config: ServerConfig) -> int:
    """Run the server until it is told to leave; returns the exit code of decisions.md."""
    redactor = set_up_logs(config.log_level)
    log = logging.getLogger("bulkhead")
    for name in ("tornado", "asyncio"):  # what libraries have to say goes the same way
        library = logging.getLogger(name)
        library.handlers, library.propagate = log.handlers, False
        library.setLevel(logging.WARNING)
    for name, value in config.worker_env.items():
        if is_secret_name(name):
            redactor.register(value)
    # A umask may take rights from everybody but us: what we write we must be able to read again (X04).
    os.umask(os.umask(0o077) & 0o077)
    allow_descriptors()
    runtime = RuntimeDir(config.runtime_dir)
    try:
        runtime.prepare()
        config.state_dir.mkdir(parents=True, exist_ok=True)
        make_private(config.state_dir)
        runtime.lock()
        return asyncio.run(App(config, runtime, redactor, log).run())
    except RuntimeTaken as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return EXIT_TAKEN
    except (RuntimeRefused, WorkspaceTableFailed) as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"bulkhead: cannot start: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ListenFailed as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return EXIT_DEAF
    finally:
        runtime.unlock()


class App:
    """One server, from start to end."""

    def __init__(self, config: ServerConfig, runtime: RuntimeDir, redactor: Redactor, log: logging.Logger) -> None:
        self._config = config
        self._runtime = runtime
        self._redactor = redactor
        self._log = log
        self._limits = config.limits
        self._clock = SystemClock()
        self._random = random.SystemRandom()
        self._notifier = Notifier(os.environ)
        self._inherited = inherited_sockets(os.environ)
        self._admission = Admission(idle_exit_s=config.idle_exit_s)
        self._tasks = TaskOwner("app", log)
        self._start_failed: Exception | None = None

    async def run(self) -> int:
        """Start, serve, end. Raises what makes a start impossible."""
        loop = asyncio.get_running_loop()
        self._leaving: asyncio.Future[Leave] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, Leave.SHUT_DOWN, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._leave, Leave.DETACH, "SIGHUP")
        self._build()
        starting: asyncio.Task[None] | None = None
        try:
            self._front.open()
            self._runtime.announce(self._front.names)
            starting = self._tasks.start(self._start_or_note(), "start")
            first: set[asyncio.Future[Any]] = {starting, self._leaving}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._start_failed is not None:
                raise self._start_failed
            how = await self._leaving
        except BaseException:
            await self._end(Leave.DETACH)
            raise
        # A shutdown during the start waits for its end, or workers not yet adopted would be left behind.
        await asyncio.wait({starting}, timeout=self._limits.start_deadline_s)
        await self._end(how)
        return EXIT_CLEAN

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        limits, clock, log = self._limits, self._clock, self._log
        self._runtime_problem = ""
        self._router = Router(limits=limits, clock=clock, log=log, epoch=self._runtime.next_epoch())
        self._records = RecordStore(self._runtime.workers)
        self._launcher = LocalLauncher(
            runtime_dir=self._runtime.path,
            limits=limits,
            clock=clock,
            log=log,
            spawn_zygote=self._config.spawn_zygote,
        )
        own_command = LOCAL_MODEL_COMMAND if is_installed() else ()
        self._local_model = LocalModel(
            runtime_dir=self._runtime.path,
            command=(self._config.local_model_command or own_command) if self._config.local_model else (),
            env=self._config.worker_env,
            limits=limits,
            clock=clock,
            log=log,
        )
        self._roster = WorkspaceTable(self._config.state_dir / "roster.db")
        self._disk = BoundedFilesystem(timeout_s=limits.disk_answer_s)
        self._registry = Registry(
            roster=self._roster,
            disk=self._disk,
            make_workspace=self._make_workspace,
            state_dir=self._config.state_dir,
            limits=limits,
            clock=clock,
            random=self._random,
            log=log,
        )
        self._handlers = self._make_handlers()
        self._front = ListenerSet(
            config=self._config,
            token_file=self._runtime.token_file,
            inherited=self._inherited,
            answer=self._answer,
            random=self._random,
            redactor=self._redactor,
            log=log,
        )

    def _make_workspace(self, registration: Registration) -> Workspace:
        return Workspace(
            registration=registration,
            make_driver=self._make_driver,
            in_thread=partial(self._disk.ask, registration.identity.path),
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            cancel_on_last_detach=self._config.on_last_detach == "cancel",
        )

    def _make_driver(self, workspace: Workspace) -> WorkerDriver:
        registration = workspace.registration

        def make_spec(generation: Generation, token: str) -> WorkerSpec:
            self._redactor.register(token)
            return WorkerSpec(
                workspace_id=registration.id,
                generation=generation,
                path=registration.identity.path,
                directory=registration.identity.key,
                data_dir=registration.data_dir,
                endpoint=self._router.endpoint,
                token=token,
                log_path=str(self._runtime.workers / f"{registration.id}.log"),
                log_level=self._config.log_level,
                env={**self._config.worker_env, MARKER: registration.id},
                skip_permissions=registration.skip_permissions,
                debug=registration.debug,
                default_model=self._config.default_model,
                local_model=self._local_model.address,
                closed=self._closed_to_commands(registration),
                limits=self._limits,
            )

        return WorkerDriver(
            workspace_id=registration.id,
            path=registration.identity.path,
            make_spec=make_spec,
            launcher=self._launcher,
            records=self._records,
            router=self._router,
            limits=self._limits,
            clock=self._clock,
            random=self._random,
            log=self._log,
            sink=workspace,
        )

    def _closed_to_commands(self, registration: Registration) -> list[str]:
        """Directories that confined commands of this workspace may not read, as far as they are known today."""
        others = [other.data_dir for other in self._registry.registrations() if other.id != registration.id]
        ours = (self._runtime.path, self._config.state_dir, self._config.token_file)
        return [str(path) for path in ours if path is not None] + others[-CLOSED_MAX:]

    def _make_handlers(self) -> dict[str, Handler]:
        registry, admission, log = self._registry, self._admission, self._log
        workspaces = WorkspaceHandlers(registry=registry, admission=admission, log=log)
        control = ControlHandlers(admission=admission, is_busy=self._is_busy, leave=self._leave_soon)
        status = StatusHandlers(registry=registry, roster=self._roster, measure=measure_process)
        streams = EventStreams(
            registry=registry,
            admission=admission,
            limits=self._limits,
            clock=self._clock,
            random=self._random,
            log=log,
        )
        description = DescriptionHandlers()
        self._forward = Forward(registry=registry, admission=admission)
        handlers: dict[str, Handler] = {
            "health": control.health,
            "version": control.version,
            "server_config": control.server_config,
            "control": control.control,
            "retire_client": workspaces.retire,
            "list_workers": status.workers,
            "metrics": status.metrics,
            "list_workspaces": workspaces.list,
            "create_workspace": workspaces.create,
            "get_workspace": workspaces.get,
            "release_workspace": workspaces.release,
            "set_current_session": workspaces.set_current_session,
            "stream_events": streams,
            "restart_worker": workspaces.restart,
            "evict_worker": workspaces.evict,
            "remove_registration": workspaces.unregister,
            "openapi": description.openapi,
            "docs": description.docs,
        }
        assert set(handlers) == {route.handler for route in ROUTES if route.handler}
        return handlers

    async def _answer(self, request: Request) -> Response | None:
        if request.route.is_use:
            self._admission.used()
        if request.route.operation:
            return await self._forward(request)
        return await self._handlers[request.route.handler](request)

    # --- starting ---------------------------------------------------------------------------------------------------

    async def _start_or_note(self) -> None:
        try:
            await self._start()
        except (WorkspaceTableFailed, OSError) as error:
            self._start_failed = error  # `run` raises it, and `serve` says it in one line

    async def _start(self) -> None:
        await self._registry.load()
        self._local_model.open()
        if not self._leaving.done():
            await self._launcher.start_zygote()
        records = await self._roster.in_thread(self._records.read_all)
        gate = asyncio.Semaphore(ADOPT_AT_ONCE)

        async def adopt(record: Record) -> None:
            async with gate:
                await self._adopt(record)

        await asyncio.gather(*(adopt(record) for record in records))
        # Only now: a worker that connects again finds that somebody waits for it.
        await self._router.start(self._runtime.router_socket)
        self._registry.open()
        if self._leaving.done():
            return
        self._tasks.start(self._housekeep(), "housekeeping")
        if self._notifier.watchdog_s is not None:
            self._tasks.start(self._watch(self._notifier.watchdog_s / 3), "watchdog")
        names = " ".join(self._front.names)
        self._notifier.ready(f"listening on {names}")
        self._log.info("ready", extra=fields(listeners=names, adopted=len(records), runtime=self._runtime.path))
        print(f"READY {names}", flush=True)

    async def _adopt(self, record: Record) -> None:
        """Take over the worker that `record` tells of, or end what is left of it."""
        handle = await self._launcher.adopt(record)
        if handle is not None:
            try:
                workspace = self._registry.get(record.workspace_id)
                if workspace is None:
                    workspace = await self._registry.restore(record.workspace_id, record.path)
                workspace.driver.adopt(handle, record)
                self._log.info("worker adopted", extra=fields(workspace=record.workspace_id, pid=handle.pid))
                return
            except BulkheadError as error:
                self._log.error("worker not adopted", extra=fields(workspace=record.workspace_id, error=error))
                handle.kill()
                await handle.exited()
        await self._launcher.sweep(record.workspace_id, keep_pid=0)
        self._records.remove(record.workspace_id)

    # --- running ----------------------------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        return any(workspace.is_used for workspace in self._registry.touched())

    async def _housekeep(self) -> None:
        """Look for workers that may sleep, and whether the server is needed."""
        shortest = min(self._limits.evict_idle_s, self._config.idle_exit_s or HOUSEKEEPING_S_MAX)
        interval_s = min(HOUSEKEEPING_S_MAX, max(HOUSEKEEPING_S_MIN, shortest / 4))
        while True:
            await asyncio.sleep(interval_s)
            self._check_runtime_dir()
            self._front.restore()
            for workspace in self._registry.touched():
                workspace.observe()
            if self._admission.observed(is_busy=self._is_busy(), now=self._clock.now()):
                self._leave(Leave.SHUT_DOWN, "idle")

    def _check_runtime_dir(self) -> None:
        """Somebody may have removed it: a tool, or what cleans up temporary directories (T07, Z01)."""
        try:
            if self._runtime.restore():
                self._log.error("runtime directory vanished, made again", extra=fields(path=self._runtime.path))
                self._runtime_problem = ""
        except (RuntimeRefused, RuntimeTaken, OSError) as error:
            if str(error) != self._runtime_problem:  # it is tried every second
                self._runtime_problem = str(error)
                self._log.error("cannot make the runtime directory again", extra=fields(reason=error))

    async def _watch(self, every_s: float) -> None:
        while True:
            self._notifier.alive()
            await asyncio.sleep(every_s)

    def _leave_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._front.remove_files()  # the client waits two seconds for that, and a hung worker may take longer to end
        loop.call_later(self._limits.control_grace_s, self._leave, Leave.SHUT_DOWN, "asked by a client")

    def _leave(self, how: Leave, why: str) -> None:
        """Begin the end. Only the first call counts."""
        if self._leaving.done():
            self._log.info("already leaving", extra=fields(reason=why))
            return
        self._log.info("leaving", extra=fields(how=how.value, reason=why))
        self._admission.stopped()
        self._notifier.stopping()
        self._leaving.set_result(how)

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _end(self, how: Leave) -> None:
        self._admission.stopped()
        limits = self._limits
        budget_s = limits.drain_s + limits.flush_s + limits.exit_s + 2 * limits.kill_deadline_s + 1.0
        extending = self._tasks.start(self._extend(), "extend")
        ends = [
            workspace.close("server shuts down") if how is Leave.SHUT_DOWN else workspace.detach_all()
            for workspace in self._registry.touched()
        ]
        await self._within(budget_s, "workers", *ends)
        await self._front.close()
        is_end = how is Leave.SHUT_DOWN
        await self._within(3 * limits.kill_deadline_s, "local model", self._local_model.close(end=is_end))
        await self._within(limits.kill_deadline_s, "launcher", self._launcher.close(end_zygote=how is Leave.SHUT_DOWN))
        await self._within(limits.exit_s, "router", self._router.close())
        await self._within(limits.exit_s, "registry", self._registry.close())
        extending.cancel()
        await self._tasks.close()
        self._notifier.close()
        if self._leaving.done():
            self._log.info("left", extra=fields(how=how.value))

    async def _within(self, seconds: float, what: str, *works: Awaitable[Any]) -> None:
        """Wait for all of them, but not for ever; one that fails does not keep the others from ending."""
        try:
            async with asyncio.timeout(seconds):
                for result in await asyncio.gather(*works, return_exceptions=True):
                    if isinstance(result, BaseException):
                        self._log.error("cannot end in order", exc_info=result, extra=fields(part=what))
        except TimeoutError:
            self._log.error("does not end in time", extra=fields(part=what, within_s=seconds))

    async def _extend(self) -> None:
        while True:
            self._notifier.extend(EXTEND_EVERY_S * 3)
            await asyncio.sleep(EXTEND_EVERY_S)
