"""Run throwaway workers in a template, with everything of a worker but the socket of the link.

The socket is missing because a ZeroMQ context must not exist before a fork. The link plays the supervisor: it sends the
calls of a client that opens a workspace and sends one prompt, and ends the worker.
"""

import asyncio
import contextlib
import io
import tempfile
from contextvars import ContextVar
from pathlib import Path

import msgspec

from protocol.codec import decode_to_supervisor, encode
from protocol.exit_codes import EXIT_CLEAN
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.messages import Answer, Call, EventBatch, Ready, Shutdown, ToWorker, Welcome
from protocol.worker_spec import WorkerSpec, spec_from_bytes, spec_to_bytes
from worker.app import Worker
from worker.link.dealer_socket import DealerSocket
from worker.link.worker_link import WorkerLink
from worker.main import run_worker
from worker.zygote.warm_provider import WarmProvider

_PROVIDER: ContextVar[WarmProvider | None] = ContextVar("provider", default=None)
"""The provider of the worker that runs now."""


class WarmUpFailed(Exception):
    """A worker of this code cannot run; the message holds its log."""


def run_throwaway(make: type[Worker], provider: str = "") -> None:
    """Run a worker in a temporary directory to its end. Raises WarmUpFailed.

    `provider` is the type of the provider that answers its prompt; "" stands for the scripted model.
    """
    with tempfile.TemporaryDirectory(prefix="bulkhead-warm-") as folder, contextlib.ExitStack() as stack:
        if provider:
            server = WarmProvider()
            stack.callback(server.close)
            stack.callback(_PROVIDER.reset, _PROVIDER.set(server))
            (Path(folder) / "bulkhead.json").write_text(server.configuration(provider))
        _run(Path(folder), make)


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
        if (provider := _PROVIDER.get()) is not None:
            await provider.start()
        await super().start()
        self.on_connected()
        self._receive(Welcome(epoch=Epoch(1), credit=self._limits.event_window))

    async def ready(self, message: Ready) -> None:
        await super().ready(message)
        self._tasks.start(self._play(), "play")

    async def _play(self) -> None:
        await self._ask("agent.init", {"interactive": False})
        created = await self._ask("session.create", {"title": ""})
        session_id = msgspec.json.decode(created.body)["id"]
        prompt = '/say hello\n/tool view {"file_path": ".bulkhead/.gitignore"}'
        await self._ask("prompt.submit", {"session_id": session_id, "prompt": prompt, "run_id": ""})
        await self._run_ended.wait()
        run = msgspec.json.decode((await self._ask("run.list")).body)[0]
        if run["outcome"] != "completed":
            raise WarmUpFailed(f"cannot rely on the warm-up: the run of a throwaway worker ended with {run}")
        for operation in ("workspace.describe", "agent.info", "session.messages"):
            await self._ask(operation, sid=session_id)
        self.finish()

    def finish(self) -> None:
        """Ask the worker to end."""
        if (provider := _PROVIDER.get()) is not None:
            provider.close()
        self._receive(Shutdown(epoch=Epoch(1), reason="warm-up is done", drain_s=5.0, flush_s=5.0))

    async def _ask(self, operation: str, shape: object = None, **args: str) -> Answer:
        body = b"" if shape is None else msgspec.json.encode(shape)
        call_id = operation
        self._receive(Call(call_id=call_id, epoch=Epoch(1), operation=operation, args=args, body=body, within_s=5.0))
        return await self._answers.get()

    def _receive(self, message: ToWorker) -> None:
        self.on_frames([encode(message, max_bytes=self._limits.message_max_bytes)])


class WorkerWithRun(Worker):
    """A worker that gets one prompt, and is ended after its run."""

    link_class = _LinkWithRun


class IdleLink(_LinkWithRun):
    """The same without a prompt: asks for the workspace once and ends the worker."""

    async def _play(self) -> None:
        await self._ask("workspace.describe")
        self.finish()


class IdleWorker(Worker):
    """A worker that is started, asked for its workspace, and ended."""

    link_class = IdleLink
