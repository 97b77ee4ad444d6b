"""Call the built-in tools in a test: in a workspace directory, with real child processes and as their subreaper."""

import contextlib
import ctypes
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from protocol.api.message import ToolCallData
from protocol.api.permission import QuestionItem, QuestionResponse
from protocol.api.session import Todo
from protocol.base.clock import SystemClock
from protocol.ids import Generation, WorkspaceId
from protocol.limits import Limits
from protocol.worker_spec import WorkerSpec
from tests.support.processes import Process
from tests.support.rules_gate import RulesGate
from worker.config.live import empty_config
from worker.permissions.rules import Rules
from worker.processes.child import ChildProcesses
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import AgentKind, CodeServers, Gate, NoCodeServers, ToolContext, ToolError, ToolResult
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import BuiltinTools, ToolDependencies
from worker.tools.session.agent import TaskKind
from worker.tools.session.crush_info_text import WorkerSnapshot
from worker.tools.shell.jobs import Jobs
from worker.web.search import Search

PR_SET_CHILD_SUBREAPER = 36
LOG = logging.getLogger("bulkhead.test")


class MemoryFileLedger:
    """Keep in memory which files a session has read."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], str] = {}

    async def last_read(self, session_id: str, path: str) -> str | None:
        return self.seen.get((session_id, path))

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        self.seen[session_id, path] = sha256


class TodoLists:
    """Keep the task lists in memory."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Todo]] = {}

    async def replace(self, session_id: str, todos: Sequence[Todo]) -> list[Todo]:
        before = self.lists.get(session_id, [])
        self.lists[session_id] = list(todos)
        return before


class NoAgents:
    """Refuse to run a sub-agent: a bench has no runs."""

    async def answer(self, *, parent_session_id: str, session_id: str, prompt: str, kind: TaskKind = "task") -> str:
        raise ToolError("cannot run the agent: a bench has no runs")


class RefusedQuestions:
    """Leave every question unanswered."""

    is_available = True

    def new_id(self) -> str:
        return "q1"

    async def ask(
        self, context: ToolContext, questions: list[QuestionItem], *, title: str, description: str
    ) -> Sequence[QuestionResponse] | None:
        return None


class ToolBench:
    """Call tools in one workspace."""

    def __init__(self, workspace: Path, *, limits: Limits, rules: Rules, env: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.limits = limits
        self.rules = rules
        self.env = env
        self.ledger = MemoryFileLedger()
        self.code: CodeServers = NoCodeServers()
        self.takes_images = True
        self.gate: Gate = RulesGate(rules)
        self.readable: tuple[Path, ...] = ()
        self.processes: list[Process] = []
        self.children = ChildProcesses(limits=limits, clock=SystemClock(), log=LOG, random=random.Random(1))
        self.jobs = Jobs(self.children, limits=limits, clock=SystemClock(), random=random.Random(2), log=LOG)
        spec = WorkerSpec(
            workspace_id=WorkspaceId("bench"),
            generation=Generation(1),
            path=str(workspace),
            data_dir=str(workspace / ".bulkhead"),
            endpoint="",
            token="",
            log_path="",
        )
        self.builtin = BuiltinTools(
            ToolDependencies(
                worker=spec,
                snapshot=lambda: WorkerSnapshot(False, {}, {}, []),
                jobs=self.jobs,
                delegate=NoAgents(),
                todos=TodoLists(),
                search=Search(random.Random(3)),
                asker=RefusedQuestions(),
            )
        ).for_turn(empty_config(Path(spec.data_dir)))
        self.toolbox = Toolbox(self.builtin)

    def context(self, session_id: str = "s1", *, agent: AgentKind = "main") -> ToolContext:
        return ToolContext(
            workspace=self.workspace,
            session_id=session_id,
            run_id="r1",
            message_id="m1",
            tool_call_id="t1",
            env=self.env,
            limits=self.limits,
            clock=SystemClock(),
            children=self.children,
            files=self.ledger,
            gate=self.gate,
            agent=agent,
            code=self.code,
            takes_images=self.takes_images,
            readable=self.readable,
        )

    async def call(self, name: str, session_id: str = "s1", /, **args: object) -> ToolResult:
        call = ToolCallData(id="t1", name=name, input=json.dumps(args), finished=True)
        return await invoke(self.toolbox, call, self.context(session_id))

    def process(self, pid: int) -> Process:
        """Open a process by pidfd; the bench closes it."""
        self.processes.append(Process(pid))
        return self.processes[-1]

    async def bash(self, command: str, **more: object) -> ToolResult:
        return await self.call("bash", description="test", command=command, **more)


@contextlib.asynccontextmanager
async def bench(
    workspace: Path, *, limits: Limits | None = None, rules: Rules | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[ToolBench]:
    """Make a bench in the resolved directory `workspace`; check at the end that no child process is left."""
    tools = ToolBench(
        workspace,
        limits=limits or Limits(),
        rules=rules or Rules(skip=True),
        env={"PATH": os.environ["PATH"], "HOME": str(workspace)} if env is None else env,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield tools
        await tools.jobs.close()
        assert tools.children.count == 0, "a tool left a child behind"
    finally:
        await tools.children.close()
        for process in tools.processes:
            process.close()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
