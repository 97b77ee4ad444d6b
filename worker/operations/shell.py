"""Run a command of the user in the workspace, without the model; the session keeps what it printed.

The command ends when its caller leaves, with everything that it started.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from protocol.api.services import RunShellCommand, ShellResult
from protocol.base.clock import Clock
from protocol.errors import BadInput, Conflict, Unavailable
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.config.live import LiveConfig
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.processes.child import ChildProcesses
from worker.processes.environment import user_environment
from worker.runs import message_rows
from worker.runs.drain import Drain
from worker.store.database import Database, Transaction
from worker.store.tables import messages, sessions

COLOURS = {"COLORTERM": "truecolor", "CLICOLOR_FORCE": "1", "FORCE_COLOR": "1"}
TIMED_OUT = 124  # the exit code of timeout(1)
WIDTH_MAX = 10_000


class ShellOperations:
    """The handler of `shell.run`."""

    def __init__(
        self,
        live: LiveConfig,
        database: Database,
        children: ChildProcesses,
        *,
        workspace: Path,
        drain: Drain,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
    ) -> None:
        self._live = live
        self._database = database
        self._children = children
        self._workspace = workspace
        self._drain = drain
        self._limits = limits
        self._clock = clock
        self._random = random

    def handlers(self) -> Mapping[str, Handler]:
        return {"shell.run": self.run}

    async def run(self, request: OperationRequest) -> OperationResponse:
        """Run the command, store its result and return it. A non-zero exit is a result like any other."""
        body = read(request.body, RunShellCommand)
        if not body.command.strip() or "\0" in body.command:
            raise BadInput("cannot run: `command` must be a text that is not empty and has no NUL characters")
        if not self._drain.is_open:
            raise Conflict("cannot run: the workspace is closing", code="workspace_closing")
        result = await self._executed(body, self._environment(request.args.get("env", ""), body.term_width))
        await self._remember(request.args.get("sid", ""), body.command, result)
        return OperationResponse(msgspec.json.encode(result))

    def _environment(self, sent: str, width: int) -> dict[str, str]:
        """Combine the environments: that of the worker, the configured one, that of the workspace's first client."""
        env = self._live.env
        for pair in msgspec.json.decode(sent, type=list[str]) if sent else ():
            name, is_pair, value = pair.partition("=")
            if is_pair:
                env[name] = value
        env = {**user_environment(env), **COLOURS}
        if 0 < width <= WIDTH_MAX:
            env["COLUMNS"] = str(width)
        return env

    async def _executed(self, body: RunShellCommand, env: Mapping[str, str]) -> ShellResult:
        limits = self._limits
        shell = shutil.which("bash", path=env.get("PATH", os.defpath)) or "/bin/sh"
        try:
            child = await self._children.start([shell, "-c", body.command], env=env, cwd=self._workspace)
            try:
                code = await child.exited_within(limits.tool_max_s)
                if code is not None:
                    await child.drained(limits.tool_pipe_grace_s)
            finally:
                await child.end()
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise BadInput("cannot run: the command is too long; write it into a file", code="too_large") from None
            raise Unavailable(f"cannot run: the shell does not start: {error.strerror}", retryable=False) from None
        parts = [child.stdout.text().rstrip("\n"), child.stderr.text().rstrip("\n")]
        if code is None:
            parts.append(f"ended because it took longer than {limits.tool_max_s:g} s")
        output = "\n".join(part for part in parts if part)
        exit_code = TIMED_OUT if code is None else 128 - code if code < 0 else code
        return ShellResult(output=output, exit_code=exit_code)

    async def _remember(self, session_id: str, command: str, result: ShellResult) -> None:
        row = message_rows.shell_row(
            row_id=new_uuid(self._random),
            session_id=session_id,
            command=command,
            output=result.output,
            exit_code=result.exit_code,
            now=int(self._clock.wall()),
        )

        def job(transaction: Transaction) -> None:
            if sessions.exists(transaction.connection, session_id):
                messages.create(transaction.connection, row, run_id="")
                transaction.emit(row, "created", session_id=session_id, key=row.id)

        await self._database.write(job)
