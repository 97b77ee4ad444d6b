"""Keep track of the commands of `bash`, and provide the tools for those in the background: `job_output`, `job_kill`.

A job belongs to the session that started it (W-40) and outlives the run; it ends by itself, by `job_kill`, or with the
worker. While one runs, the worker is not evicted. The output of a finished one is kept for a while.
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

FINISHED_KEPT_S = 8 * 3600.0
FINISHED_MAX = 100


@dataclass(eq=False)
class Job:
    """One command, running or ended. `ended` is set when its process tree has exited and its output is complete."""

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
    killed: str = ""  # why it was killed
    final_directory: Path | None = None

    async def ended_within(self, timeout_s: float) -> bool:
        """Wait until it has ended; False when it still runs after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    def output(self) -> str:
        """Return the output so far: standard output, then standard error."""
        parts = (self.child.stdout.text().rstrip("\n"), self.child.stderr.text().rstrip("\n"))
        return "\n".join(part for part in parts if part.strip())


class Jobs(Extension):
    """The commands that the tools of one worker started."""

    def __init__(
        self,
        children: ChildProcesses,
        *,
        limits: Limits,
        clock: Clock,
        random: random.Random,
        log: logging.Logger,
        sandbox_policy: SandboxPolicy | None = None,
    ) -> None:
        self.sandbox_policy = sandbox_policy
        self._children = children
        self._limits = limits
        self._clock = clock
        self._random = random
        self._owner = TaskOwner("jobs", log)
        self._jobs: dict[str, Job] = {}
        self._directories: dict[str, Path] = {}

    @property
    def running(self) -> int:
        """Count the commands that run; those that have ended do not count (W-38)."""
        return sum(not job.ended.is_set() for job in self._jobs.values())

    def directory_of(self, session_id: str, workspace: Path) -> Path:
        """Return where the next command of this session starts: where the last one ended."""
        return self._directories.get(session_id, workspace)

    def record_directory(self, session_id: str, directory: Path) -> None:
        """Record the directory in which a command of this session ended."""
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
        sandbox: Sandbox | None = None,
    ) -> Job:
        """Start a command. The caller ends it or leaves it in the background. Raises ToolError, OSError.

        `report` is the file to which the shell writes its last directory; it is removed at the end.
        """
        self._collect()
        if self.running >= self._limits.jobs_max:
            raise ToolError(
                f"cannot run: {self.running} commands are already running in this workspace; end some with job_kill"
            )
        child = await self._children.start(argv, env=env, cwd=cwd, ruleset=sandbox.ruleset if sandbox else None)
        job = Job(self._new_id(), context.session_id, command, about, cwd, child, report)
        self._jobs[job.id] = job
        self._owner.start(self._follow(job), job.id)
        return job

    async def _follow(self, job: Job) -> None:
        try:
            job.code = await job.child.exited_within(self._limits.job_max_s)
            if job.code is not None:
                job.killed = job.killed or job.child.kill_reason
                await job.child.drained(self._limits.tool_pipe_grace_s)
            elif not job.killed:
                job.killed = f"because it took longer than {self._limits.job_max_s:g} s"
        finally:
            await job.child.end()
            # Last, because a shell that is being killed may still write its report.
            with contextlib.suppress(TimeoutError, RuntimeError):  # RuntimeError: the threads are closed
                job.final_directory = await self._children.threads.run(
                    lambda _stop: take_report(job.report), timeout_s=self._limits.search_deadline_s
                )
            job.ended_at = self._clock.now()
            job.ended.set()

    async def end(self, job: Job) -> None:
        """End a command with its whole process tree. When this returns, or raises CancelledError, it has ended."""
        if job.ended.is_set():
            return
        job.killed = "before it was finished"
        await job.child.end()
        await job.ended_within(self._limits.kill_deadline_s + self._limits.settle_s)

    async def end_of_session(self, session_id: str) -> None:
        """End and forget the jobs of a session that is deleted."""
        self._directories.pop(session_id, None)
        for job in [job for job in self._jobs.values() if job.session_id == session_id]:
            await self.end(job)
            self.forget(job)

    def forget(self, job: Job) -> None:
        """Drop a job whose result was returned."""
        self._jobs.pop(job.id, None)

    def get_job(self, session_id: str, job_id: str) -> Job:
        """Return the job with this id in this session. Raises ToolError."""
        job = self._jobs.get(job_id.strip().upper())
        if job is None or job.session_id != session_id:
            ids = [job.id for job in self._jobs.values() if job.session_id == session_id]
            existing = f"this conversation has {', '.join(ids)}" if ids else "this conversation has none"
            raise ToolError(f"cannot find job {job_id[:40]!r}: {existing}")
        return job

    async def close(self) -> None:
        """End all jobs."""
        await asyncio.gather(*(job.child.end() for job in self._jobs.values() if not job.ended.is_set()))
        await self._owner.close(self._limits.kill_deadline_s)

    def _collect(self) -> None:
        oldest = self._clock.now() - FINISHED_KEPT_S
        ended = [job for job in self._jobs.values() if job.ended.is_set()]
        for job in ended[: max(0, len(ended) - FINISHED_MAX)] + [job for job in ended if job.ended_at < oldest]:
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
    """Show what a job has printed so far."""

    spec = ToolSpec(
        "job_output", description_of(__file__, "job_output"), schema_of(JobOutputArgs), parallel=False, effect="read"
    )

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `job_output.md`."""
        arguments = read_args(JobOutputArgs, args)
        job = self._jobs.get_job(context.session_id, arguments.shell_id)
        if arguments.wait:
            await job.ended_within(context.limits.tool_max_s)
        is_done = job.ended.is_set()
        lines = [
            f"Status: {'completed' if is_done else 'running'}",
            "",
            job.output() or ("(no output)" if is_done else "(no output yet)"),
        ]
        if is_done and (end := describe_end(job)):
            lines.append(end)
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
    """End a job with its whole process tree."""

    spec = ToolSpec(
        "job_kill", description_of(__file__, "job_kill"), schema_of(JobKillArgs), parallel=False, effect="read"
    )

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `job_kill.md`."""
        job = self._jobs.get_job(context.session_id, read_args(JobKillArgs, args).shell_id)
        if job.ended.is_set():
            text = f"Job {job.id} had already ended."
        else:
            await self._jobs.end(job)
            text = f"Job {job.id} was ended."
        return ToolResult(text, metadata={"shell_id": job.id, "command": job.command, "description": job.description})


def describe_end(job: Job) -> str:
    """Say how a command ended; "" for success."""
    if job.killed:
        return f"Command was ended {job.killed}"
    if job.code is not None and job.code < 0:
        return f"Command was ended by {_signal_name(-job.code)}\nExit code {128 - job.code}"
    return f"Exit code {job.code}" if job.code else ""


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {signum}"
