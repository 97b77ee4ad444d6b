"""The tool `bash`: one command in a fresh shell, ended with everything that it started (T01-T06)."""

import os
import shlex
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.tools.environment import tool_environment
from worker.tools.output import OutputBuffer
from worker.tools.search import directory_inside
from worker.tools.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

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
    working_dir: Annotated[str, Meta(description="Where to run it; the workspace when left out")] = ""
    run_in_background: Annotated[bool, Meta(description="Not available yet")] = False
    auto_background_after: Annotated[int, Meta(description="Not available yet; ignored")] = 60


class Bash:
    """Runs commands. A non-zero exit is a result like any other."""

    spec = ToolSpec("bash", description_of("bash"), schema_of(BashArgs), parallel=False, effect="execute")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `bash.md`."""
        wanted = read_args(BashArgs, args)
        if not wanted.command.strip():
            raise ToolError("cannot run: the command is empty")
        if "\0" in wanted.command:
            raise ToolError("cannot run: the command holds a NUL character")
        if wanted.run_in_background:
            raise ToolError(
                "cannot run in the background: background jobs are not available yet; run it in the foreground with "
                f"an end of its own, such as `timeout 60 ...` (a command may take {context.limits.tool_max_s:.0f} s)"
            )
        limits, threads = context.limits, context.children.threads
        env = tool_environment(context.env)
        directory, shell, report = await threads.run(
            lambda _stop: _prepare(context, wanted, env), within_s=limits.search_deadline_s
        )
        await context.permit(
            action="execute",
            path=str(directory),
            description=wanted.description or f"Run: {wanted.command[:100]}",
            params={"description": wanted.description, "command": wanted.command, "working_dir": str(directory)},
        )
        started_ms = int(context.clock.wall() * 1000)
        script = SHELL.replace("REPORT", shlex.quote(str(report)).replace("'", "'\\''"))
        code: int | None = None
        final_directory = directory
        try:
            child = await context.children.start([shell, "-c", script, "bash", wanted.command], env=env, cwd=directory)
            try:
                code = await child.exited_within(limits.tool_max_s)
                if code is not None:
                    await child.drained(limits.tool_pipe_grace_s)
            finally:
                await child.end()
        except OSError as error:
            raise ToolError(f"cannot run: the shell does not start: {error.strerror}") from error
        finally:
            # Last, because a shell that is being ended may still write its report.
            final_directory = await threads.run(
                lambda _stop: _take_report(report) or directory, within_s=limits.search_deadline_s
            )
        output = _output(child.stdout, child.stderr, _ending(code, limits.tool_max_s))
        return ToolResult(
            f"{output}\n\n<cwd>{final_directory}</cwd>" if output else NO_OUTPUT,
            metadata={
                "start_time": started_ms,
                "end_time": int(context.clock.wall() * 1000),
                "output": output or NO_OUTPUT,
                "description": wanted.description,
                "working_directory": str(final_directory),
            },
        )


def _prepare(context: ToolContext, wanted: BashArgs, env: dict[str, str]) -> tuple[Path, str, Path]:
    """Where to run, the shell, and the path that it will write its last directory to."""
    directory = directory_inside(context.workspace, wanted.working_dir or ".", verb="run in").path
    shell = shutil.which("bash", path=env.get("PATH", os.defpath))
    if shell is None:
        raise ToolError("cannot run: bash is not on the PATH of this workspace")
    folder = env.get("TMPDIR") or tempfile.gettempdir()
    return directory, shell, Path(folder) / f"bulkhead-{context.children.new_marker()}.cwd"


def _take_report(report: Path) -> Path | None:
    """What the shell wrote, and remove it."""
    try:
        data = report.read_bytes()
        report.unlink()
    except OSError:
        return None
    return Path(os.fsdecode(data.removesuffix(b"\n"))) if data.startswith(b"/") else None


def _ending(code: int | None, max_s: float) -> str:
    """The line that tells how the command ended, nothing for success."""
    if code is None:
        return f"Command was ended because it took longer than {max_s:g} s"
    if code < 0:
        return f"Command was ended by {signal.Signals(-code).name}\nExit code {128 - code}"
    return f"Exit code {code}" if code else ""


def _output(stdout: OutputBuffer, stderr: OutputBuffer, ending: str) -> str:
    parts = [part for part in (stdout.text().rstrip("\n"), stderr.text().rstrip("\n"), ending) if part.strip()]
    return "\n".join(parts)
