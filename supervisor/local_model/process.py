"""Feed facts to the lifecycle of the local model's process, and perform its effects.

The supervisor holds the listening socket for as long as it lives; the process inherits it and accepts the connections.
Without a process the supervisor watches the socket: the first connection starts one, and waits in the backlog until
then. A second socket, the control socket, carries `ready` and heartbeats to the supervisor; its end tells the process
that its supervisor has exited.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from protocol.base.atomic_file import replace_file
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.process_identity import ProcessHandle, boot_id, start_ticks
from protocol.base.tasks import TaskOwner
from protocol.base.timer import Timer
from protocol.limits import Limits
from protocol.secrets import is_secret_name
from supervisor.local_model.lifecycle import (
    Effect,
    Kill,
    LocalModelLifecycle,
    LocalModelState,
    Refuse,
    Spawn,
    WakeAt,
    WatchListener,
)

COMMAND = (sys.executable, "-P", "-m", "supervisor.local_model.server")
BACKLOG = 64
_REFUSE_S = 2.0
_TAIL_BYTES = 2048


class _Record(msgspec.Struct, frozen=True):
    """Identity of a running process, stored on disk for the next supervisor."""

    pid: int
    start_ticks: int
    boot_id: str


class LocalModel:
    """Runs the process that serves the local model to all workers of this supervisor."""

    def __init__(
        self,
        *,
        runtime_dir: Path,
        command: Sequence[str],
        env: Mapping[str, str],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`command` is started with the options of `server.py`; an empty one disables the local model. The process
        gets `env` without variables whose names look like secrets."""
        self._socket_path = runtime_dir / "model.sock"
        self._inner_path = runtime_dir / "model-in.sock"
        self._record_path = runtime_dir / "local-model.json"
        self._log_path = runtime_dir / "local-model.log"
        self._command = tuple(command)
        self._env = {name: value for name, value in env.items() if not is_secret_name(name)}
        self._limits = limits
        self._clock = clock
        self._log = log
        self._lifecycle = LocalModelLifecycle(limits)
        self._tasks = TaskOwner("local_model", log)
        self._listener: socket.socket | None = None
        self._control: socket.socket | None = None
        self._process: ProcessHandle | None = None
        self._timer = Timer(clock, self._elapsed)
        self._beat_check: asyncio.TimerHandle | None = None
        self._last_beat = 0.0
        self._is_over = asyncio.Event()

    @property
    def address(self) -> str:
        """Return the path of the socket for workers; "" when the local model is disabled."""
        return str(self._socket_path) if self._command else ""

    def open(self) -> None:
        """Listen, and watch the process of the previous supervisor if it is still running. Raises OSError."""
        self._socket_path.unlink(missing_ok=True)
        if self._command:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._listener = listener
            listener.bind(str(self._socket_path))
            self._socket_path.chmod(0o600)
            listener.listen(BACKLOG)
        previous = self._previous_process()
        if previous is not None:
            self._log.info("local model of a former supervisor", extra=fields(pid=previous.pid))
            self._process = previous
            self._perform(self._lifecycle.previous_found(self._clock.now()))
            self._tasks.start(self._watch_exit(previous, None), "previous")
        else:
            self._perform([WatchListener()])

    async def close(self, *, end: bool) -> None:
        """Stop managing the process. With `end` it is killed; else it finishes open requests and exits by itself."""
        self._unwatch_listener()
        if end:
            self._perform(self._lifecycle.close(self._clock.now()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * self._limits.kill_deadline_s):
                    while self._lifecycle.state is not LocalModelState.OVER:
                        await self._is_over.wait()
        self._close_control()
        await self._tasks.close()
        self._unwatch_listener()  # a task may have watched it again
        self._timer.cancel()
        if self._beat_check is not None:
            self._beat_check.cancel()
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if end:
                self._socket_path.unlink(missing_ok=True)

    # --- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    self._unwatch_listener()
                    self._spawn()
                case Kill(reason):
                    self._log.warning("local model killed", extra=fields(reason=reason))
                    if self._process is not None:
                        self._process.send(signal.SIGKILL)
                case WakeAt(at):
                    self._timer.set(at)
                case WatchListener():
                    self._watch_listener(self._requested)
                case Refuse(reason):
                    self._log.error("local model failed", extra=fields(reason=reason, log=self._log_path))
                    self._watch_listener(self._accept_and_refuse)
                case _:
                    assert_never(effect)
        if self._lifecycle.state is LocalModelState.OVER:
            self._is_over.set()

    def _elapsed(self) -> None:
        self._perform(self._lifecycle.elapsed(self._clock.now()))

    def _watch_listener(self, callback: Callable[[], None]) -> None:
        self._unwatch_listener()
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, callback)

    def _unwatch_listener(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)

    def _requested(self) -> None:
        self._perform(self._lifecycle.requested(self._clock.now()))

    # --- the process ------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        try:
            child, control = self._start()
        except OSError as error:
            self._perform(self._lifecycle.not_started(f"cannot start it: {error}", self._clock.now()))
            return
        ticks = start_ticks(child.pid) or 0
        handle = ProcessHandle.open(child.pid, ticks)
        if handle is None:  # already exited, or no descriptor left for its pidfd
            child.kill()
            child.wait()
            control.close()
            self._perform(self._lifecycle.not_started("cannot watch it", self._clock.now()))
            return
        self._write(_Record(child.pid, ticks, boot_id()))
        self._log.info("local model starting", extra=fields(pid=child.pid))
        self._control = control
        self._process = handle
        asyncio.get_running_loop().add_reader(control, self._read_control)
        self._tasks.start(self._watch_exit(handle, child), "watch exit")

    def _start(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        """Start a process; return it and this end of its control socket. Raises OSError."""
        assert self._listener is not None
        ours, theirs = socket.socketpair()
        limits = self._limits
        command = [
            *self._command,
            *("--listen-fd", str(self._listener.fileno()), "--control-fd", str(theirs.fileno())),
            *("--inner", str(self._inner_path), "--idle-s", str(limits.local_model_idle_s)),
            *("--beat-s", str(limits.heartbeat_interval_s)),
        ]
        ours.setblocking(False)
        with theirs:
            try:
                log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                try:
                    child = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=self._env,
                        cwd="/",
                        pass_fds=(self._listener.fileno(), theirs.fileno()),
                        start_new_session=True,
                    )
                finally:
                    os.close(log)
            except OSError:
                ours.close()
                raise
        return child, ours

    def _write(self, record: _Record) -> None:
        try:
            replace_file(self._record_path, msgspec.json.encode(record))
        except OSError as error:  # the process still notices the end of the supervisor by itself
            self._log.error("local model not recorded", extra=fields(error=error))

    def _previous_process(self) -> ProcessHandle | None:
        try:
            record = msgspec.json.decode(self._record_path.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError):
            return None
        if record.boot_id != boot_id():
            return None
        return ProcessHandle.open(record.pid, record.start_ticks)

    async def _watch_exit(self, handle: ProcessHandle, child: "subprocess.Popen[bytes] | None") -> None:
        """Wait for the end of the process, and report its cause to the lifecycle."""
        try:
            await handle.ended()
            code = child.wait() if child is not None else 0  # it has exited: this only reads its status
        except asyncio.CancelledError:
            if child is not None:
                child.returncode = 0  # suppresses Python's warning about a child that is still running
            raise
        self._close_control()
        handle.close()
        self._process = None
        self._record_path.unlink(missing_ok=True)
        self._inner_path.unlink(missing_ok=True)
        cause = "" if code == 0 else f"exit code {code}" if code > 0 else f"signal {-code}"
        tail = self._tail() if cause else ""
        self._log.info("local model ended", extra=fields(cause=cause or "left in order", tail=tail))
        self._perform(self._lifecycle.exited(cause, self._clock.now()))

    def _tail(self) -> str:
        with contextlib.suppress(OSError), open(self._log_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""

    # --- the control socket -----------------------------------------------------------------------------------------

    def _read_control(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_control()  # it is exiting, or hangs: then the heartbeat check will notice
            return
        self._last_beat = self._clock.now()
        if self._lifecycle.state is LocalModelState.STARTING and b"ready" in data:
            self._log.info("local model ready")
            self._perform(self._lifecycle.became_ready(self._clock.now()))
            self._check_beat()

    def _check_beat(self) -> None:
        """Report a missing heartbeat to the lifecycle, else check again later."""
        self._beat_check = None
        if self._lifecycle.state is not LocalModelState.SERVING:
            return
        if self._clock.now() - self._last_beat > self._limits.local_model_lost_s:
            self._perform(self._lifecycle.beat_lost(self._clock.now()))
            return
        interval_s = max(0.05, self._limits.local_model_lost_s / 4)
        self._beat_check = asyncio.get_running_loop().call_later(interval_s, self._check_beat)

    def _close_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _accept_and_refuse(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._tasks.start(self._refuse(connection), "refuse")

    async def _refuse(self, connection: socket.socket) -> None:
        """Answer one request with 503 and the reason."""
        text = f"cannot answer: the process of the local model failed ({self._lifecycle.reason}); see {self._log_path}"
        body = msgspec.json.encode({"error": {"message": text, "type": "server_error", "code": 503}})
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_REFUSE_S):
                await loop.sock_recv(connection, 65536)
                await loop.sock_sendall(connection, head.encode() + body)
                connection.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(connection, 65536):
                    pass
