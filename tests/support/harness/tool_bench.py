"""A place to call tools in: a workspace directory, real children, and the worker's property of being a subreaper."""

import contextlib
import ctypes
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from protocol.api.message import ToolCallData
from protocol.base.clock import SystemClock
from protocol.limits import Limits
from tests.support.processes import Process
from tests.support.rules_gate import RulesGate
from worker.permissions.rules import Rules
from worker.processes.child import ChildProcesses
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import CodeServers, Gate, NoCodeServers, ToolContext, ToolResult
from worker.tools.builtin import build_toolbox
from worker.tools.shell.bash import Bash
from worker.tools.shell.jobs import Jobs

PR_SET_CHILD_SUBREAPER = 36
LOG = logging.getLogger("bulkhead.test")


class Ledger:
    """What a session has seen, in memory."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], str] = {}

    async def last_read(self, session_id: str, path: str) -> str | None:
        return self.seen.get((session_id, path))

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        self.seen[session_id, path] = sha256


class ToolBench:
    """Calls tools in one workspace, as one session."""

    def __init__(self, workspace: Path, *, limits: Limits, rules: Rules, env: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.limits = limits
        self.rules = rules
        self.env = env
        self.ledger = Ledger()
        self.code: CodeServers = NoCodeServers()
        self.takes_images = True
        self.gate: Gate = RulesGate(rules)
        self.readable: tuple[Path, ...] = ()
        self.processes: list[Process] = []
        self.children = ChildProcesses(limits=limits, clock=SystemClock(), log=LOG, random=random.Random(1))
        self.jobs = Jobs(self.children, limits=limits, clock=SystemClock(), random=random.Random(2), log=LOG)
        self.toolbox = build_toolbox().joined([Bash(self.jobs), *self.jobs.tools()])

    def context(self, session_id: str = "s1") -> ToolContext:
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
            code=self.code,
            takes_images=self.takes_images,
            readable=self.readable,
        )

    async def call(self, name: str, session_id: str = "s1", /, **args: object) -> ToolResult:
        call = ToolCallData(id="t1", name=name, input=json.dumps(args), finished=True)
        return await invoke(self.toolbox, call, self.context(session_id))

    def process(self, pid: int) -> Process:
        """Hold this process by a pidfd until the end of the bench."""
        self.processes.append(Process(pid))
        return self.processes[-1]

    async def bash(self, command: str, **more: object) -> ToolResult:
        return await self.call("bash", description="test", command=command, **more)


@contextlib.asynccontextmanager
async def bench(
    workspace: Path, *, limits: Limits | None = None, rules: Rules | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[ToolBench]:
    """A bench in the resolved directory `workspace`; at the end no child is left."""
    made = ToolBench(
        workspace,
        limits=limits or Limits(),
        rules=rules or Rules(skip=True),
        env={"PATH": os.environ["PATH"], "HOME": str(workspace)} if env is None else env,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield made
        await made.jobs.close()
        assert made.children.count == 0, "a tool left a child behind"
    finally:
        await made.children.close()
        for process in made.processes:
            process.close()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
