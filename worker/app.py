"""The worker's object graph: made once, recovered before ready, closed in order.

The close is the shutdown protocol: refuse, cancel, wait, flush, last word, each stage with a deadline. It begins with
a `Shutdown` message, with SIGTERM, or because no supervisor was heard for too long; it is the same each time.
"""

import asyncio
import logging
import os
import random
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from protocol.api.config import GLOBAL
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, BulkheadError, Conflict
from protocol.events import Event
from protocol.exit_codes import EXIT_CLEAN, EXIT_CORRUPT, EXIT_LEFT, EXIT_SCHEMA, EXIT_STORAGE
from protocol.ids import Epoch, RunId
from protocol.messages import LastWord, Ready, Shutdown
from protocol.worker_spec import WorkerSpec
from worker.config.load import Config
from worker.events.publisher import Publisher
from worker.hooks.service import HookService
from worker.link.interfaces import LinkCallbacks, WorkerStats
from worker.link.worker_link import WorkerLink
from worker.log_level import LogLevel
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
from worker.runs.delegation import Delegation
from worker.runs.dispatcher import Dispatcher
from worker.runs.drain import AwaitRuns, CancelAll, Drain, Flush, Leave, Refuse
from worker.runs.recovery import Recovered, recover
from worker.runs.run_end import EndWriter, RunFinisher
from worker.runs.session_queue import AcceptCounter
from worker.runs.titles import Titles
from worker.runs.turn_factory import TurnFactory
from worker.skills.service import SkillService
from worker.store import events as event_rows
from worker.store.database import Database
from worker.store.database_file import StorageCorrupt, StorageUnusable
from worker.store.error_classes import is_corrupt
from worker.store.file_versions import StoredHistory
from worker.store.migrations import SchemaNewer
from worker.store.read_files import StoredFileLedger
from worker.store.todos import StoredTodos
from worker.supervisor_lease import SupervisorLease
from worker.toolkit.extension import FixedTools
from worker.tools.builtin import lsp_tools
from worker.tools.session.agent import Agent
from worker.tools.session.crush_info import InfoTools
from worker.tools.session.crush_info_text import WorkerSnapshot
from worker.tools.session.todos import Todos
from worker.tools.shell.bash import Bash
from worker.tools.shell.jobs import Jobs
from worker.tools.shell.sandbox import SandboxPolicy
from worker.tools.web.web_search import AgenticFetch, WebSearch
from worker.web.search import Search

DATABASE_NAME = "workspace.db"


@dataclass
class _House:
    """What exists once the file is open and recovered."""

    database: Database
    publisher: Publisher
    equipment: TurnFactory
    children: ChildProcesses
    dispatcher: Dispatcher
    link: WorkerLink
    tenure: SupervisorLease


