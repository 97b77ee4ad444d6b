"""Run the `bulkhead` command as a user does: a process of its own, real pipes, the directories of a test server."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.harness.server import Server

COMMAND_S = 20.0


def _take_signals() -> None:
    """Restore ctrl-C: a test run that was started in the background ignores it, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """The result of a command."""

    code: int
    out: str
    err: str

    def expect(self, code: int) -> "Finished":
        """Return this result. Raises AssertionError for another exit code, or if the command printed a traceback."""
        assert "Traceback" not in self.err, self.err
        assert self.code == code, f"expected exit code {code}: {self}"
        return self

    def lines(self) -> list[Any]:
        """Parse the output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out = ""

    @classmethod
    async def start(
        cls, server: Server, *words: str, cwd: object = "/", env: dict[str, str] | None = None, stdin: bool = False
    ) -> "Command":
        """Start the command with the directories of `server`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "supervisor.cli.main", *words),
            cwd=str(cwd),
            env={**server.environment, "NO_COLOR": "1", **(env or {})},
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
            preexec_fn=_take_signals,
        )
        return cls(process)

    async def printed(self, text: str) -> None:
        """Wait until the output contains `text`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(COMMAND_S):
            while text not in self.out:
                data = await self._process.stdout.read(4096)
                assert data, f"expected {text!r}; the output ended after {self.out!r}: {await self.finished()}"
                self.out += data.decode()

    def interrupt(self) -> None:
        """Send ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def finished(self, stdin_data: bytes | None = None) -> Finished:
        """Its end; it gets `given` on standard input."""
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await self._process.communicate(stdin_data)
        except TimeoutError:
            self._process.kill()
            out, err = await self._process.communicate()
            raise AssertionError(
                f"the command hangs; its output is {self.out + out.decode()!r} and {err.decode()!r}"
            ) from None
        return Finished(self._process.returncode or 0, self.out + out.decode(), err.decode())


async def command(
    server: Server, *words: str, cwd: object = "/", env: dict[str, str] | None = None, stdin_data: bytes | None = None
) -> Finished:
    """Run a command, with `stdin_data` on standard input, and return its result."""
    started = await Command.start(server, *words, cwd=cwd, env=env, stdin=stdin_data is not None)
    return await started.finished(stdin_data)
