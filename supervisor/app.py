"""Build the server's object graph and start it in order; the only place where parts are chosen.

Start: lock, epoch, listeners (health is answered from here on), registered workspaces, adoption, router, READY.
Requests that need a workspace wait until adoption is done. For the end see `supervisor/shutdown.py`; the lock is
released last.
"""

import asyncio
import logging
import os
import random
import signal
import subprocess
from functools import partial
from typing import Any

from protocol.base.clock import SystemClock
from protocol.base.log_handler import write_line
from protocol.base.logs import Redactor, fields
from protocol.base.tasks import TaskOwner
from protocol.ids import Generation, new_token
from protocol.local_model import is_installed
from protocol.worker_spec import WorkerSpec
from supervisor.admission import Admission
from supervisor.config.server_config import ServerConfig
from supervisor.housekeeping import Housekeeping, ping_watchdog
from supervisor.http.control import ControlHandlers
from supervisor.http.dispatch import RouteDispatcher
from supervisor.http.forward import Forward
from supervisor.http.listener_set import ListenerSet
from supervisor.http.listeners import ListenFailed
from supervisor.http.messages import Handler
from supervisor.http.openapi.page import DescriptionHandlers
from supervisor.http.sse import EventStreams
from supervisor.http.status import StatusHandlers
from supervisor.http.workspaces import WorkspaceHandlers
from supervisor.launch.local import LocalLauncher
from supervisor.launch.process_usage import measure_process
from supervisor.launch.records import RecordStore
from supervisor.local_model.process import COMMAND as LOCAL_MODEL_COMMAND
from supervisor.local_model.process import LocalModel
from supervisor.older_runtimes import OlderRuntimes
from supervisor.owned_files import OwnedFiles
from supervisor.routing.router import Router
from supervisor.runtime import RuntimeDir
from supervisor.shutdown import ExitDecision, ExitMode, ShutdownSequence
from supervisor.state_dir import StateDir
from supervisor.systemd import Notifier, inherited_sockets
from supervisor.waking import Waking
from supervisor.workers.adopter import Adopter
from supervisor.workers.driver import WorkerBackend, WorkerDriver
from supervisor.workspaces.debt_file import DebtFile
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable, WorkspaceTableFailed

EXIT_CLEAN, EXIT_USAGE, EXIT_NO_LISTENER = 0, 2, 4
CLOSED_MAX = 100
"""Data directories of other workspaces that are closed to a worker's commands, at most."""


def run_app(
    config: ServerConfig,
    runtime: RuntimeDir,
    state: StateDir,
    redactor: Redactor,
    log: logging.Logger,
    zygote: "subprocess.Popen[bytes] | None",
) -> int:
    """Run the server in locked directories until it is asked to exit; return the exit code. Raises OSError.

    `zygote` is the process of its zygote, if that was started already.
    """
    for name in ("tornado", "asyncio"):  # libraries log to the same place
        library = logging.getLogger(name)
        library.handlers, library.propagate = log.handlers, False
        library.setLevel(logging.WARNING)
    try:
        return asyncio.run(App(config, runtime, state, redactor, log, zygote).run())
    except WorkspaceTableFailed as error:
        write_line(2, f"bulkhead: {error}", is_last=True)
        return EXIT_USAGE
    except ListenFailed as error:
        write_line(2, f"bulkhead: {error}", is_last=True)
        return EXIT_NO_LISTENER


