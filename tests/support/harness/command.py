"""The `bulkhead` command as a person runs it: its own process, real pipes, the environment of a house."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.harness.server import Server

COMMAND_S = 20.0


def _take_signals() -> None:
    """Tests that were started in the background ignore ctrl-C, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def expect(self, code: int) -> "Finished":
        """This, or AssertionError when its exit code is another one. A traceback is never right."""
        assert "Traceback" not in self.err, self.err
        assert self.code == code, f"exit code {code} was expected: {self}"
        return self

    def lines(self) -> list[Any]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out = ""

    @classmethod
    async def start(
        cls, server: Server, *words: str, cwd: object = "/", env: dict[str, str] | None = None, stdin: bool = False
    ) -> "Command":
        """Start it with the directories of `server`."""
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
        """Wait until `text` stands in its output."""
        assert self._process.stdout is not None
        async with asyncio.timeout(COMMAND_S):
            while text not in self.out:
                data = await self._process.stdout.read(4096)
                assert data, f"{text!r} was expected; it ended after {self.out!r}: {await self.finished()}"
                self.out += data.decode()

    def interrupt(self) -> None:
        """Ctrl-C."""
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
                f"the command hangs; it said {self.out + out.decode()!r} and {err.decode()!r}"
            ) from None
        return Finished(self._process.returncode or 0, self.out + out.decode(), err.decode())


async def command(
    server: Server, *words: str, cwd: object = "/", env: dict[str, str] | None = None, stdin_data: bytes | None = None
) -> Finished:
    """Run a command to its end."""
    started = await Command.start(server, *words, cwd=cwd, env=env, stdin=stdin_data is not None)
    return await started.finished(stdin_data)
