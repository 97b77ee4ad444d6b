"""The tool `bash`: one command in a fresh shell, ended with everything that it started (T01-T06)."""

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
from worker.tools.files.path_permission import expanded
from worker.tools.shell.cwd_report import report_path, sweep_reports
from worker.tools.shell.jobs import Jobs, ending_of
from worker.tools.shell.read_only_commands import ReadOnly
from worker.tools.shell.read_only_paths import git_runs_nothing, reads_here
from worker.tools.shell.sandbox import Sandbox

NO_OUTPUT = "no output"  # exactly this text is shown as nothing by clients

SHELL = """\
trap '{ set +x; builtin pwd -P >REPORT; } 2>/dev/null || :' EXIT; eval "set --; $1"
"""
"""What the shell runs: the command, and at its end its last directory, into a file that the shell itself makes (W-61).

A trap, because a command may call `exit`; one that replaces the shell (`exec`) or the trap leaves no report.
"""


class BashArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `bash`."""

    description: Annotated[str, Meta(description="What the command does, in about 30 characters")]
    command: Annotated[str, Meta(description="The command to run")]
    working_dir: Annotated[str, Meta(description="Where to run it; where the last command ended when left out")] = ""
    run_in_background: Annotated[bool, Meta(description="Do not wait for its end")] = False
    auto_background_after: Annotated[
        int, Meta(description="Seconds after which it goes on in the background; 60 when left out", ge=1)
    ] = 60


class Bash:
    """Runs commands. A non-zero exit is a result like any other."""

    spec = ToolSpec("bash", description_of(__file__, "bash"), schema_of(BashArgs), parallel=False, effect="execute")

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._has_swept = False

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `bash.md`."""
        wanted = read_args(BashArgs, args)
        if not wanted.command.strip():
            raise ToolError("cannot run: the command is empty")
        if "\0" in wanted.command:
            raise ToolError("cannot run: the command holds a NUL character")
        limits, threads = context.limits, context.children.threads
        env = tool_environment(context.env)
        confinement = self._jobs.confinement
        start = self._jobs.directory_of(context.session_id, context.workspace)
        setting = await threads.run(
            lambda _stop: _prepare(context, wanted, env, start), timeout_s=limits.search_deadline_s
        )
        if not self._has_swept:
            self._has_swept = True
            await threads.run(lambda _stop: sweep_reports(setting.report.parent), timeout_s=limits.search_deadline_s)
        reading = setting.reading
        if reading is None or (reading.git and not await git_runs_nothing(context, reading, setting.directory, env)):
            await context.permit(
                action="execute",
                path=str(setting.directory),
                description=wanted.description or f"Run: {wanted.command[:100]}",
                params={
                    "description": wanted.description,
                    "command": wanted.command,
                    "working_dir": str(setting.directory),
                    "run_in_background": wanted.run_in_background,
                    "auto_background_after": wanted.auto_background_after,
                },
            )
        cage: Sandbox | None = None
        if confinement is not None:
            cage = await threads.run(lambda _stop: confinement.enter(), timeout_s=limits.search_deadline_s)
        if cage is not None and cage.environment:
            env |= cage.environment
            setting = replace(setting, report=Path(cage.environment["TMPDIR"]) / setting.report.name)
        started_ms = int(context.clock.wall() * 1000)
        script = SHELL.replace("REPORT", shlex.quote(str(setting.report)).replace("'", "'\\''"))
        argv = [setting.shell, "-c", script, "bash", wanted.command]
        try:
            job = await self._jobs.start(
                argv,
                context=context,
                env=env,
                cwd=setting.directory,
                command=wanted.command,
                about=wanted.description,
                report=setting.report,
                cage=cage,
            )
        except OSError as error:
            hint = "; a long text goes into a file, with the tool write" if error.errno == errno.E2BIG else ""
            raise ToolError(f"cannot run: the shell does not start: {error.strerror}{hint}") from error
        finally:
            if cage is not None:
                cage.close()
        wait_s = limits.background_wait_s if wanted.run_in_background else float(wanted.auto_background_after)
        is_left = False
        try:
            is_left = not await job.ended_within(min(wait_s, limits.tool_max_s))
        finally:
            if not is_left:  # ended, or its caller was cancelled
                await self._jobs.end(job)
                self._jobs.forget(job)
        metadata = {
            "start_time": started_ms,
            "end_time": int(context.clock.wall() * 1000),
            "description": wanted.description,
        }
        if is_left:
            output = job.output()
            return ToolResult(
                f"The command goes on in the background as job {job.id}. See what it prints with job_output, end it "
                f"with job_kill.\n\n{output}".rstrip(),
                metadata={
                    **metadata,
                    "output": output,
                    "working_directory": str(setting.directory),
                    "background": True,
                    "shell_id": job.id,
                },
            )
        final = job.final_directory or setting.directory
        self._jobs.ended_in(context.session_id, final)
        output = "\n".join(part for part in (job.output(), ending_of(job)) if part)
        return ToolResult(
            f"{output}\n\n<cwd>{final}</cwd>" if output else NO_OUTPUT,
            metadata={**metadata, "output": output or NO_OUTPUT, "working_directory": str(final)},
        )


@dataclass(frozen=True)
class _Setting:
    """Where a command runs: its directory, its shell, the file for its last directory; what is known of one that
    reads.
    """

    directory: Path
    shell: str
    report: Path
    reading: ReadOnly | None


def _prepare(context: ToolContext, wanted: BashArgs, env: dict[str, str], start: Path) -> _Setting:
    if wanted.working_dir:
        place = locate(context.workspace, expanded(wanted.working_dir, context))
        check_directory(place, verb="run in")
        directory = place.path
    else:
        directory = start if start.is_dir() else context.workspace
        check_workspace(context.workspace, "run")
    shell = shutil.which("bash", path=env.get("PATH", os.defpath))
    if shell is None:
        raise ToolError("cannot run: bash is not on the PATH of this workspace")
    report = report_path(Path(env.get("TMPDIR") or tempfile.gettempdir()), context.children.new_marker())
    return _Setting(directory, shell, report, reads_here(context.workspace, directory, wanted.command, env))
