"""Build turns from the current configuration: toolbox, system prompt, context of tool calls, turn.

A turn that runs keeps what it was built with (W-27): no change of the configuration reaches into it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from protocol.api.message import ToolCallData
from protocol.base.clock import Clock
from protocol.limits import Limits
from protocol.worker_spec import WorkerSpec
from worker.agent.git_status import GitStatus
from worker.agent.project_context import read_project_context
from worker.agent.summary import SummaryTurn
from worker.agent.system_prompt import TALK, attribution_note, compose, compose_task
from worker.agent.turn import Turn
from worker.config.catalogue import LOCAL_ID
from worker.config.live import LiveConfig
from worker.config.load import WorkspaceConfig
from worker.models.client import ModelClient
from worker.models.registry import ModelRegistry
from worker.permissions.broker import PermissionBroker
from worker.permissions.gate import PermissionGate, RunPolicy
from worker.permissions.rules import Rules
from worker.processes.child import ChildProcesses
from worker.runs.live_models import LiveModels
from worker.runs.transcript import StoredTranscript
from worker.store.rows import DELEGATED, SUMMARY, TASK, WEB, StoredRun
from worker.toolkit.extension import Extensions
from worker.toolkit.tool import AgentKind, CodeServers, FileHistory, FileLedger, Hooks, NoHooks, ToolContext
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import BuiltinTools

_PROJECT_CONTEXT_S = 10.0
_CONFIG_AGE_S = 0.25
"""A turn that starts right after its prompt was accepted does not compare the configuration's files once more."""
_AGENTS: Mapping[str, AgentKind] = {TASK: "task", WEB: "web"}


@dataclass(frozen=True)
class ToolServices:
    """What the tool calls of every turn may use of the worker."""

    limits: Limits
    clock: Clock
    children: ChildProcesses
    files: FileLedger
    history: FileHistory
    code: CodeServers
    hooks: Hooks


@dataclass(frozen=True)
class TurnSetup:
    """One configuration and what was made from it. `env` is the environment for child processes."""

    config: WorkspaceConfig
    models: ModelRegistry
    env: Mapping[str, str]


