"""Implement `bulkhead demo`: kill one of two workers in the middle of its answer and show that the other is unaffected.

It uses a real server in a temporary directory and the scripted model, so it needs no key and no network. Each claim is
checked; the exit code is 0 only when all of them hold.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from protocol.address import UnixAddress
from protocol.api.agent import RunComplete
from protocol.api.message import Message
from protocol.api.workspace import WorkerStatus, WorkspaceState
from protocol.base.process_identity import ProcessHandle, start_ticks
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from supervisor.cli.autostart import spawn, wait_healthy
from supervisor.cli.common_options import EXIT_FAILED, perform
from supervisor.cli.terminal.formatting import colourise
from supervisor.cli.terminal.run_output import text_of
from supervisor.client.api import Api

TOKENS, RATE = 120, 20
AGAIN_TOKENS = 30
KILL_AFTER = 40
"""Tokens that alpha has streamed when its worker is killed; a third of its answer."""

LINE_TOKENS = 10
STEP_S = 60.0
STOP_S = 30.0
LOG_CHARS = 3000
COLOURS = {"alpha": "magenta", "beta": "blue"}


class DemoFailed(Exception):
    """A claim of the demo did not hold."""


@click.command()
def demo() -> None:
    """Show that one workspace survives the crash of another.

    Takes about ten seconds, needs no key and no network, and removes everything it created.
    """
    perform(_demo())


@dataclass
class Pane:
    """One workspace, its client, and what the client has received."""

    name: str
    path: Path
    api: Api
    workspace_id: str = ""
    session_id: str = ""
    text: str = ""
    states: list[str] = field(default_factory=list)
    completes: dict[str, RunComplete] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    grew: asyncio.Event = field(default_factory=asyncio.Event)
    _printed: int = 0

    def say(self, text: str, colour: str = "") -> None:
        """Print one line after the workspace's name."""
        label = colourise(f"{self.name:>6} │", COLOURS[self.name], sys.stdout)
        print(f"{label} {colourise(text, colour, sys.stdout) if colour else text}", flush=True)

    @property
    def tokens(self) -> int:
        """Return the number of tokens received of the current answer."""
        return len(self.text.split())

    async def follow(self, is_open: asyncio.Event) -> None:
        """Read the event stream until cancelled; sets `is_open` when it is open."""
        async with self.api.events(self.workspace_id) as events:
            is_open.set()
            async for event in events:
                match event.kind:
                    case "message" if (message := event.read(Message)).role == "assistant":
                        self._show(text_of(message))
                    case "run_complete":
                        complete = event.read(RunComplete)
                        self._show(complete.text, is_whole=True)
                        self.completes[complete.run_id] = complete
                        self.ends[complete.run_id] += 1
                    case "workspace_state":
                        state = event.read(WorkspaceState)
                        is_news = not self.states or self.states[-1] != state.state
                        self.states.append(state.state)
                        if not is_news:
                            continue
                        if state.state != "ready" or self.completes or self.tokens:
                            reason = f": {state.reason}" if state.reason else ""
                            self.say(f"workspace {state.state}{reason}", "yellow")
                    case _:
                        pass
                self.grew.set()

    def begin(self) -> None:
        """Prepare for a new answer."""
        self.text, self._printed = "", 0

    def _show(self, text: str, *, is_whole: bool = False) -> None:
        self.text = text or self.text
        words = self.text.split()
        while len(words) - self._printed >= LINE_TOKENS or (is_whole and self._printed < len(words)):
            self.say(" ".join(words[self._printed : self._printed + LINE_TOKENS]))
            self._printed = min(len(words), self._printed + LINE_TOKENS)

    async def until(self, what: str, *, tokens: int = 0, run_id: str = "") -> None:
        """Wait for a number of tokens, or for the end of a run. Raises DemoFailed."""
        try:
            async with asyncio.timeout(STEP_S):
                while not (self.tokens >= tokens if tokens else run_id in self.completes):
                    self.grew.clear()
                    await self.grew.wait()
        except TimeoutError:
            raise DemoFailed(f"{self.name}: {what} did not happen within {STEP_S:g} s") from None


