"""The tool `bash`: run one command in a fresh shell, and end it with everything that it started (T01-T06)."""

import errno
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.environment import tool_environment
from worker.toolkit.paths import check_directory, check_workspace, locate
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.path_permission import expand_home
from worker.tools.shell.cwd_report import report_path, sweep_reports
from worker.tools.shell.jobs import Jobs, describe_end
from worker.tools.shell.read_only_commands import ReadOnly
from worker.tools.shell.read_only_paths import check_reading_command, git_runs_nothing
from worker.tools.shell.sandbox import Sandbox

NO_OUTPUT = "no output"  # clients show exactly this text as nothing

SHELL = """\
trap '{ set +x; builtin pwd -P >REPORT; } 2>/dev/null || :' EXIT; eval "set --; $1"
"""
"""The script of the shell: run the command, then write the last directory to a file that the shell creates (W-61).

In a trap, because a command may call `exit`. A command that replaces the shell (`exec`) or the trap leaves no report.
"""


class BashArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `bash`."""

    description: Annotated[str, Meta(description="What the command does, in about 30 characters")]
    command: Annotated[str, Meta(description="The command to run")]
    working_dir: Annotated[str, Meta(description="Where to run it; without it, where the last command ended")] = ""
    run_in_background: Annotated[bool, Meta(description="Do not wait until it ends")] = False
    auto_background_after: Annotated[
        int, Meta(description="Seconds after which it is moved to the background; 60 when left out", ge=1)
    ] = 60


class Bash:
    """Run commands. A non-zero exit code is a result, not an error."""

    spec = ToolSpec("bash", description_of(__file__, "bash"), schema_of(BashArgs), parallel=False, effect="execute")

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._has_swept = False

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `bash.md`."""
        arguments = read_args(BashArgs, args)
        if not arguments.command.strip():
            raise ToolError("cannot run: the command is empty")
        if "\0" in arguments.command:
            raise ToolError("cannot run: the command contains a NUL character")
        limits, threads = context.limits, context.children.threads
        env = tool_environment(context.env)
        policy = self._jobs.sandbox_policy
        start = self._jobs.directory_of(context.session_id, context.workspace)
        plan = await threads.run(
            lambda _stop: _prepare(context, arguments, env, start), timeout_s=limits.search_deadline_s
        )
        if not self._has_swept:
            self._has_swept = True
            await threads.run(lambda _stop: sweep_reports(plan.report.parent), timeout_s=limits.search_deadline_s)
        reading = plan.reading
        if reading is None or (reading.git and not await git_runs_nothing(context, reading, plan.directory, env)):
            await context.permit(
                action="execute",
                path=str(plan.directory),
                description=arguments.description or f"Run: {arguments.command[:100]}",
                params={
                    "description": arguments.description,
                    "command": arguments.command,
                    "working_dir": str(plan.directory),
                    "run_in_background": arguments.run_in_background,
                    "auto_background_after": arguments.auto_background_after,
                },
            )
        sandbox: Sandbox | None = None
        if policy is not None:
            sandbox = await threads.run(lambda _stop: policy.make_sandbox(), timeout_s=limits.search_deadline_s)
        if sandbox is not None and sandbox.environment:
            env |= sandbox.environment
            plan = replace(plan, report=Path(sandbox.environment["TMPDIR"]) / plan.report.name)
        started_ms = int(context.clock.wall() * 1000)
        script = SHELL.replace("REPORT", shlex.quote(str(plan.report)).replace("'", "'\\''"))
        argv = [plan.shell, "-c", script, "bash", arguments.command]
        try:
            job = await self._jobs.start(
                argv,
                context=context,
                env=env,
                cwd=plan.directory,
                command=arguments.command,
                about=arguments.description,
                report=plan.report,
                sandbox=sandbox,
            )
        except OSError as error:
            hint = "; put a long text into a file with the tool write" if error.errno == errno.E2BIG else ""
            raise ToolError(f"cannot run: the shell does not start: {error.strerror}{hint}") from error
        finally:
            if sandbox is not None:
                sandbox.close()
        wait_s = limits.background_wait_s if arguments.run_in_background else float(arguments.auto_background_after)
        is_background = False
        try:
            is_background = not await job.ended_within(min(wait_s, limits.tool_max_s))
        finally:
            if not is_background:  # it ended, or the call was cancelled
                await self._jobs.end(job)
                self._jobs.forget(job)
        metadata = {
            "start_time": started_ms,
            "end_time": int(context.clock.wall() * 1000),
            "description": arguments.description,
        }
        if is_background:
            output = job.output()
            return ToolResult(
                f"The command keeps running in the background as job {job.id}. Read its output with job_output, end it "
                f"with job_kill.\n\n{output}".rstrip(),
                metadata={
                    **metadata,
                    "output": output,
                    "working_directory": str(plan.directory),
                    "background": True,
                    "shell_id": job.id,
                },
            )
        final = job.final_directory or plan.directory
        self._jobs.record_directory(context.session_id, final)
        output = "\n".join(part for part in (job.output(), describe_end(job)) if part)
        return ToolResult(
            f"{output}\n\n<cwd>{final}</cwd>" if output else NO_OUTPUT,
            metadata={**metadata, "output": output or NO_OUTPUT, "working_directory": str(final)},
        )


@dataclass(frozen=True)
class _Plan:
    """How to run a command: directory, shell, file for its last directory; `reading` when it may only read."""

    directory: Path
    shell: str
    report: Path
    reading: ReadOnly | None


def _prepare(context: ToolContext, arguments: BashArgs, env: dict[str, str], start: Path) -> _Plan:
    if arguments.working_dir:
        resolved = locate(context.workspace, expand_home(arguments.working_dir, context))
        check_directory(resolved, verb="run in")
        directory = resolved.path
    else:
        directory = start if start.is_dir() else context.workspace
        check_workspace(context.workspace, "run")
    shell = shutil.which("bash", path=env.get("PATH", os.defpath))
    if shell is None:
        raise ToolError("cannot run: bash is not on the PATH of this workspace")
    report = report_path(Path(env.get("TMPDIR") or tempfile.gettempdir()), context.children.new_marker())
    return _Plan(directory, shell, report, check_reading_command(context.workspace, directory, arguments.command, env))
