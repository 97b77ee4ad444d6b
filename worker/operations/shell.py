"""A command that the user runs in the workspace without the model; the session remembers what it printed (6.15).

It ends when its caller leaves, with everything that it started.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from protocol.api.services import RunShellCommand, ShellResult
from protocol.base.clock import Clock
from protocol.errors import BadInput, Conflict, Unavailable
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.processes.child import ChildProcesses
from worker.processes.environment import user_environment
from worker.runs import message_rows
from worker.runs.turn_factory import TurnFactory
from worker.store import messages, sessions
from worker.store.database import Database, Transaction

COLOURS = {"COLORTERM": "truecolor", "CLICOLOR_FORCE": "1", "FORCE_COLOR": "1"}
TOO_LONG = 124  # as `timeout` says it
WIDTH_MAX = 10_000


class ShellOperations:
    """The handler of `shell.run`."""

    def __init__(
        self,
        equipment: TurnFactory,
        database: Database,
        children: ChildProcesses,
        *,
        workspace: Path,
        env: Mapping[str, str],
        is_open: Callable[[], bool],
        limits: Limits,
        clock: Clock,
        random: RandomSource,
    ) -> None:
        """`env` is the worker's own environment; `is_open` says whether this worker still begins anything."""
        self._equipment = equipment
        self._database = database
        self._children = children
        self._workspace = workspace
        self._env = env
        self._is_open = is_open
        self._limits = limits
        self._clock = clock
        self._random = random

    def handlers(self) -> Mapping[str, Handler]:
        return {"shell.run": self.run}

    async def run(self, request: OperationRequest) -> OperationResponse:
        """Run it, store what came of it, answer with that. A non-zero exit is an answer like any other."""
        wish = read(request.body, RunShellCommand)
        if not wish.command.strip() or "\0" in wish.command:
            raise BadInput("cannot run: `command` must be a text that is not empty and has no NUL characters")
        if not self._is_open():
            raise Conflict("cannot run: the workspace is closing", code="workspace_closing")
        result = await self._executed(wish, self._environment(request.args.get("env", ""), wish.term_width))
        await self._remember(request.args.get("sid", ""), wish.command, result)
        return OperationResponse(msgspec.json.encode(result))

    def _environment(self, sent: str, width: int) -> dict[str, str]:
        """The worker's, over it the configured one, over it what the workspace's first client had."""
        env = {**self._env, **self._equipment.outfit.config.env}
        for pair in msgspec.json.decode(sent, type=list[str]) if sent else ():
            name, is_pair, value = pair.partition("=")
            if is_pair:
                env[name] = value
        env = {**user_environment(env), **COLOURS}
        if 0 < width <= WIDTH_MAX:
            env["COLUMNS"] = str(width)
        return env

    async def _executed(self, wish: RunShellCommand, env: Mapping[str, str]) -> ShellResult:
        limits = self._limits
        shell = shutil.which("bash", path=env.get("PATH", os.defpath)) or "/bin/sh"
        try:
            child = await self._children.start([shell, "-c", wish.command], env=env, cwd=self._workspace)
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
        exit_code = TOO_LONG if code is None else 128 - code if code < 0 else code
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
