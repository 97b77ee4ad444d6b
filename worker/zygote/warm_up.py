"""Run throwaway workers in the zygote, up to a run and an orderly end, so that forks find the first time done.

The first time leaves things behind in the interpreter: specialised bytecode, cached attribute lookups, compiled
statements, objects made on demand. Made here once they are shared by all workers instead of built in each. Everything
is real except the socket of the link, because a ZeroMQ context must not exist before a fork. Ending with idle workers,
after the cache of attribute lookups was cleared, was measured to save 0.15 MB per worker (Python 3.11).
"""

import asyncio
import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from types import CodeType

import msgspec

from protocol.base import failpoints
from protocol.codec import decode_to_supervisor, encode
from protocol.exit_codes import EXIT_CLEAN
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.messages import Answer, Call, EventBatch, Ready, Shutdown, ToWorker, Welcome
from protocol.worker_spec import WorkerSpec, spec_from_bytes, spec_to_bytes
from worker.app import Worker
from worker.link.dealer_socket import DealerSocket
from worker.link.worker_link import WorkerLink
from worker.main import run_worker
from worker.zygote.code_layout import code_run_by, relocate_code
from worker.zygote.warm_folder import warm_folder

_WORKERS = 8
"""The interpreter specialises a function after about so many calls."""
_IDLE_WORKERS = 3
_FIRST_WORKERS = 2
"""After so many, everything that is imported or made once exists."""
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals for the zygote; a throwaway worker would handle them as its own."""


class WarmUpFailed(Exception):
    """A worker of this code cannot run; the message holds its log."""


def warm_up_worker() -> None:
    """Run throwaway workers. Raises WarmUpFailed. Leaves no thread, loop, descriptor or file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    failpoints_socket = os.environ.pop(failpoints.ENVIRONMENT, None)  # meant for the workers of a test
    try:
        idle = code_of_idle_worker()
        relocate_code([*idle, *code_run_by(lambda: run_throwaway(_WorkerWithRun))])
        run_throwaway(_WorkerWithRun, times=_WORKERS)
        # So that the cache holds what idle workers look up: each other lookup writes to it. Python 3.13 renamed it.
        (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
        run_throwaway(IdleWorker, times=_IDLE_WORKERS)
    finally:
        if failpoints_socket is not None:
            os.environ[failpoints.ENVIRONMENT] = failpoints_socket
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def code_of_idle_worker() -> list[CodeType]:
    """Return the code that a worker runs which is started, left alone and ended. Raises WarmUpFailed."""
    run_throwaway(_WorkerWithRun, times=_FIRST_WORKERS)
    return code_run_by(lambda: run_throwaway(IdleWorker))


def run_throwaway(make: type[Worker], times: int = 1) -> None:
    """Run workers in temporary directories, one after the other, to their end. Raises WarmUpFailed."""
    for _ in range(times):
        with warm_folder() as folder:
            _run(folder, make)


def _run(folder: Path, make: type[Worker]) -> None:
    spec = WorkerSpec(
        workspace_id=WorkspaceId("warm-up"),
        generation=Generation(1),
        path=str(folder),
        data_dir=str(folder / ".bulkhead"),
        endpoint="",
        token="throwaway",
        log_path="",
        env={"HOME": str(folder)},
    )
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        code = run_worker(spec_from_bytes(spec_to_bytes(spec)), make=make)
    if code != EXIT_CLEAN:
        raise WarmUpFailed(f"cannot fork workers: a throwaway worker ended with {code}; its log:\n{log.getvalue()}")


class _NoSocket(DealerSocket):
    """Connects to nothing, and notes the messages that the supervisor would wait for."""

    def note_to(self, answers: "asyncio.Queue[Answer]", run_ended: asyncio.Event) -> None:
        """Put answers into `answers`, and set `run_ended` at the end of a run."""
        self._answers = answers
        self._run_ended = run_ended

    def start(self) -> None:
        pass

    def try_send(self, frame: bytes) -> bool:
        match decode_to_supervisor(frame):
            case Answer() as answer:
                self._answers.put_nowait(answer)
            case EventBatch(events=events) if any(event.kind == "run_complete" for event in events):
                self._run_ended.set()
        return True


class _LinkWithRun(WorkerLink):
    """Plays the supervisor as well: sends one prompt, and asks the worker to end after its run."""

    socket_class = _NoSocket

    async def start(self) -> None:
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._run_ended = asyncio.Event()
        assert isinstance(self._socket, _NoSocket)
        self._socket.note_to(self._answers, self._run_ended)
        await super().start()
        self.on_connected()
        self._receive(Welcome(epoch=Epoch(1), credit=self._limits.event_window))

    async def ready(self, message: Ready) -> None:
        await super().ready(message)
        self._tasks.start(self._play(), "play")

    async def _play(self) -> None:
        created = await self._ask("session.create", {"title": ""})
        session_id = msgspec.json.decode(created.body)["id"]
        prompt = '/say hello\n/tool view {"file_path": ".bulkhead/.gitignore"}'
        await self._ask("prompt.submit", {"session_id": session_id, "prompt": prompt, "run_id": ""})
        await self._run_ended.wait()
        for operation in ("workspace.describe", "agent.info", "session.messages"):
            await self._ask(operation, sid=session_id)
        self.finish()

    def finish(self) -> None:
        """Ask the worker to end."""
        self._receive(Shutdown(epoch=Epoch(1), reason="warm-up is done", drain_s=5.0, flush_s=5.0))

    async def _ask(self, operation: str, shape: object = None, **args: str) -> Answer:
        body = b"" if shape is None else msgspec.json.encode(shape)
        call_id = operation
        self._receive(Call(call_id=call_id, epoch=Epoch(1), operation=operation, args=args, body=body, within_s=5.0))
        return await self._answers.get()

    def _receive(self, message: ToWorker) -> None:
        self.on_frames([encode(message, max_bytes=self._limits.message_max_bytes)])


class _WorkerWithRun(Worker):
    link_class = _LinkWithRun


class IdleLink(_LinkWithRun):
    """The same without a prompt: asks for the workspace once and ends the worker."""

    async def _play(self) -> None:
        await self._ask("workspace.describe")
        self.finish()


class IdleWorker(Worker):
    """A worker that is started, asked for its workspace, and ended."""

    link_class = IdleLink
