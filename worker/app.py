"""Construct a worker: its parts, each made once, and recovered before the worker is ready.

What the parts do is in their own files; `worker/serving.py` runs the finished worker, `worker/shutdown.py` ends it.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from protocol.api.config import GLOBAL
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, BulkheadError
from protocol.exit_codes import EXIT_CORRUPT, EXIT_SCHEMA
from protocol.worker_spec import WorkerSpec
from protocol.workspace_mark import DATABASE_NAME
from worker.config.live import LiveConfig
from worker.config.load import WorkspaceConfig
from worker.events.publisher import Publisher
from worker.hooks.service import HookService
from worker.link.interfaces import LinkCallbacks
from worker.link.worker_link import WorkerLink
from worker.lsp.service import LanguageServers
from worker.mcp.service import McpService, store_token
from worker.operations.agent import AgentOperations
from worker.operations.config import ConfigOperations
from worker.operations.files import FileOperations
from worker.operations.lsp import LspOperations
from worker.operations.mcp import McpOperations
from worker.operations.permissions import PermissionOperations
from worker.operations.project import ProjectOperations
from worker.operations.prompts import PromptOperations
from worker.operations.reply_cache import ReplyCache
from worker.operations.sessions import SessionOperations
from worker.operations.shell import ShellOperations
from worker.operations.skills import SkillOperations
from worker.operations.summary import SummaryOperations
from worker.operations.table import Handler, OperationTable
from worker.operations.workspace import WorkspaceOperations
from worker.permissions.broker import PermissionBroker
from worker.permissions.questions import Questions
from worker.processes.child import ChildProcesses
from worker.runs.credentials import Credentials
from worker.runs.delegation import Delegation
from worker.runs.dispatcher import Dispatcher
from worker.runs.drain import Drain
from worker.runs.live_models import LiveModels
from worker.runs.recovery import Recovered, recover
from worker.runs.run_end import EndWriter, RunFinisher
from worker.runs.run_services import RunServices
from worker.runs.session_queue import AcceptCounter
from worker.runs.titles import Titles
from worker.runs.turn_factory import ToolServices, TurnFactory
from worker.serving import StatsSource, WorkerService
from worker.shutdown import EndSignal, WorkerParts
from worker.skills.service import SkillService
from worker.store.database import Database
from worker.store.database_file import StorageCorrupt, StorageUnusable
from worker.store.event_log import StoredEventLog
from worker.store.migrations import SchemaNewer
from worker.store.tables.file_versions import StoredHistory
from worker.store.tables.read_files import StoredFileLedger
from worker.store.tables.todos import StoredTodos
from worker.supervisor_lease import SupervisorLease
from worker.toolkit.extension import Extensions
from worker.tools.builtin import BuiltinTools, ToolDependencies, lsp_tools
from worker.tools.session.crush_info_text import WorkerSnapshot
from worker.tools.shell.jobs import Jobs
from worker.tools.shell.sandbox import SandboxPolicy
from worker.web.search import Search


@dataclass(frozen=True)
class _Storage:
    """The database, and the publisher of its events."""

    database: Database
    publisher: Publisher


@dataclass(frozen=True)
class _Services:
    """What runs beside the runs."""

    live: LiveConfig
    children: ChildProcesses
    languages: LanguageServers
    mcp: McpService
    skills: SkillService
    hooks: HookService
    jobs: Jobs
    extensions: Extensions
    broker: PermissionBroker


@dataclass(frozen=True)
class _Runs:
    """What accepts, builds and runs turns."""

    credentials: Credentials
    models: LiveModels
    turns: TurnFactory
    drain: Drain
    dispatcher: Dispatcher
    recovered: Recovered


class Worker:
    """One worker process. `run` is its whole life."""

    link_class = WorkerLink

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        config: WorkspaceConfig | BadInput,
        clock: Clock,
        random: random.Random,
        log: logging.Logger,
        register_secret: Callable[[str], None],
    ) -> None:
        """`config` is the result of `read_config` or its error. `register_secret` keeps a text out of all log lines."""
        self._spec = spec
        self._config = config
        self._limits = spec.limits
        self._clock = clock
        self._random = random
        self._log = log
        self._register_secret = register_secret

    async def run(self) -> int:
        """Open, recover, serve until asked to leave, close; return the exit code."""
        loop = asyncio.get_running_loop()
        end = EndSignal(self._spec, self._log)
        loop.add_signal_handler(signal.SIGTERM, end.leave, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # ctrl-C in a terminal is meant for the front end
        try:
            service, recovered = await self._open(end)
        except SchemaNewer as error:
            self._report(error)
            return EXIT_SCHEMA
        except (StorageUnusable, BulkheadError) as error:
            self._report(error)
            return EXIT_CORRUPT if isinstance(error, StorageCorrupt) else end.storage_exit_code
        try:
            return await service.run(recovered)
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    def _report(self, error: Exception) -> None:
        spec = self._spec
        self._log.error(str(error), extra=fields(workspace=spec.workspace_id, generation=spec.generation))

    async def _open(self, end: EndSignal) -> tuple[WorkerService, Recovered]:
        storage = await self._open_storage(end)
        services = self._make_services(storage)
        runs = await self._make_runs(storage, services, end)
        table = self._make_operations(storage, services, runs)
        lease = SupervisorLease(supervisor_lease_s=self._limits.supervisor_lease_s, now=self._clock.now())
        link = self._make_link(storage, services, runs, table, lease=lease, end=end)
        storage.publisher.bind(send=link.send_events, fetch=StoredEventLog(storage.database).after)
        parts = WorkerParts(
            link=link,
            publisher=storage.publisher,
            dispatcher=runs.dispatcher,
            drain=runs.drain,
            children=services.children,
            credentials=runs.credentials,
            extensions=services.extensions,
            broker=services.broker,
            models=runs.models,
            turns=runs.turns,
            database=storage.database,
        )
        service = WorkerService(parts, self._spec, lease=lease, end=end, clock=self._clock, log=self._log)
        return service, runs.recovered

    async def _open_storage(self, end: EndSignal) -> _Storage:
        publisher = Publisher(limits=self._limits, clock=self._clock, log=self._log)
        database = await Database.open(
            Path(self._spec.data_dir) / DATABASE_NAME,
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            random=self._random,
            on_commit=publisher.committed,
            on_fatal=end.storage_failed,
            on_writable=lambda: end.leave("the database may be written again"),
        )
        return _Storage(database, publisher)

    def _make_services(self, storage: _Storage) -> _Services:
        spec, limits, clock, random, log = self._spec, self._limits, self._clock, self._random, self._log
        workspace = Path(spec.path)
        children = ChildProcesses(limits=limits, clock=clock, log=log, random=random)
        live = LiveConfig(
            spec,
            self._config,
            clock=clock,
            log=log,
            register_secret=self._register_secret,
            in_thread=lambda job: children.threads.run(lambda _stop: job(), timeout_s=limits.disk_answer_s),
        )
        languages = LanguageServers(
            workspace=workspace,
            children=children,
            publish_snapshot=storage.publisher.snapshot,
            limits=limits,
            clock=clock,
            log=log,
            tools=lsp_tools,
        )
        mcp = McpService(
            workspace=workspace,
            children=children,
            publish_snapshot=storage.publisher.snapshot,
            save=lambda name, token: live.edit(GLOBAL, partial(store_token, name=name, token=token)),
            reload=live.reload,
            register_secret=self._register_secret,
            limits=limits,
            clock=clock,
            log=log,
        )
        hooks = HookService(children, limits, log)
        skills = SkillService(workspace, database=storage.database, threads=children.threads, limits=limits)
        sandbox = SandboxPolicy(workspace, Path(spec.data_dir), spec.closed, log, operator=spec.env)
        jobs = Jobs(children, limits=limits, clock=clock, random=random, log=log, sandbox_policy=sandbox)
        broker = PermissionBroker(database=storage.database, limits=limits, clock=clock, random=random, log=log)
        extensions = Extensions(languages, mcp, hooks, skills, jobs, sandbox)
        live.subscribe(extensions.configure)
        return _Services(live, children, languages, mcp, skills, hooks, jobs, extensions, broker)

    async def _make_runs(self, storage: _Storage, services: _Services, end: EndSignal) -> _Runs:
        spec, limits, clock, random, log = self._spec, self._limits, self._clock, self._random, self._log
        database, live = storage.database, services.live
        credentials = Credentials(live, spec, clock=clock, log=log)
        models = LiveModels(live, credentials, limits=limits, clock=clock, log=log)
        delegation = Delegation(database, clock)
        turns = TurnFactory(
            spec,
            live=live,
            models=models,
            tools=self._make_tools(storage, services, delegation),
            extensions=services.extensions,
            services=ToolServices(
                limits=limits,
                clock=clock,
                children=services.children,
                files=StoredFileLedger(database, clock),
                history=StoredHistory(database, limits, clock, random),
                code=services.languages,
                hooks=services.hooks,
            ),
            broker=services.broker,
            log=log,
        )
        drain = Drain()
        writer = EndWriter(clock, random, models.author)
        recovered = await recover(database, writer, limits)
        dispatcher = Dispatcher(
            RunServices(
                database=database,
                publisher=storage.publisher,
                owner=TaskOwner("runs", log),
                limits=limits,
                clock=clock,
                random=random,
                log=log,
            ),
            finisher=RunFinisher(database=database, writer=writer, log=log, on_fatal=end.storage_failed),
            make_turn=turns.make_turn,
            name_session=Titles(
                database=database, models=models.title_models, limits=limits, clock=clock, log=log
            ).name,
            drain=drain,
            counter=AcceptCounter(recovered.last_accept_seq),
        )
        delegation.bind(dispatcher)
        return _Runs(credentials, models, turns, drain, dispatcher, recovered)

    def _make_tools(self, storage: _Storage, services: _Services, delegation: Delegation) -> BuiltinTools:
        live, languages, mcp, skills = services.live, services.languages, services.mcp, services.skills
        return BuiltinTools(
            ToolDependencies(
                worker=self._spec,
                snapshot=lambda: WorkerSnapshot(live.skip_permissions, languages.infos(), mcp.infos(), skills.states),
                jobs=services.jobs,
                delegate=delegation,
                todos=StoredTodos(storage.database, self._clock),
                search=Search(self._random),
                asker=Questions(services.broker, storage.database, self._limits),
            )
        )

    def _make_operations(self, storage: _Storage, services: _Services, runs: _Runs) -> OperationTable:
        spec, limits, clock, random = self._spec, self._limits, self._clock, self._random
        workspace, data_dir = Path(spec.path), Path(spec.data_dir)
        database, live, broker = storage.database, services.live, services.broker
        dispatcher, children = runs.dispatcher, services.children
        handlers: dict[str, Handler] = {}
        for operations in (
            PromptOperations(dispatcher, database, live),
            SessionOperations(
                dispatcher,
                database,
                services.jobs,
                limits=limits,
                clock=clock,
                random=random,
                on_created=runs.turns.session_created,
            ),
            WorkspaceOperations(database, live, services.skills, data_dir=spec.data_dir, limits=limits),
            AgentOperations(dispatcher, database, live=live, models=runs.models, turns=runs.turns, broker=broker),
            SummaryOperations(dispatcher, database, live),
            PermissionOperations(live, broker),
            ConfigOperations(live, runs.credentials, database, workspace_id=spec.workspace_id),
            FileOperations(database, workspace=workspace, limits=limits, clock=clock),
            ProjectOperations(live, workspace=workspace, data_dir=data_dir),
            McpOperations(services.mcp),
            SkillOperations(services.skills, threads=children.threads, limits=limits),
            LspOperations(services.languages),
            ShellOperations(
                live,
                database,
                children,
                workspace=workspace,
                drain=runs.drain,
                limits=limits,
                clock=clock,
                random=random,
            ),
        ):
            handlers.update(operations.handlers())
        return OperationTable(handlers, limits=limits, clock=clock, log=self._log)

    def _make_link(
        self,
        storage: _Storage,
        services: _Services,
        runs: _Runs,
        table: OperationTable,
        *,
        lease: SupervisorLease,
        end: EndSignal,
    ) -> WorkerLink:
        limits, clock = self._limits, self._clock
        stats = StatsSource(
            database=storage.database,
            dispatcher=runs.dispatcher,
            broker=services.broker,
            children=services.children,
            extensions=services.extensions,
            live=services.live,
        )
        return self.link_class(
            spec=self._spec,
            clock=clock,
            log=self._log,
            table=table,
            replies=ReplyCache(count_max=limits.replies_kept, bytes_max=limits.replies_kept_bytes),
            publisher=storage.publisher,
            stats=stats.read,
            callbacks=LinkCallbacks(
                on_shutdown=end.request,
                on_supervisor_heard=lambda: lease.heard(clock.now()),
                on_attached=services.broker.attached,
            ),
        )
