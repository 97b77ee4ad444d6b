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
from worker.link import WorkerLink
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
        relocate_code([*idle, *code_run_by(lambda: _live_often(1, _Rehearsed))])
        _live_often(_LIVES, _Rehearsed)
        # So that the type cache holds what idle workers look up: each other look writes to it. Renamed in Python 3.13.
        (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()
        _live_often(_IDLE_LIVES, _Idle)
    finally:
        if stops is not None:
            os.environ[failpoints.ENVIRONMENT] = stops
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def code_of_idle_life() -> list[CodeType]:
    """The code that a worker runs which is made, left alone and ended. Raises RehearsalFailed."""
    _live_often(_FIRST_LIVES, _Rehearsed)
    return code_run_by(lambda: _live_often(1, _Idle))


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


class _NoSocket(WorkerLink):
    """A link that plays the supervisor as well: it gives one prompt, and asks to leave when that has ended."""

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._say_hello()
        self._receive(Welcome(epoch=Epoch(1), credit=self._limits.event_window))

    async def ready(self, message: Ready) -> None:
        await super().ready(message)
        self._tasks.start(self._play(), "rehearsal")

    async def _play(self) -> None:
        made = await self._ask("session.create", {"title": ""})
        session_id = msgspec.json.decode(made.body)["id"]
        prompt = '/say hello\n/tool view {"file_path": ".bulkhead/.gitignore"}'
        await self._ask("prompt.submit", {"session_id": session_id, "prompt": prompt, "run_id": ""})
        await self._ended.wait()
        for operation in ("workspace.describe", "agent.info", "session.messages"):
            await self._ask(operation, sid=session_id)
        self._leave()

    def _leave(self) -> None:
        self._receive(Shutdown(epoch=Epoch(1), reason="rehearsed", drain_s=5.0, flush_s=5.0))

    async def _ask(self, operation: str, shape: object = None, **args: str) -> Answer:
        body = b"" if shape is None else msgspec.json.encode(shape)
        call_id = operation
        self._receive(Call(call_id=call_id, epoch=Epoch(1), operation=operation, args=args, body=body, within_s=5.0))
        return await self._answers.get()

    def _receive(self, message: ToWorker) -> None:
        self._received([encode(message, max_bytes=self._limits.message_max_bytes)])

    def _offer(self, frame: bytes) -> bool:
        match decode_to_supervisor(frame):
            case Answer() as answer:
                self._answers.put_nowait(answer)
            case EventBatch(events=events) if any(event.kind == "run_complete" for event in events):
                self._ended.set()
        return True


class _Rehearsed(Worker):
    link_class = _NoSocket


class _NothingToDo(_NoSocket):
    """The same with no prompt: the workspace is shown once and left alone."""

    async def _play(self) -> None:
        await self._ask("workspace.describe")
        self._leave()


class _Idle(Worker):
    link_class = _NothingToDo
