"""Commands that run beside the conversation: those that a call left in the background, and their tools (6.1, 6.2).

A job belongs to the session that started it (W-40) and outlives the run; it ends by itself, by `job_kill`, or with the
worker. While one runs the worker is not sent to sleep. A finished one is kept for a while, so that it can be read.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits
from worker.processes.child import ChildProcess, ChildProcesses
from worker.toolkit.extension import Extension
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.shell.cwd_report import take_report
from worker.tools.shell.sandbox import Sandbox, SandboxPolicy

KEPT_S = 8 * 3600.0
KEPT_MAX = 100


@dataclass(eq=False)
class Job:
    """One command that runs or ran. `ended` is set when it and all that it started are gone and its output is whole."""

    id: str
    session_id: str
    command: str
    description: str
    directory: Path
    child: ChildProcess
    report: Path
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = 0.0
    code: int | None = None
    killed: str = ""  # why it was ended before its time
    final_directory: Path | None = None

    async def ended_within(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still runs after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    def output(self) -> str:
        """What it printed so far: standard output, then errors."""
        parts = (self.child.stdout.text().rstrip("\n"), self.child.stderr.text().rstrip("\n"))
        return "\n".join(part for part in parts if part.strip())


class Jobs(Extension):
    """All commands of one worker that were started by tools."""

    def __init__(
        self,
        children: ChildProcesses,
        *,
        limits: Limits,
        clock: Clock,
        random: random.Random,
        log: logging.Logger,
        confinement: SandboxPolicy | None = None,
    ) -> None:
        self.confinement = confinement
        self._children = children
        self._limits = limits
        self._clock = clock
        self._random = random
        self._owner = TaskOwner("jobs", log)
        self._jobs: dict[str, Job] = {}
        self._directories: dict[str, Path] = {}

    @property
    def running(self) -> int:
        """How many commands run (W-38: those that have ended do not count)."""
        return sum(not job.ended.is_set() for job in self._jobs.values())

    def directory_of(self, session_id: str, workspace: Path) -> Path:
        """Where the next command of this session starts: where its last one ended."""
        return self._directories.get(session_id, workspace)

    def ended_in(self, session_id: str, directory: Path) -> None:
        """A command of this session ended in that directory."""
        self._directories[session_id] = directory
        while len(self._directories) > self._limits.session_directories_max:
            del self._directories[next(iter(self._directories))]

    async def start(
        self,
        argv: Sequence[str],
        *,
        context: ToolContext,
        env: Mapping[str, str],
        cwd: Path,
        command: str,
        about: str,
        report: Path,
        cage: Sandbox | None = None,
    ) -> Job:
        """Start a command. Whoever calls this ends it or leaves it in the background. Raises ToolError, OSError.

        `report` is the file that the shell writes its last directory to; it is taken away at the end.
        """
        self._collect()
        if self.running >= self._limits.jobs_max:
            raise ToolError(
                f"cannot run: {self.running} commands run already in this workspace; end some with job_kill"
            )
        child = await self._children.start(argv, env=env, cwd=cwd, ruleset=cage.ruleset if cage else None)
        job = Job(self._new_id(), context.session_id, command, about, cwd, child, report)
        self._jobs[job.id] = job
        self._owner.start(self._follow(job), job.id)
        return job

    async def _follow(self, job: Job) -> None:
        try:
            job.code = await job.child.exited_within(self._limits.job_max_s)
            if job.code is not None:
                job.killed = job.killed or job.child.struck
                await job.child.drained(self._limits.tool_pipe_grace_s)
            elif not job.killed:
                job.killed = f"because it took longer than {self._limits.job_max_s:g} s"
        finally:
            await job.child.end()
            # Last, because a shell that is being ended may still write its report.
            with contextlib.suppress(TimeoutError, RuntimeError):  # of the threads, when they are closed
                job.final_directory = await self._children.threads.run(
                    lambda _stop: take_report(job.report), timeout_s=self._limits.search_deadline_s
                )
            job.ended_at = self._clock.now()
            job.ended.set()

    async def end(self, job: Job) -> None:
        """End a command with all that it started; that has happened when this returns, or raises for a cancel."""
        if job.ended.is_set():
            return
        job.killed = "before its time"
        await job.child.end()
        await job.ended_within(self._limits.kill_deadline_s + self._limits.settle_s)

    async def end_of_session(self, session_id: str) -> None:
        """The session is deleted: end its jobs and forget them."""
        self._directories.pop(session_id, None)
        for job in [job for job in self._jobs.values() if job.session_id == session_id]:
            await self.end(job)
            self.forget(job)

    def forget(self, job: Job) -> None:
        """Its result was told; nobody will ask for it."""
        self._jobs.pop(job.id, None)

    def of(self, session_id: str, job_id: str) -> Job:
        """The job of that id in this session. Raises ToolError."""
        job = self._jobs.get(job_id.strip().upper())
        if job is None or job.session_id != session_id:
            mine = [job.id for job in self._jobs.values() if job.session_id == session_id]
            known = f"this conversation has {', '.join(mine)}" if mine else "this conversation has none"
            raise ToolError(f"cannot find job {job_id[:40]!r}: {known}")
        return job

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(job.child.end() for job in self._jobs.values() if not job.ended.is_set()))
        await self._owner.close(self._limits.kill_deadline_s)

    def _collect(self) -> None:
        old = self._clock.now() - KEPT_S
        ended = [job for job in self._jobs.values() if job.ended.is_set()]
        for job in ended[: max(0, len(ended) - KEPT_MAX)] + [job for job in ended if job.ended_at < old]:
            self._jobs.pop(job.id, None)

    def _new_id(self) -> str:
        while True:
            job_id = f"{self._random.getrandbits(24):06X}"
            if job_id not in self._jobs:
                return job_id


class JobOutputArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `job_output`."""

    shell_id: Annotated[str, Meta(description="The id of the job")]
    wait: Annotated[bool, Meta(description="Wait until the job has ended")]


