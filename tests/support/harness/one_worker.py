"""Run one real worker process against a real router, without a supervisor, zygote or HTTP."""

import asyncio
import contextlib
import logging
import os
import random
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from protocol.base.clock import SystemClock
from protocol.events import Event
from protocol.ids import Epoch, Generation, WorkspaceId, new_uuid
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.messages import Answer, Closing, Heartbeat, Hello, LastWord, Ready, Shutdown
from protocol.worker_spec import WorkerSpec, spec_to_bytes
from supervisor.routing.link import ExpectedWorker, Link, LinkListeners
from supervisor.routing.router import Router

LOG = logging.getLogger("bulkhead.test")


@dataclass
class MessageListener:
    """Collect the messages of a worker; set `changed` on each one."""

    hellos: list[Hello] = field(default_factory=list)
    readies: list[Ready] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)
    numbered: list[Event] = field(default_factory=list)
    snapshots: list[Event] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    last_words: list[LastWord] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_hello(self, message: Hello) -> None:
        self.hellos.append(message)
        self.changed.set()

    def on_ready(self, message: Ready) -> None:
        self.readies.append(message)
        self.changed.set()

    def on_heartbeat(self, message: Heartbeat) -> None:
        self.beats.append(message)
        self.changed.set()

    def on_log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        pass  # hello and ready contain the same

    def on_events(self, batch: list[Event], link: Link) -> None:
        fresh = [event for event in batch if not event.is_snapshot]
        self.numbered += fresh
        self.snapshots += [event for event in batch if event.is_snapshot]
        link.grant(len(fresh))
        self.changed.set()

    def on_closing(self, message: Closing) -> None:
        self.stages.append(message.stage)
        self.changed.set()

    def on_last_word(self, message: LastWord) -> None:
        self.last_words.append(message)
        self.changed.set()

    def completes(self) -> dict[str, dict[str, Any]]:
        """Return the payloads of the terminal events received, by run id."""
        payloads = [
            msgspec.json.decode(event.data)["payload"]["payload"]
            for event in self.numbered
            if event.kind == "run_complete"
        ]
        assert len({done["run_id"] for done in payloads}) == len(payloads)
        return {done["run_id"]: done for done in payloads}


@dataclass
class WorkerProcess:
    """A running worker process with its link."""

    process: asyncio.subprocess.Process
    link: Link
    listener: MessageListener
    log_path: Path

    async def until(self, check: Any, timeout_s: float = 20.0) -> None:
        """Wait until `check()` holds; it is called after each message of the worker."""
        try:
            async with asyncio.timeout(timeout_s):
                while not check():
                    self.listener.changed.clear()
                    await self.listener.changed.wait()
        except TimeoutError:
            raise AssertionError(f"the condition never held; log of the worker:\n{self.log_path.read_text()}") from None

    async def ask(self, operation: str, shape: Mapping[str, Any] | None = None, **args: str) -> Any:
        """Run an operation; return its decoded body."""
        body = b"" if shape is None else msgspec.json.encode(shape)
        answer: Answer = await self.link.call(operation, args=args, body=body, timeout_s=15.0)
        return msgspec.json.decode(answer.body) if answer.body else None

    async def session(self, title: str = "") -> str:
        """Create a session; return its id."""
        made = await self.ask("session.create", {"title": title})
        return str(made["id"])

    async def submit(self, session_id: str, prompt: str, run_id: str = "") -> str:
        """Send a prompt; return its run id."""
        body = {"session_id": session_id, "prompt": prompt, "run_id": run_id}
        return str((await self.ask("prompt.submit", body))["run_id"])

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the terminal event of a run and return its payload."""
        await self.until(lambda: run_id in self.listener.completes())
        return self.listener.completes()[run_id]

    async def shut_down(self, drain_s: float = 5.0, flush_s: float = 5.0, *, cancel_queued: bool = False) -> LastWord:
        """Run the shutdown protocol; return the last message of the worker."""
        budgets = {"drain_s": drain_s, "flush_s": flush_s}
        self.link.send(Shutdown(epoch=Epoch(1), reason="test", cancel_queued=cancel_queued, **budgets))
        await self.until(lambda: self.listener.last_words)
        return self.listener.last_words[0]

    async def exit_code(self) -> int:
        """Wait until the process has exited and return its exit code."""
        async with asyncio.timeout(20.0):
            return await self.process.wait()


class OneWorker:
    """A router and one workspace, for which workers are started one after another."""

    def __init__(self, router: Router, path: Path, limits: Limits) -> None:
        self.router = router
        self.path = path
        self.limits = limits
        self.generation = 0
        # Unique, because process sweeps search the whole machine for this id.
        self.workspace_id = WorkspaceId(new_uuid(random.SystemRandom()))

    @asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncGenerator[WorkerProcess, None]:
        """Start the next worker of the workspace; kill it at the end if it is still running."""
        self.generation += 1
        env = {"PATH": os.environ["PATH"], "HOME": str(self.path), **changes.pop("env", {})}
        spec = WorkerSpec(
            workspace_id=self.workspace_id,
            generation=Generation(self.generation),
            path=str(self.path / "project"),
            data_dir=str(self.path / "project" / ".bulkhead"),
            endpoint=self.router.endpoint,
            token=f"token-{self.generation}-of-this-test",
            log_path=str(self.path / "worker.log"),
            env=env,
            limits=self.limits,
        )
        spec = msgspec.structs.replace(spec, **changes)
        listener = MessageListener()
        expected = ExpectedWorker(spec.workspace_id, spec.generation, spec.token)
        link = self.router.expect(expected, LinkListeners(lifecycle=listener, events=listener))
        with tempfile.TemporaryFile() as file:
            file.write(spec_to_bytes(spec))
            file.flush()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "worker", "--spec-fd", str(file.fileno()), pass_fds=(file.fileno(),)
            )
        try:
            yield WorkerProcess(process, link, listener, Path(spec.log_path))
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def open_one_worker(
    path: Path, limits: Limits = DEFAULT_LIMITS, router_name: str = "router.sock"
) -> AsyncGenerator[OneWorker, None]:
    """Start a router in `path`, with a project directory beside it."""
    (path / "project").mkdir(exist_ok=True)
    router = Router(limits=limits, clock=SystemClock(), log=LOG, epoch=Epoch(1))
    await router.start(path / router_name)
    try:
        yield OneWorker(router, path, limits)
    finally:
        await router.close()