async def _demo() -> int:
    root = Path(tempfile.mkdtemp(prefix="bulkhead-demo-", dir="/tmp"))
    log_path = root / "server.log"
    try:
        async with _server(root, log_path) as (address, process):
            claims = await _crash_one(address, root)
            claims += await _stop(process)
    except (DemoFailed, BulkheadError) as error:
        print(colourise(f"\nThe demo failed: {error}", "red", sys.stdout))
        await asyncio.to_thread(_print_logs, root)
        return EXIT_FAILED
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(colourise("\nChecked:", "bold", sys.stdout))
    for claim in claims:
        print(f"  {colourise('✓', 'green', sys.stdout)} {claim}")
    print(
        "\nNext, in one of your projects:\n"
        f'  {_command()} run "what is in here?"   # starts a server if none is running\n'
        f"  {_command()} ps                       # lists the workspaces\n"
        "With ANTHROPIC_API_KEY or OPENAI_API_KEY set, a real model answers. README.md explains the rest."
    )
    return 0


async def _crash_one(address: UnixAddress, root: Path) -> list[str]:
    alpha, beta = (Pane(name, root / name, Api(address)) for name in COLOURS)
    tasks = TaskOwner("demo", logging.getLogger("bulkhead.demo"))
    try:
        _head("Two workspaces, each with its own worker process")
        for pane in (alpha, beta):
            pane.path.mkdir()
            pane.workspace_id = (await pane.api.create_workspace(pane.path)).id
            pane.session_id = (await pane.api.create_session(pane.workspace_id, "demo")).id
            is_open = asyncio.Event()
            tasks.start(pane.follow(is_open), pane.name)
            async with asyncio.timeout(STEP_S):
                await is_open.wait()
        before = {pane.name: await _worker(pane) for pane in (alpha, beta)}
        for pane in (alpha, beta):
            pane.say(f"{pane.path}  worker pid {before[pane.name].pid}")
        return await _crash(alpha, beta, before)
    finally:
        await tasks.close()