class TurnFactory:
    """Builds the turns of one workspace."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        live: LiveConfig,
        models: LiveModels,
        tools: BuiltinTools,
        extensions: Extensions,
        services: ToolServices,
        broker: PermissionBroker,
        log: logging.Logger,
    ) -> None:
        self._workspace = Path(spec.path)
        self._live = live
        self._models = models
        self._tools = tools
        self._extensions = extensions
        self._services = services
        self._broker = broker
        self._log = log
        self._git = GitStatus(services.children, services.limits, log)
        self.waits_for_extensions = True
        """Wait until all MCP servers are connected. False while a client watches, which prefers an early start."""

    def session_created(self, session_id: str) -> None:
        """Begin to read what the first turn of a new session needs; does not wait."""
        config = self._live.current
        if self._live.problem is None and not _is_local(config.models["large"].provider, config):
            self._git.begin(session_id, self._workspace, self._live.env)

    async def close(self) -> None:
        """End what is still read for later turns."""
        await self._git.close()

    async def make_turn(self, run: StoredRun, transcript: StoredTranscript) -> Turn | SummaryTurn:
        """Build a turn from the current configuration. Raises BadInput when it has an error or an unusable model."""
        await self._live.refresh(_CONFIG_AGE_S)
        if self._live.turn_problem is not None:
            raise self._live.turn_problem
        await self._models.ensure_fresh()
        setup = TurnSetup(self._live.current, self._models.registry, self._live.env)
        services = self._services
        if run.kind == SUMMARY:
            return SummaryTurn(
                model=setup.models.large(),
                transcript=transcript,
                limits=services.limits,
                clock=services.clock,
                log=self._log,
            )
        model = setup.models.small() if run.kind == WEB else setup.models.large()
        if run.kind not in DELEGATED and not _is_local(model.provider_id, setup.config):
            self._git.begin(run.session_id, self._workspace, setup.env)  # takes longer than all else here
        if self.waits_for_extensions:
            await self._extensions.settled()
        await self._extensions.refresh()
        toolbox = self._toolbox(run, setup, model)
        tool_context = self._tool_context(run, setup, model)
        system_prompt = await self._system_prompt(run, setup, model, notes=self._extensions.notes())
        return Turn(
            model=model,
            toolbox=toolbox,
            tool_context=tool_context,
            transcript=transcript,
            system_prompt=system_prompt,
            limits=services.limits,
            clock=services.clock,
            log=self._log,
            may_summarize=not setup.config.options.disable_auto_summarize,
        )

    def _toolbox(self, run: StoredRun, setup: TurnSetup, model: ModelClient) -> Toolbox:
        if _is_local(model.provider_id, setup.config):
            return Toolbox([])  # it calls no tools, and reads a long prompt slowly
        agent = _AGENTS.get(run.kind, "main")
        builtin = Toolbox(self._tools.for_turn(setup.config))
        if agent == "web":
            # Not reduced by `disabled_tools`: that setting is applied to `agentic_fetch` itself.
            return builtin.of_agent(agent)
        toolbox = builtin.joined(self._extensions.tools())
        return toolbox.without(setup.config.options.disabled_tools).of_agent(agent)

    async def _system_prompt(
        self, run: StoredRun, setup: TurnSetup, model: ModelClient, *, notes: Sequence[str]
    ) -> str:
        options = setup.config.options
        today = date.fromtimestamp(self._services.clock.wall())
        context = await self._services.children.threads.run(
            lambda _stop: read_project_context(
                self._workspace,
                today=today,
                env=setup.env,
                extra=options.context_paths,
                extra_global=options.global_context_paths,
            ),
            timeout_s=_PROJECT_CONTEXT_S,
        )
        if _is_local(model.provider_id, setup.config):
            return TALK
        if run.kind in DELEGATED:
            return compose_task(context, is_web=run.kind == WEB)
        git = await self._git.of(run.session_id, self._workspace, setup.env) if context.is_git else ""
        marks = options.attribution
        attribution = attribution_note(marks.trailer_style, marks.generated_with, model.model.name)
        return compose(context, git=git, notes=notes, attribution=attribution)

    def _tool_context(
        self, run: StoredRun, setup: TurnSetup, model: ModelClient
    ) -> Callable[[ToolCallData, str], ToolContext]:
        """Return a function that makes the context of a call in the message with the given id."""
        services = self._services
        gate = self._gate(run, setup)
        readable = self._extensions.readable()

        def tool_context(call: ToolCallData, message_id: str) -> ToolContext:
            return ToolContext(
                workspace=self._workspace,
                session_id=run.session_id,
                run_id=run.id,
                message_id=message_id,
                tool_call_id=call.id,
                env=setup.env,
                limits=services.limits,
                clock=services.clock,
                children=services.children,
                files=services.files,
                gate=gate,
                agent=_AGENTS.get(run.kind, "main"),
                readable=readable,
                takes_images=model.model.supports_attachments,
                code=services.code,
                history=services.history,
                hooks=services.hooks if run.kind not in DELEGATED else NoHooks(),
                bounds=setup.config.tools,
            )

        return tool_context

    def _gate(self, run: StoredRun, setup: TurnSetup) -> PermissionGate:
        allowed = frozenset(setup.config.allowed_tools)
        limits, threads = self._services.limits, self._services.children.threads
        return PermissionGate(
            self._broker,
            rules=lambda: Rules(skip=self._live.skip_permissions, allowed=allowed),
            policy=RunPolicy(run.permission_policy, run.permission_wait_s or limits.permission_wait_s),
            may_allow=lambda: self._live.may_allow_runs,
            workspace=self._workspace,
            in_thread=lambda job: threads.run(lambda _stop: job(), timeout_s=limits.search_deadline_s),
        )


def _is_local(provider_id: str, config: WorkspaceConfig) -> bool:
    return provider_id == LOCAL_ID and config.providers[LOCAL_ID].type == LOCAL_ID