class Worker:
    """One worker process. `run` is its whole life."""

    link_class = WorkerLink

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        config: Config | BadInput,
        clock: Clock,
        random: random.Random,
        log: logging.Logger,
        register_secret: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._config = config
        self._limits = spec.limits
        self._clock = clock
        self._random = random
        self._log = log
        self._register_secret = register_secret
        self._drain = Drain()
        self._is_corrupt = False  # the database turned out to be

    async def run(self) -> int:
        """Open, recover, serve until asked to leave, close; the exit code."""
        loop = asyncio.get_running_loop()
        self._leaving: asyncio.Future[Shutdown] = loop.create_future()
        self._broken: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._leave, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # ctrl-C in a terminal is the front end's matter
        try:
            house, recovered = await self._open()
        except SchemaNewer as error:
            self._log.error(str(error), extra=self._fields())
            return EXIT_SCHEMA
        except (StorageUnusable, BulkheadError) as error:
            self._log.error(str(error), extra=self._fields())
            return EXIT_CORRUPT if isinstance(error, StorageCorrupt) else self._broken_code
        try:
            return await self._serve(house, recovered)
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    async def _open(self) -> tuple[_House, Recovered]:
        spec, limits, clock = self._spec, self._limits, self._clock

        async def fetch(after: int, count: int) -> list[Event]:
            found = await database.read(lambda connection: event_rows.since(connection, after, count))
            if found is None:
                raise Conflict(f"cannot read the events after number {after}: they are not kept", code="reset")
            return found

        publisher = Publisher(
            limits=limits, clock=clock, log=self._log, send=lambda events: link.send_events(events), fetch=fetch
        )
        database = await Database.open(
            Path(spec.data_dir) / DATABASE_NAME,
            limits=limits,
            clock=clock,
            log=self._log,
            random=self._random,
            on_commit=publisher.committed,
            on_fatal=self._storage_failed,
            on_writable=lambda: self._leave("the database may be written again"),
        )
        children = ChildProcesses(limits=limits, clock=clock, log=self._log, random=self._random)
        languages = LanguageServers(
            workspace=Path(spec.path),
            children=children,
            publish_snapshot=publisher.snapshot,
            limits=limits,
            clock=clock,
            log=self._log,
            tools=lsp_tools,
        )
        mcp = McpService(
            workspace=Path(spec.path),
            children=children,
            publish_snapshot=publisher.snapshot,
            save=lambda name, token: equipment.edit(GLOBAL, partial(store_token, name=name, token=token)),
            reload=lambda: equipment.reload(),
            register_secret=self._register_secret,
            limits=limits,
            clock=clock,
            log=self._log,
        )
        skills = SkillService(Path(spec.path), database=database, threads=children.threads, limits=limits)
        confinement = SandboxPolicy(Path(spec.path), Path(spec.data_dir), spec.closed, self._log, operator=spec.env)
        jobs = Jobs(children, limits=limits, clock=clock, random=self._random, log=self._log, confinement=confinement)
        hooks = HookService(children, limits, self._log)
        search = Search(self._random)
        desk = PermissionBroker(database=database, limits=limits, clock=clock, random=self._random, log=self._log)
        questions = Questions(desk, database, limits)
        about = InfoTools(
            spec,
            lambda: WorkerSnapshot(equipment.skip_permissions, languages.infos(), mcp.infos(), skills.states),
        )
        equipment = TurnFactory(
            spec,
            config=self._config,
            children=children,
            desk=desk,
            files=StoredFileLedger(database, clock),
            services=[
                LogLevel(spec.log_level, debug=spec.debug),
                *(languages, mcp, hooks, skills, jobs, questions, confinement, about),
                FixedTools(Bash(jobs)),
            ],
            code=languages,
            hooks=hooks,
            search=search,
            history=StoredHistory(database, limits, clock, self._random),
            limits=limits,
            clock=clock,
            random=self._random,
            log=self._log,
            register_secret=self._register_secret,
        )
        scribe = EndWriter(clock, self._random, equipment.author)
        recovered = await recover(database, scribe, limits)
        titles = Titles(database=database, models=equipment.title_models, limits=limits, clock=clock, log=self._log)
        dispatcher = Dispatcher(
            database=database,
            ending=RunFinisher(database=database, scribe=scribe, log=self._log, on_fatal=self._storage_failed),
            make_turn=equipment.make_turn,
            name_session=titles.name,
            publish_snapshot=publisher.snapshot,
            drain=self._drain,
            counter=AcceptCounter(recovered.last_accept_seq),
            limits=limits,
            clock=clock,
            random=self._random,
            log=self._log,
        )
        delegation = Delegation(dispatcher, database, clock)
        equipment.add(
            FixedTools(
                Agent(delegation), AgenticFetch(delegation), WebSearch(search), Todos(StoredTodos(database, clock))
            )
        )
        handlers: dict[str, Handler] = {}
        for operations in (
            PromptOperations(dispatcher, database, equipment),
            SessionOperations(dispatcher, database, jobs, limits=limits, clock=clock, random=self._random),
            WorkspaceOperations(database, equipment, skills, data_dir=spec.data_dir, limits=limits),
            AgentOperations(dispatcher, database, equipment, desk),
            SummaryOperations(dispatcher, database, equipment),
            PermissionOperations(equipment, desk),
            ConfigOperations(equipment, database, workspace_id=spec.workspace_id),
            FileOperations(database, workspace=Path(spec.path), limits=limits, clock=clock),
            ProjectOperations(equipment, workspace=Path(spec.path), data_dir=Path(spec.data_dir)),
            McpOperations(mcp),
            SkillOperations(skills, threads=children.threads, limits=limits),
            LspOperations(languages),
            ShellOperations(
                equipment,
                database,
                children,
                workspace=Path(spec.path),
                env=spec.env,
                is_open=lambda: self._drain.is_open,
                limits=limits,
                clock=clock,
                random=self._random,
            ),
        ):
            handlers.update(operations.handlers())
        tenure = SupervisorLease(supervisor_lease_s=limits.supervisor_lease_s, now=clock.now())

        def stats() -> WorkerStats:
            return WorkerStats(
                log_id=database.log_id,
                last_number=database.last_number,
                open_runs=dispatcher.open_runs,
                open_questions=desk.open_count,
                children=children.count + equipment.busy,
                degraded=database.degraded or ("configuration" if equipment.problem is not None else ""),
                failed=database.failed,
            )

        table = OperationTable(handlers, limits=limits, clock=clock, log=self._log)
        replies = ReplyCache(count_max=limits.replies_kept, bytes_max=limits.replies_kept_bytes)
        link = self.link_class(
            spec=spec,
            clock=clock,
            log=self._log,
            table=table,
            replies=replies,
            publisher=publisher,
            stats=stats,
            callbacks=LinkCallbacks(
                on_shutdown=self._asked,
                on_supervisor_heard=lambda: tenure.heard(clock.now()),
                on_attached=desk.attached,
            ),
        )
        return _House(database, publisher, equipment, children, dispatcher, link, tenure), recovered

    # --- serving ----------------------------------------------------------------------------------------------------

    async def _serve(self, house: _House, recovered: Recovered) -> int:
        database = house.database
        waiting = recovered.waiting
        self._log.info(
            "recovered",
            extra=self._fields(
                interrupted=len(recovered.interrupted), failed=len(recovered.failed), waiting=len(waiting)
            ),
        )
        await failpoint("worker.before_ready")
        await house.link.start()
        await house.link.ready(
            Ready(
                log_id=database.log_id,
                last_number=database.last_number,
                open_runs=len(waiting),
                interrupted=recovered.interrupted,
                requeued=[RunId(run.id) for run in waiting],
            )
        )
        house.dispatcher.resume(waiting)
        owner = TaskOwner("worker", self._log)
        owner.start(self._watch_tenure(house), "tenure")
        try:
            await _first(self._leaving, self._broken)
            if not self._broken.done():
                closing = owner.start(self._close(house, self._leaving.result()), "close")
                await _first(closing, self._broken)
                if not self._broken.done():
                    return closing.result()
            return await self._break_off(house)
        finally:
            await owner.close(self._limits.exit_s)

    async def _watch_tenure(self, house: _House) -> None:
        """Leave when no supervisor was heard for too long and nothing is left to do (S14)."""
        while not self._leaving.done():
            await asyncio.sleep(min(1.0, self._limits.supervisor_lease_s / 4))
            if house.tenure.is_over(open_runs=house.dispatcher.open_runs, now=self._clock.now()):
                self._leave("no supervisor")

    def _asked(self, message: Shutdown) -> None:
        """The supervisor wants this worker to leave. Asked again, nothing changes."""
        if not self._leaving.done():
            self._leaving.set_result(message)

    def _leave(self, reason: str) -> None:
        """The same by our own decision, with the budgets of our limits."""
        limits = self._limits
        self._asked(Shutdown(epoch=Epoch(0), reason=reason, drain_s=limits.drain_s, flush_s=limits.flush_s))

    def _storage_failed(self, error: BaseException) -> None:
        """What is in memory can no longer be trusted. The next worker starts from the file."""
        if self._broken.done():
            return
        self._log.error("storage failed, this worker ends", extra=self._fields(error=error))
        self._broken.set_result(None)
        self._is_corrupt = is_corrupt(error)
        # Should the way out hang too, on the same disk perhaps, the process ends all the same.
        asyncio.get_running_loop().call_later(self._limits.exit_s, os._exit, self._broken_code)

    async def _break_off(self, house: _House) -> int:
        house.link.closing("closed", house.dispatcher.open_runs)
        await house.children.close()
        await house.dispatcher.close(self._limits.exit_s / 4)
        await house.publisher.close()
        await house.link.close()
        return self._broken_code

    @property
    def _broken_code(self) -> int:
        return EXIT_CORRUPT if self._is_corrupt else EXIT_STORAGE

    # --- closing ----------------------------------------------------------------------------------------------------

    async def _close(self, house: _House, ask: Shutdown) -> int:
        drain, dispatcher, link = self._drain, house.dispatcher, house.link
        self._log.info("closing", extra=self._fields(reason=ask.reason, open_runs=dispatcher.open_runs))
        effects = drain.shutdown(ask.reason, drain_s=ask.drain_s, flush_s=ask.flush_s, now=self._clock.now())
        cancelled = 0
        left: list[RunId] = []
        flushed = False
        while effects:
            effect, *effects = effects
            match effect:
                case Refuse():  # the dispatcher asks the drain
                    link.closing("closing", dispatcher.open_runs)
                    await failpoint("close.a")
                case CancelAll():
                    cancelled = dispatcher.open_runs
                    dispatcher.cancel_all()
                    await failpoint("close.b")
                    effects += drain.cancelled(self._clock.now())
                case AwaitRuns(deadline):
                    link.closing("draining", dispatcher.open_runs)
                    await failpoint("close.c")
                    in_time = await self._within(deadline, dispatcher.idle())
                    now = self._clock.now()
                    effects += drain.drained(now) if in_time else drain.overdue(now)
                    left = dispatcher.open_ids
                case Flush(deadline):
                    link.closing("flushing", len(left))
                    await failpoint("close.d")
                    flushed = await self._within(deadline, self._flush(house))
                    now = self._clock.now()
                    effects += drain.flushed(now) if flushed else drain.overdue(now)
                case Leave(in_time):
                    if not in_time:
                        self._log.error("shutdown overran its budget", extra=self._fields(left=" ".join(left)))
                case _:
                    assert_never(effect)
        link.closing("closed", len(left))
        await link.last_word(
            LastWord(
                reason=ask.reason,
                last_number=house.database.last_number,
                cancelled_runs=cancelled - len(left),
                left_runs=left,
                flushed=flushed,
            )
        )
        await failpoint("close.e")
        await house.publisher.close()
        await link.close()
        return EXIT_LEFT if left or not flushed else EXIT_CLEAN

    async def _flush(self, house: _House) -> None:
        """Nothing that we started survives, nothing that we know is only in memory, nothing told is unsent."""
        await house.children.close()
        await house.dispatcher.flush()
        await house.dispatcher.close(self._limits.exit_s)
        await house.publisher.drain(self._limits.exit_s)
        await house.equipment.close()
        await house.database.close(self._limits.settle_s)

    async def _within(self, deadline: float, work: Coroutine[Any, Any, object]) -> bool:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                return await work is not False
        except (TimeoutError, BulkheadError):
            return False

    def _fields(self, **values: object) -> dict[str, object]:
        return fields(workspace=self._spec.workspace_id, generation=self._spec.generation, **values)


async def _first(*waiting: "asyncio.Future[Any]") -> None:
    """Wait until one of these is done."""
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