async def _crash(alpha: Pane, beta: Pane, before: dict[str, WorkerStatus]) -> list[str]:
    _head(f"One prompt each: `/tokens {TOKENS} {RATE}` makes the scripted model stream {TOKENS} tokens")
    prompts = {pane.name: await _prompt(pane, f"/tokens {TOKENS} {RATE}") for pane in (alpha, beta)}
    await alpha.until("its answer", tokens=KILL_AFTER)
    await beta.until("its answer", tokens=KILL_AFTER)

    victim = before["alpha"].pid
    _head(f"kill -9 {victim}: the worker of alpha, in the middle of its answer")
    if victim is None:
        raise DemoFailed("the server does not report the pid of alpha's worker")
    beta_had = beta.tokens
    began = asyncio.get_running_loop().time()
    os.kill(victim, signal.SIGKILL)
    await alpha.until("the end of the killed run", run_id=prompts["alpha"])
    ended_after_ms = (asyncio.get_running_loop().time() - began) * 1000
    lost = alpha.completes[prompts["alpha"]]
    alpha.say(f"run ended: {lost.error}", "red")
    _check(bool(lost.error) and not lost.cancelled, "the killed run did not end as interrupted")
    run = await alpha.api.run(alpha.workspace_id, prompts["alpha"])
    _check(run.outcome == "interrupted", f"the killed run ended as {run.outcome}, not as interrupted")
    kept = await _stored_tokens(alpha)
    _check(kept >= KILL_AFTER // 2, f"only {kept} tokens of the killed answer were kept")

    _head("The next prompt to alpha, while beta is still streaming")
    alpha.begin()
    again = await _prompt(alpha, f"/tokens {AGAIN_TOKENS} {RATE}")
    await alpha.until("its next answer", run_id=again)
    _check(alpha.completes[again].text == _whole(AGAIN_TOKENS), "the next prompt of alpha was not answered")
    await beta.until("the end of its run", run_id=prompts["beta"])
    after = {pane.name: await _worker(pane) for pane in (alpha, beta)}

    _check(after["alpha"].pid not in (None, victim), "alpha has no new worker")
    _check(after["beta"].pid == before["beta"].pid, "beta has another worker")
    _check(after["beta"].generation == before["beta"].generation, "the worker of beta was restarted")
    _check(set(alpha.ends.values()) == {1} == set(beta.ends.values()), "a run ended more than once")
    _check(beta.completes[prompts["beta"]].text == _whole(TOKENS), "the answer of beta is incomplete")
    _check(set(beta.states) <= {"ready"}, f"beta went through the states {beta.states}")
    for pane in (alpha, beta):
        await pane.api.retire()
    return [
        f"beta: same worker (pid {after['beta'].pid}), all {TOKENS} tokens, {TOKENS - beta_had} of them after the kill",
        f"alpha: worker {victim} was replaced by {after['alpha'].pid}; its run ended after {ended_after_ms:.0f} ms",
        f"alpha: the killed run ended exactly once, as `interrupted`, and {kept} tokens of its answer were kept",
        "alpha: the next prompt was answered, in the same session",
    ]


async def _stop(process: "subprocess.Popen[bytes]") -> list[str]:
    _head("Stop the server")
    children = await asyncio.to_thread(_descendants, process.pid)
    target = ProcessHandle.open(process.pid, start_ticks(process.pid) or 0)
    if target is None:
        raise DemoFailed("the server ended before it was stopped")
    with target:
        began = asyncio.get_running_loop().time()
        target.send(signal.SIGTERM)
        if not await target.ended_within(STOP_S):
            raise DemoFailed(f"the server did not stop within {STOP_S:g} s")
        took_s = asyncio.get_running_loop().time() - began
    code = await asyncio.to_thread(process.wait)
    _check(code == 0, f"the server ended with exit code {code}")
    left = _living(children)
    _check(not left, f"processes are still running: {left}")
    return [f"the server shut down cleanly in {took_s:.1f} s; none of its {len(children)} child processes is left"]


@asynccontextmanager
async def _server(root: Path, log_path: Path) -> "AsyncIterator[tuple[UnixAddress, subprocess.Popen[bytes]]]":
    """Run a server without access to this user's configuration and keys; end it afterwards."""
    address = UnixAddress(root / "bulkhead.sock")
    config = root / "bulkhead.json"
    config.write_text(json.dumps({"server": {"default_model": "builtin/script"}}))
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root), "LANG": os.environ.get("LANG", "C.UTF-8")}
    arguments = [f"--host={address}", f"--runtime-dir={root}/run", f"--state-dir={root}/state", f"--config={config}"]
    _head("A separate server, in a temporary directory")
    began = asyncio.get_running_loop().time()
    process = spawn(arguments, log_path, env)
    try:
        await wait_healthy(Api(address), process, log_path)
        took_ms = (asyncio.get_running_loop().time() - began) * 1000
        print(f"pid {process.pid}, ready after {took_ms:.0f} ms, at {address}")
        yield address, process
    finally:
        await asyncio.to_thread(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the server and all its processes, whatever happened before."""
    if process.poll() is not None:
        return
    children = _descendants(process.pid)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _print_logs(root: Path) -> None:
    for path in (root / "server.log", *sorted((root / "run").glob("**/*.log"))):
        if path.exists() and (text := path.read_text(errors="replace").strip()):
            print(f"\n--- end of {path.name}\n{text[-LOG_CHARS:]}")


def _living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _descendants(pid: int) -> list[int]:
    """Return the pids of all living descendants of a process."""
    descendants: list[int] = []
    remaining = [pid]
    while remaining:
        parent = remaining.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(word) for word in path.read_text().split()]
            except OSError:
                continue
            descendants += children
            remaining += children
    return descendants


async def _prompt(pane: Pane, prompt: str) -> str:
    run_id = pane.api.new_run_id()
    return await pane.api.submit(pane.workspace_id, pane.session_id, prompt, run_id=run_id)


async def _worker(pane: Pane) -> WorkerStatus:
    for worker in await pane.api.workers():
        if worker.id == pane.workspace_id:
            return worker
    raise DemoFailed(f"the server does not list the workspace {pane.name}")


async def _stored_tokens(pane: Pane) -> int:
    rows = await pane.api.messages(pane.workspace_id, pane.session_id)
    answers = [text_of(row) for row in rows if row.role == "assistant"]
    return len(answers[0].split()) if answers else 0


def _whole(tokens: int) -> str:
    """Return the complete answer of the scripted model to `/tokens`."""
    return " ".join(f"t{number}" for number in range(1, tokens + 1))


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise DemoFailed(otherwise)


def _head(text: str) -> None:
    print(colourise(f"\n── {text}", "bold", sys.stdout), flush=True)


def _command() -> str:
    """Return how to call this command: the path of the venv's script if it was called by that, else its name."""
    return sys.argv[0] if sys.argv[0].startswith(".") or "/.venv/" in sys.argv[0] else "bulkhead"
