"""Run an API client in a process of its own, and control it from the test.

Each input line is a JSON object with `do`, the name of an action, and its arguments; each output line is the result.
The process shares nothing with the test but the socket of the server.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.checks.history import ClientLog
from tests.support.clients.http_client import Client
from tests.support.clients.stream_reader import StreamReader

ANSWER_S = 20.0
ROOT = Path(__file__).resolve().parents[3]


class ClientProcess:
    """Control the client process from the test. Use as `async with`; the process ends with the block."""

    def __init__(self, socket_path: Path) -> None:
        self._command = [sys.executable, "-m", "tests.support.harness.client_process", str(socket_path)]
        # The tests are not an installed package: the process must import from its working directory.
        self._env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "ClientProcess":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, cwd=ROOT, env=self._env, limit=1 << 26
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        assert code == 0, f"a client process exited with {code}; the reason is on stderr"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Run one action and return its result. Raises AssertionError or, if it takes too long, TimeoutError."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": do} | arguments).encode() + b"\n")
        async with asyncio.timeout(ANSWER_S):
            line = await process.stdout.readline()
        assert line, f"the client process exited during {do}; the reason is on stderr"
        return json.loads(line)


class ClientProgram:
    """Perform the actions inside the process: each public method is one action."""

    def __init__(self, socket_path: Path) -> None:
        self._client = Client(socket_path, ClientLog())
        self._watcher: StreamReader | None = None

    async def create(self, path: str) -> Any:
        """Create a workspace and a session; return their ids."""
        workspace = (await self._client.create(Path(path)))["id"]
        return [workspace, await self._client.create_session(workspace)]

    async def watch(self, workspace: str, after: str = "") -> Any:
        """Open a stream, after an id if one is given; an open stream is closed first."""
        await self.leave()
        self._watcher = StreamReader(self._client, workspace)
        await self._watcher.open(after)
        return True

    async def leave(self) -> Any:
        """Close the stream."""
        if self._watcher is not None:
            await self._watcher.close()
            self._watcher = None
        return True

    async def prompt(self, workspace: str, session: str, prompt: str) -> Any:
        """Send a prompt that must be accepted; return its run id."""
        return await self._client.prompt(workspace, session, prompt)

    async def cancel(self, workspace: str, session: str) -> Any:
        """Cancel the runs of a session; return the status."""
        return (await self._client.cancel(workspace, session)).status

    async def shown(self, session: str, text: str) -> Any:
        """Wait for the assistant message that contains `text` and return it."""
        assert self._watcher is not None
        return await self._watcher.text(session, text)

    async def until_end(self, run: str) -> Any:
        """Wait until the run has ended; return all events with an id so far, as `[id, data]`."""
        assert self._watcher is not None
        await self._watcher.ended(run)
        return [
            [f"{event.log}.{event.number}", event.data.decode()]
            for event in self._watcher.seen
            if event.number and not event.is_base
        ]

    async def messages(self, workspace: str, session: str) -> Any:
        """Return the messages of the session, oldest first."""
        return await self._client.messages(workspace, session)


async def main(socket_path: Path) -> None:
    """Perform the actions read from standard input until it is closed."""
    program = ClientProgram(socket_path)
    lines = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        action = json.loads(line)
        result = await getattr(program, action.pop("do"))(**action)
        print(json.dumps(result), flush=True)
    await program.leave()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
