"""Test `bulkhead run --permissions`: questions at a terminal, and denials without one."""

import asyncio
import fcntl
import json
import os
import pty
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.harness.command import COMMAND_S, Finished, command
from tests.support.harness.server_harness import ServerHarness
from tests.support.permission_requests import bash


class Terminal:
    """A command whose standard error and controlling terminal is a pseudo-terminal that the test types into."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self._process = process
        self._master = master
        self._changed = asyncio.Event()
        self._typed = 0
        self.err = ""
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.err += data.decode()
        self._changed.set()

    async def answer(self, question: str, answer: str) -> None:
        """Wait until `question` is printed, then type an answer."""
        async with asyncio.timeout(COMMAND_S):
            while question not in self.err[self._typed :]:
                self._changed.clear()
                await self._changed.wait()
        self._typed = len(self.err)
        os.write(self._master, answer.encode() + b"\n")

    async def finished(self) -> Finished:
        async with asyncio.timeout(COMMAND_S):
            out, _ = await self._process.communicate()
        return Finished(self._process.returncode or 0, out.decode(), self.err)


@asynccontextmanager
async def at_a_terminal(house: ServerHarness, *arguments: str, cwd: Path) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "supervisor.cli.main", "run", *arguments),
        cwd=str(cwd),
        env={**house.server.environment, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


QUESTION = "[y]es, [n]o, [a]lways"


async def test_a_permission_is_asked_for_at_the_terminal(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    prompt = f"{bash('touch one.txt')}\n/say and\n{bash('touch two.txt')}\n{bash('touch three.txt')}\n/say done"
    async with at_a_terminal(house, prompt, cwd=path) as terminal:
        await terminal.answer(QUESTION, "perhaps")
        assert "bash asks to execute" in terminal.err
        assert "touch one.txt" in terminal.err
        await terminal.answer(QUESTION, "y")
        await terminal.answer(QUESTION, "always")
        done = (await terminal.finished()).expect(0)
    assert done.out.endswith("done\n")
    assert [(path / f"{name}.txt").exists() for name in ("one", "two", "three")] == [True] * 3
    assert done.err.count("bash asks to execute") == 2, "the answer `always` was not remembered"


async def test_the_question_shows_the_change(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (path / "sum.py").write_text("def add(a, b):\n    return a - b\n")
    edit = {"file_path": "sum.py", "old_string": "a - b", "new_string": "a + b"}
    prompt = f'/tool view {{"file_path": "sum.py"}}\n/say read\n/tool edit {json.dumps(edit)}\n/say done'
    async with at_a_terminal(house, prompt, cwd=path) as terminal:
        await terminal.answer(QUESTION, "y")
        (await terminal.finished()).expect(0)
    assert "    -    return a - b\r\n    +    return a + b\r\n" in terminal.err
    assert (path / "sum.py").read_text().endswith("a + b\n")


async def test_the_answer_no_denies_the_call(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    async with at_a_terminal(house, f"{bash('touch one.txt')}\n/say not reached", cwd=path) as terminal:
        await terminal.answer(QUESTION, "n")
        done = (await terminal.finished()).expect(0)
    assert "not reached" not in done.out
    assert not (path / "one.txt").exists()


async def test_another_client_may_answer_the_request(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    client = house.new_client()
    workspace = (await client.create(path))["id"]
    watcher = await house.watch(workspace, name="other", client=client)
    async with at_a_terminal(house, bash("touch one.txt"), cwd=path) as terminal:
        request = (await watcher.wait(lambda e: e.kind == "permission_request", what="a request")).payload
        body = {"permission": request, "action": "allow"}
        answer = await client.post(f"/v1/workspaces/{workspace}/permissions/grant", body)
        assert answer.expect(200).json() == {"resolved": True}
        (await terminal.finished()).expect(0)
    assert (path / "one.txt").exists()
    await house.log_prompts(workspace)


@pytest.mark.parametrize(
    ("arguments", "is_allowed"), [((), False), (("--permissions", "allow"), True), (("--yolo",), True)]
)
async def test_requests_are_denied_without_a_terminal_unless_allowed_beforehand(
    house: ServerHarness, arguments: tuple[str, ...], is_allowed: bool
) -> None:
    path = house.directory("w", "script")
    done = (await command(house.server, "run", *arguments, bash("touch one.txt"), cwd=path)).expect(0)
    assert (path / "one.txt").exists() == is_allowed
    assert ("denied" in done.err) != is_allowed
    refused = (await command(house.server, "run", "--permissions", "ask", "/say x", cwd=path)).expect(2)
    assert "needs a terminal" in refused.err
