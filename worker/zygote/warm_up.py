"""A whole life of a worker in the zygote, up to a run and an orderly end, so that forks find everything done before.

What a first time leaves behind in the interpreter (specialised bytecode, cached attribute lookups, compiled
statements, objects made on demand) is made here once, and shared by all workers instead of built in each of them.
Everything is real but the link: it has no socket, since a ZeroMQ context must not exist before a fork.
"""

import asyncio
import contextlib
import io
import os
import signal
import sys
import tempfile
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

_LIVES = 8
"""The interpreter specialises a function when it was called about so often."""
_IDLE_LIVES = 3
_FIRST_LIVES = 2
"""After so many, all is imported and made that is made once."""
_HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that mean the zygote; a rehearsed worker would take them for itself."""


class WarmUpFailed(Exception):
    """A worker of this code cannot live; the message holds its log."""


def warm_up_worker() -> None:
    """Live a few times. Raises RehearsalFailed. Leaves no thread, loop, descriptor or file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    stops = os.environ.pop(failpoints.ENVIRONMENT, None)  # those are for the workers of a test, not for us
    try:
        idle = code_of_idle_life()
        relocate_code([*idle, *code_run_by(lambda: _live_often(1, _ThrowawayWorker))])
        _live_often(_LIVES, _ThrowawayWorker)
        # So that the type cache holds what idle workers look up: each other look writes to it. Renamed in Python 3.13.
        (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
        _live_often(_IDLE_LIVES, _IdleWorker)
    finally:
        if stops is not None:
            os.environ[failpoints.ENVIRONMENT] = stops
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def code_of_idle_life() -> list[CodeType]:
    """The code that a worker runs which is made, left alone and ended. Raises RehearsalFailed."""
    _live_often(_FIRST_LIVES, _ThrowawayWorker)
    return code_run_by(lambda: _live_often(1, _IdleWorker))


def _live_often(times: int, make: type[Worker]) -> None:
    for _ in range(times):
        with tempfile.TemporaryDirectory(prefix="bulkhead-warm-") as folder:
            _live(Path(folder), make)


def _live(folder: Path, make: type[Worker]) -> None:
    spec = WorkerSpec(
        workspace_id=WorkspaceId("rehearsal"),
        generation=Generation(1),
        path=str(folder),
        data_dir=str(folder / ".bulkhead"),
        endpoint="",
        token="rehearsal",
        log_path="",
        env={"HOME": str(folder)},
    )
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        code = run_worker(spec_from_bytes(spec_to_bytes(spec)), make=make)
    if code != EXIT_CLEAN:
        raise WarmUpFailed(f"cannot serve: a rehearsed worker ended with {code}; its log:\n{log.getvalue()}")


class _NoSocket(DealerSocket):
    """A socket that leads nowhere; it notes what the supervisor would wait for."""

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


class _ThrowawayLink(WorkerLink):
    """A link that plays the supervisor as well: it gives one prompt, and asks the worker to end after its run."""

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
        self._end()

    def _end(self) -> None:
        self._receive(Shutdown(epoch=Epoch(1), reason="rehearsed", drain_s=5.0, flush_s=5.0))

    async def _ask(self, operation: str, shape: object = None, **args: str) -> Answer:
        body = b"" if shape is None else msgspec.json.encode(shape)
        call_id = operation
        self._receive(Call(call_id=call_id, epoch=Epoch(1), operation=operation, args=args, body=body, within_s=5.0))
        return await self._answers.get()

    def _receive(self, message: ToWorker) -> None:
        self.on_frames([encode(message, max_bytes=self._limits.message_max_bytes)])


class _ThrowawayWorker(Worker):
    link_class = _ThrowawayLink


class _IdleLink(_ThrowawayLink):
    """The same without a prompt: the workspace is shown once and left alone."""

    async def _play(self) -> None:
        await self._ask("workspace.describe")
        self._end()


class _IdleWorker(Worker):
    link_class = _IdleLink