class App:
    """One server, from start to end."""

    def __init__(
        self,
        config: ServerConfig,
        runtime: RuntimeDir,
        state: StateDir,
        redactor: Redactor,
        log: logging.Logger,
        zygote: "subprocess.Popen[bytes] | None",
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._state = state
        self._redactor = redactor
        self._log = log
        self._zygote = zygote
        self._limits = config.limits
        self._clock = SystemClock()
        self._random = random.SystemRandom()
        self._notifier = Notifier(os.environ)
        self._inherited = inherited_sockets(os.environ)
        self._admission = Admission(idle_exit_s=config.idle_exit_s)
        self._tasks = TaskOwner("app", log)
        self._start_error: Exception | None = None

    async def run(self) -> int:
        """Start, serve, end. Raises the error that makes a start impossible."""
        self._build()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._exit.request, ExitMode.SHUT_DOWN, number.name)
        loop.add_signal_handler(signal.SIGUSR2, self._exit.request, ExitMode.SHUT_DOWN_CANCELLING, "SIGUSR2")
        loop.add_signal_handler(signal.SIGHUP, self._exit.request, ExitMode.DETACH, "SIGHUP")
        starting: asyncio.Task[None] | None = None
        try:
            self._listeners.open()
            self._runtime.announce(self._listeners.names)
            self._state.announce(self._runtime.path, self._listeners.names)
            starting = self._tasks.start(self._start_or_note(), "start")
            first: set[asyncio.Future[Any]] = {starting, self._exit.made}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._start_error is not None:
                raise self._start_error
            mode = await self._exit.made
        except BaseException:
            await self._end(ExitMode.DETACH)
            raise
        # A shutdown during the start waits for its end; else workers that are not adopted yet would be left behind.
        await asyncio.wait({starting}, timeout=self._limits.start_deadline_s)
        await self._end(mode)
        self._log.info("left", extra=fields(how=mode.value))
        return EXIT_CLEAN

    async def _end(self, mode: ExitMode) -> None:
        self._admission.stopped()
        await self._shutdown.run(mode)
        await self._tasks.close()
        self._older_runtimes.release()
        self._waking.take_stock()
        await self._debts.close()
        self._notifier.close()

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        limits, clock, log = self._limits, self._clock, self._log
        self._older_runtimes = OlderRuntimes(log)
        self._state.load_identity(self._random)
        epoch = self._runtime.next_epoch(at_least=self._state.last_epoch())
        self._state.store_epoch(epoch)
        self._router = Router(limits=limits, clock=clock, log=log, epoch=epoch)
        self._records = RecordStore(self._state.records, spare=self._runtime.workers)
        self._launcher = LocalLauncher(
            runtime_dir=self._runtime.path,
            state_id=self._state.identity,
            limits=limits,
            clock=clock,
            log=log,
            spawn_zygote=self._config.spawn_zygote,
            zygote_process=self._zygote,
        )
        self._backend = WorkerBackend(launcher=self._launcher, records=self._records, router=self._router)
        own_command = LOCAL_MODEL_COMMAND if is_installed() else ()
        self._local_model = LocalModel(
            runtime_dir=self._runtime.path,
            command=(self._config.local_model_command or own_command) if self._config.local_model else (),
            env=self._config.worker_env,
            limits=limits,
            clock=clock,
            log=log,
        )
        self._table = WorkspaceTable(self._config.state_dir / "roster.db")
        self._debts = DebtFile(self._config.state_dir / "owing.json", log)
        self._registry = Registry(
            table=self._table,
            filesystem=BoundedFilesystem(timeout_s=limits.disk_answer_s),
            make_workspace=self._make_workspace,
            state_dir=self._config.state_dir,
            limits=limits,
            clock=clock,
            random=self._random,
            log=log,
        )
        dispatcher = RouteDispatcher(admission=self._admission)
        self._listeners = ListenerSet(
            config=self._config,
            token_file=self._runtime.token_file,
            inherited=self._inherited,
            answer=dispatcher,
            random=self._random,
            redactor=self._redactor,
            log=log,
        )
        self._exit = ExitDecision(
            admission=self._admission, listeners=self._listeners, notifier=self._notifier, limits=limits, log=log
        )
        dispatcher.bind(
            forward=Forward(registry=self._registry, admission=self._admission), handlers=self._make_handlers()
        )
        self._adopter = Adopter(
            launcher=self._launcher, records=self._records, find_workspace=self._registry.restore, log=log
        )
        self._waking = Waking(debts=self._debts, registry=self._registry, clock=clock, log=log)
        self._housekeeping = Housekeeping(
            files=OwnedFiles(
                runtime=self._runtime,
                state=self._state,
                records=self._records,
                debts=self._debts,
                listeners=self._listeners,
                clock=clock,
                log=log,
            ),
            registry=self._registry,
            waking=self._waking,
            admission=self._admission,
            on_idle=partial(self._exit.request, ExitMode.SHUT_DOWN, "idle"),
            evict_idle_s=limits.evict_idle_s,
            idle_exit_s=self._config.idle_exit_s,
            clock=clock,
        )
        self._shutdown = ShutdownSequence(
            registry=self._registry,
            listeners=self._listeners,
            local_model=self._local_model,
            launcher=self._launcher,
            router=self._router,
            notifier=self._notifier,
            limits=limits,
            log=log,
        )

    def _make_workspace(self, registration: Registration) -> ManagedWorkspace:
        return ManagedWorkspace(
            registration=registration,
            make_driver=self._make_driver,
            check_folder=partial(self._registry.check_folder, registration.id),
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            cancel_on_last_detach=self._config.on_last_detach == "cancel",
            debts=self._debts,
        )

    def _make_driver(self, workspace: ManagedWorkspace) -> WorkerDriver:
        return WorkerDriver(
            workspace_id=workspace.registration.id,
            make_spec=lambda generation: self._make_spec(workspace.registration, generation),
            backend=self._backend,
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            listener=workspace,
        )

    def _make_spec(self, registration: Registration, generation: Generation) -> WorkerSpec:
        token = new_token(self._random)
        self._redactor.register(token)
        return WorkerSpec(
            workspace_id=registration.id,
            generation=generation,
            path=registration.identity.path,
            directory=(registration.identity.inode, registration.identity.birth_ns),
            data_dir=registration.data_dir,
            endpoint=self._router.endpoint,
            token=token,
            log_path=str(self._runtime.workers / f"{registration.id}.log"),
            log_level=self._config.log_level,
            state_id=self._state.identity,
            env=dict(self._config.worker_env),
            skip_permissions=registration.skip_permissions,
            debug=registration.debug,
            default_model=self._config.default_model,
            local_model=self._local_model.address,
            closed=self._closed_to_commands(registration),
            limits=self._limits,
        )

    def _closed_to_commands(self, registration: Registration) -> list[str]:
        """Return the directories that confined commands of this workspace may not read, as known at its start."""
        others = [other.data_dir for other in self._registry.registrations() if other.id != registration.id]
        own = (self._runtime.path, self._config.state_dir, self._config.token_file)
        return [str(path) for path in own if path is not None] + others[-CLOSED_MAX:]

    def _make_handlers(self) -> dict[str, Handler]:
        registry, admission, log = self._registry, self._admission, self._log
        workspaces = WorkspaceHandlers(registry=registry, admission=admission, log=log)
        control = ControlHandlers(
            admission=admission, is_busy=lambda: registry.is_busy, leave=self._exit.request_by_client
        )
        status = StatusHandlers(
            registry=registry, table=self._table, counters=self._router.counters, measure=measure_process
        )
        streams = EventStreams(
            registry=registry,
            admission=admission,
            limits=self._limits,
            clock=self._clock,
            random=self._random,
            log=log,
        )
        description = DescriptionHandlers()
        return {
            "health": control.health,
            "version": control.version,
            "server_config": control.server_config,
            "control": control.control,
            "retire_client": workspaces.retire,
            "list_workers": status.workers,
            "get_worker": status.worker,
            "metrics": status.metrics,
            "list_workspaces": workspaces.list,
            "create_workspace": workspaces.create,
            "get_workspace": workspaces.get,
            "release_workspace": workspaces.release,
            "set_current_session": workspaces.set_current_session,
            "stream_events": streams,
            "restart_worker": workspaces.restart,
            "evict_worker": workspaces.evict,
            "adopt_directory": workspaces.adopt,
            "remove_registration": workspaces.unregister,
            "openapi": description.openapi,
            "docs": description.docs,
        }

    # --- starting ---------------------------------------------------------------------------------------------------

    async def _start_or_note(self) -> None:
        try:
            await self._start()
        except (WorkspaceTableFailed, OSError) as error:
            self._start_error = error  # `run` raises it, and `serve` prints it in one line

    async def _start(self) -> None:
        await self._registry.load()
        self._debts.load()
        self._local_model.open()
        if not self._exit.made.done():
            await self._launcher.start_zygote()
        records = await self._table.in_thread(self._records.read_all)
        adopted = await self._adopter.adopt_all(records)
        older = self._older_runtimes.take(
            [record.endpoint for record in adopted], f"ipc://{self._runtime.router_socket}"
        )
        # Only now: a worker that connects again has to find its link.
        await self._router.start(self._runtime.router_socket, older)
        self._registry.open()
        if self._exit.made.done():
            return
        self._tasks.start(self._housekeeping.run(), "housekeeping")
        if self._notifier.watchdog_s is not None:
            self._tasks.start(ping_watchdog(self._notifier, self._notifier.watchdog_s / 3), "watchdog")
        names = " ".join(self._listeners.names)
        self._notifier.ready(f"listening on {names}")
        self._log.info("ready", extra=fields(listeners=names, adopted=len(adopted), runtime=self._runtime.path))
        write_line(1, f"READY {names}")