class JobOutput:
    """What a job has printed so far."""

    spec = ToolSpec(
        "job_output", description_of(__file__, "job_output"), schema_of(JobOutputArgs), parallel=False, effect="read"
    )

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `job_output.md`."""
        wanted = read_args(JobOutputArgs, args)
        job = self._jobs.of(context.session_id, wanted.shell_id)
        if wanted.wait:
            await job.ended_within(context.limits.tool_max_s)
        is_done = job.ended.is_set()
        lines = [
            f"Status: {'completed' if is_done else 'running'}",
            "",
            job.output() or ("(no output)" if is_done else "(no output yet)"),
        ]
        if is_done and (ending := ending_of(job)):
            lines.append(ending)
        return ToolResult(
            "\n".join(lines),
            metadata={
                "shell_id": job.id,
                "command": job.command,
                "description": job.description,
                "done": is_done,
                "working_directory": str(job.directory),
            },
        )


class JobKillArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `job_kill`."""

    shell_id: Annotated[str, Meta(description="The id of the job")]


class JobKill:
    """Ends a job with all that it started."""

    spec = ToolSpec(
        "job_kill", description_of(__file__, "job_kill"), schema_of(JobKillArgs), parallel=False, effect="read"
    )

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `job_kill.md`."""
        job = self._jobs.of(context.session_id, read_args(JobKillArgs, args).shell_id)
        if job.ended.is_set():
            told = f"Job {job.id} had ended already."
        else:
            await self._jobs.end(job)
            told = f"Job {job.id} was ended."
        return ToolResult(told, metadata={"shell_id": job.id, "command": job.command, "description": job.description})


def ending_of(job: Job) -> str:
    """The line that tells how a command ended, nothing for success."""
    if job.killed:
        return f"Command was ended {job.killed}"
    if job.code is not None and job.code < 0:
        return f"Command was ended by {_name_of(-job.code)}\nExit code {128 - job.code}"
    return f"Exit code {job.code}" if job.code else ""


def _name_of(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {signum}"
