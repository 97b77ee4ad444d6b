"""What turns are built from: configuration, models, tools, rules.

A reload replaces the whole outfit; a turn that runs keeps the one it was built with (W-27), so nothing that an
operator or a client does to the configuration reaches into a running turn.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from protocol.api.message import ToolCallData
from protocol.api.provider import SelectedModel
from protocol.base.clock import Clock
from protocol.errors import BadInput
from protocol.limits import Limits
from protocol.worker_spec import WorkerSpec
from worker.agent.git_status import GitStatus
from worker.agent.project_context import read_project_context
from worker.agent.summary import SummaryTurn
from worker.agent.system_prompt import TALK, attribution_note, compose, compose_task
from worker.agent.turn import Turn
from worker.config.catalogue import BUILTIN_ID, LOCAL_ID
from worker.config.edit import edit_file, file_of
from worker.config.files import Object
from worker.config.load import Config, load_config
from worker.config.schema import Options
from worker.models.client import ModelClient
from worker.models.registry import ModelChoice, ModelRegistry
from worker.permissions.broker import PermissionBroker
from worker.permissions.gate import PermissionGate, RunPolicy
from worker.permissions.rules import Rules
from worker.processes.child import ChildProcesses
from worker.runs.credentials import Credentials
from worker.runs.run_end import MessageAuthor
from worker.runs.transcript import StoredTranscript
from worker.store.rows import DELEGATED, SUMMARY, TASK, WEB, StoredRun
from worker.toolkit.extension import Extension
from worker.toolkit.tool import (
    CodeServers,
    FileHistory,
    FileLedger,
    Hooks,
    NoCodeServers,
    NoHistory,
    NoHooks,
    ToolContext,
)
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import build_toolbox
from worker.tools.session.agent import AGENT_TOOLS
from worker.tools.web.web_search import WebFetch, WebSearch
from worker.web.search import Search

_GATHER_S = 10.0


@dataclass(frozen=True)
class TurnSetup:
    """One configuration and what was made from it. Never changed, only replaced."""

    config: Config
    models: ModelRegistry
    toolbox: Toolbox


class TurnFactory:
    """The outfit of this moment, and how to get a newer one."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        config: Config | BadInput,
        children: ChildProcesses,
        desk: PermissionBroker,
        files: FileLedger,
        services: Sequence[Extension] = (),
        code: CodeServers | None = None,
        hooks: Hooks | None = None,
        history: FileHistory | None = None,
        search: Search,
        limits: Limits,
        clock: Clock,
        random: random.Random,
        log: logging.Logger,
        register_secret: Callable[[str], None],
    ) -> None:
        """`config` is what `read_config` gave or raised: a workspace whose configuration cannot be read is still
        there for its history, and says why no prompt can run. `register_secret` keeps a text out of every log line.
        """
        self._spec = spec
        self._children = children
        self._desk = desk
        self._files = files
        self._services = [*services]
        self._code = code or NoCodeServers()
        self._hooks = hooks or NoHooks()
        self._history = history or NoHistory()
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._register_secret = register_secret
        self._web_tools = Toolbox([WebFetch(), WebSearch(search, asks=False)])
        self._git = GitStatus(children, limits, log)
        self._retired: list[ModelRegistry] = []
        self._chosen: dict[str, SelectedModel] = {}
        self._reading = asyncio.Lock()  # so that what was read later is never replaced by what was read earlier
        self.skip_permissions = spec.skip_permissions
        self.is_interactive = False  # somebody watches, who need not wait for all that is configured
        self.problem: BadInput | None = None
        if isinstance(config, BadInput):
            self.problem, config = config, _nothing(Path(spec.data_dir))
            log.error(self.problem.message)
        self.logins = Credentials(
            providers=lambda: self.outfit.config.providers,
            reload=self.reload,
            edit=self.edit,
            data_dir=Path(spec.data_dir),
            env=spec.env,
            clock=clock,
            log=log,
        )
        self.outfit = self._fit(config)

    def add(self, service: Extension) -> None:
        """One service more, for the turns to come."""
        self._services.append(service)
        service.configure(self.outfit.config, {**self._spec.env, **self.outfit.config.env})

    async def reload(self) -> bool:
        """Read the configuration again, in a thread; says whether it is another one. Raises BadInput."""
        async with self._reading:
            return self._take(await asyncio.to_thread(read_config, self._spec, chosen=self._chosen))

    async def edit(
        self, scope: int, change: Callable[[Object], None], *, choose: Mapping[str, SelectedModel | None] | None = None
    ) -> None:
        """Change the file of a scope and use what comes of it, in a thread; the file stays as it was if that fails.

        `choose` are models that count from now on although a project's file says otherwise; None leaves it to the
        files again. Raises as `edit_file`.
        """
        path = file_of(scope, Path(self._spec.data_dir), self._spec.env)
        async with self._reading:
            wanted = {**self._chosen, **(choose or {})}
            chosen = {kind: model for kind, model in wanted.items() if model is not None}

            def attempt(tree: Object) -> Config:
                return read_config(self._spec, chosen=chosen, unwritten={path: tree})

            config = await asyncio.to_thread(edit_file, path, change, attempt, self._clock)
            self._chosen = chosen
            self._take(config)

    def _take(self, config: Config) -> bool:
        self.problem = None
        if config == self.outfit.config:
            return False
        self._retired.append(self.outfit.models)  # running turns may still use it, so it is closed at the end
        self.outfit = self._fit(config)
        return True

    @property
    def busy(self) -> int:
        """How many things of the services forbid sending this worker to sleep."""
        return sum(service.busy for service in self._services)

    def author(self) -> MessageAuthor:
        """Which model a row is attributed to that no model wrote."""
        selected = self.outfit.config.models.get("large")
        return MessageAuthor(selected.model, selected.provider) if selected is not None else MessageAuthor()

    def title_models(self) -> list[ModelClient]:
        """Who may be asked for a session's title: the small model, then the large one; never one of our own."""
        if self.problem is not None:
            return []
        found: dict[tuple[str, str], ModelClient] = {}
        for kind in ("small", "large"):
            choice = self.outfit.models.choice(kind)
            if choice.provider.type not in (BUILTIN_ID, LOCAL_ID):
                try:
                    found.setdefault((choice.provider.id, choice.model.id), self.outfit.models.client(kind))
                except BadInput as error:
                    self._log.info(error.message)
        return list(found.values())

    async def make_turn(self, run: StoredRun, transcript: StoredTranscript) -> Turn | SummaryTurn:
        """A turn with the outfit of this moment. Raises BadInput for a model that cannot be used."""
        if self.problem is not None:
            raise self.problem
        await self.logins.fresh(self.outfit.models.choice().provider.id)
        outfit = self.outfit
        if run.kind == SUMMARY:
            return SummaryTurn(
                model=outfit.models.large(),
                transcript=transcript,
                limits=self._limits,
                clock=self._clock,
                log=self._log,
            )
        workspace = Path(self._spec.path)
        env = {**self._spec.env, **outfit.config.env}
        today = date.fromtimestamp(self._clock.wall())
        gate = self._gate(run, outfit)
        if not self.is_interactive:
            for service in self._services:
                await service.settled()
        for service in self._services:
            await service.refresh()
        toolbox = outfit.toolbox.joined(tool for service in self._services for tool in service.tools())
        toolbox = toolbox.without(outfit.config.options.disabled_tools)
        readable = tuple(path for service in self._services for path in service.readable())
        notes = [note for service in self._services for note in service.notes()]
        if run.kind == TASK:
            toolbox = toolbox.only(AGENT_TOOLS)
        elif run.kind == WEB:
            toolbox = self._web_tools
        model = outfit.models.small() if run.kind == WEB else outfit.models.large()
        options = outfit.config.options
        where = await self._children.threads.run(
            lambda _stop: read_project_context(
                workspace,
                today=today,
                env=env,
                extra=options.context_paths,
                extra_global=options.global_context_paths,
            ),
            timeout_s=_GATHER_S,
        )
        if model.provider_id == LOCAL_ID and outfit.config.providers[LOCAL_ID].type == LOCAL_ID:
            toolbox = Toolbox([])  # it calls none, and reads a long prompt slowly
            system_prompt = TALK
        elif run.kind in DELEGATED:
            system_prompt = compose_task(where, is_web=run.kind == WEB)
        else:
            git = await self._git.of(run.session_id, workspace, env) if where.is_git else ""
            marks = options.attribution
            attribution = attribution_note(marks.trailer_style, marks.generated_with, model.model.name)
            system_prompt = compose(where, git=git, notes=notes, attribution=attribution)

        def tool_context(call: ToolCallData, message_id: str) -> ToolContext:
            return ToolContext(
                workspace=workspace,
                session_id=run.session_id,
                run_id=run.id,
                message_id=message_id,
                tool_call_id=call.id,
                env=env,
                limits=self._limits,
                clock=self._clock,
                children=self._children,
                files=self._files,
                gate=gate,
                readable=readable,
                takes_images=model.model.supports_attachments,
                code=self._code,
                history=self._history,
                hooks=self._hooks if run.kind not in DELEGATED else NoHooks(),
                bounds=outfit.config.tools,
            )

        return Turn(
            model=model,
            toolbox=toolbox,
            tool_context=tool_context,
            transcript=transcript,
            system_prompt=system_prompt,
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            may_summarize=not outfit.config.options.disable_auto_summarize,
        )

    def _gate(self, run: StoredRun, outfit: TurnSetup) -> PermissionGate:
        allowed = frozenset(outfit.config.allowed_tools)
        return PermissionGate(
            self._desk,
            rules=lambda: Rules(skip=self.skip_permissions, allowed=allowed),
            policy=RunPolicy(run.permission_policy, run.permission_wait_s or self._limits.permission_wait_s),
            may_allow=lambda: self.may_allow_runs,
            workspace=Path(self._spec.path),
            in_thread=lambda job: self._children.threads.run(
                lambda _stop: job(), timeout_s=self._limits.search_deadline_s
            ),
        )

    @property
    def may_allow_runs(self) -> bool:
        """May a prompt say that its run needs no permission?"""
        section = self.outfit.config.raw.get("permissions")
        return not isinstance(section, dict) or section.get("allow_run_policy") is not False

    async def close(self) -> None:
        """Close the services and the connections to providers."""
        await self.logins.close()
        for service in self._services:
            await service.close()
        for models in (*self._retired, self.outfit.models):
            await models.close()

    async def _renewed(self, kind: str, refused: ModelChoice) -> tuple[ModelClient, ModelChoice] | None:
        """A client for the same model with a newer key than the one that was refused, None if there is none."""
        if not await self.logins.renew(refused.provider.id, refused.provider.api_key):
            return None
        choice = self.outfit.models.choice(kind)
        is_same = (choice.provider.id, choice.model.id) == (refused.provider.id, refused.model.id)
        return (self.outfit.models.bare(kind), choice) if is_same else None

    def _fit(self, config: Config) -> TurnSetup:
        for secret in config.secrets:
            self._register_secret(secret)
        for warning in config.warnings:
            self._log.warning(warning)
        models = ModelRegistry(
            config,
            {**self._spec.env, **config.env},
            self._limits,
            self._random,
            self._log,
            clock=self._clock,
            renew=self._renewed,
        )
        for service in self._services:
            service.configure(config, {**self._spec.env, **config.env})
        return TurnSetup(config, models, build_toolbox(config.options.disabled_tools))


def _nothing(data_dir: Path) -> Config:
    """The configuration of a workspace whose own cannot be read."""
    return Config(
        providers={},
        models={},
        allowed_tools=(),
        options=Options(),
        env={},
        hint="",
        warnings=(),
        files=(),
        secrets=(),
        data_dir=data_dir,
    )


def read_config(
    spec: WorkerSpec,
    *,
    chosen: Mapping[str, SelectedModel] | None = None,
    unwritten: Mapping[Path, Object] | None = None,
) -> Config:
    """The configuration of a worker's workspace. Blocks. Raises BadInput."""
    return load_config(
        Path(spec.path),
        Path(spec.data_dir),
        spec.env,
        default_model=spec.default_model,
        local_model=spec.local_model,
        chosen=chosen,
        unwritten=unwritten,
    )
