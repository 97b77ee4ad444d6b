"""Talk to the zygote over its socket: request forks, receive exits, replace a zygote that died or hangs.

Without a zygote starts are only slower: `ready` fails at once, the launcher starts workers as new processes, and the
next zygote is tried after a growing delay.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import struct
import subprocess
from pathlib import Path

import msgspec

from protocol.base.backoff import Backoff
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import Unavailable
from protocol.limits import Limits
from protocol.zygote import (
    PACKET_MAX_BYTES,
    Exited,
    Forget,
    Fork,
    Forked,
    ForkedChild,
    Quit,
    ToZygote,
    ZygoteHello,
    decode_from_zygote,
    encode_packet,
)
from supervisor.launch.zygote_process import spawn_zygote

_POLL_S = 0.01
_RETRY = Backoff(first_s=1.0, max_s=60.0)
"""After the second failure in a row; the first is followed by another try at once."""
_EXITS_KEPT = 1024
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


class ZygoteLink:
    """Connects one supervisor to the zygote of its runtime directory."""

    def __init__(
        self,
        *,
        socket_path: Path,
        log_path: Path,
        may_spawn: bool,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """`process` is a zygote that this process has started already, at `socket_path`."""
        self._socket_path = socket_path
        self._log_path = log_path
        self._may_spawn = may_spawn
        self._limits = limits
        self._clock = clock
        self._log = log
        self._tasks = TaskOwner("zygote", log)
        self._process = process
        self._connection: socket.socket | None = None
        self._hello: asyncio.Future[ZygoteHello] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._forks: dict[str, asyncio.Future[Forked]] = {}
        self._exits: dict[tuple[int, int], ForkedChild] = {}
        self._exit_waiters: dict[tuple[int, int], asyncio.Future[ForkedChild]] = {}
        self._closed = False
        self._failures = 0  # zygotes in a row that forked nothing
        self._not_before = 0.0  # when the next one may be tried
        self._hung_pid: int | None = None  # did not answer; used again when it says hello

    @property
    def pid(self) -> int | None:
        """Return the zygote's pid; None before its hello."""
        return self._hello.result().pid if self._is_warm and self._hello is not None else None

    @property
    def _is_warm(self) -> bool:
        return self._hello is not None and self._hello.done()

    def join(self) -> None:
        """Begin to connect, and start a zygote if there is none; does not wait."""
        if not self._closed and self._connection is None and (self._joining is None or self._joining.done()):
            self._joining = self._tasks.start(self._join(), "join")

    async def ready(self) -> None:
        """Wait until the zygote forks on request. Raises Unavailable when there is none now."""
        is_hung = self._connection is not None and _peer_pid(self._connection) == self._hung_pid
        if not self._is_warm and (is_hung or self._clock.now() < self._not_before):
            raise Unavailable("cannot fork a worker: the last zygote died or hung", code="worker_failed")
        self.join()
        try:
            async with asyncio.timeout(self._limits.zygote_ready_s):
                if self._joining is not None:
                    await asyncio.shield(self._joining)
                if self._hello is None:
                    raise Unavailable("cannot fork a worker: there is no zygote", code="worker_failed")
                await asyncio.shield(self._hello)
        except TimeoutError as error:
            self._end_hung()
            message = f"cannot fork a worker: no zygote within {self._limits.zygote_ready_s} s"
            raise Unavailable(message, code="worker_failed") from error

    async def fork(self, spec_descriptor: int) -> tuple[int, int]:
        """Fork a process; return its pid and start ticks. Raises Unavailable."""
        request_id = secrets.token_hex(8)
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._forks[request_id] = answer
        try:
            self._send(Fork(request_id=request_id), spec_descriptor)
            async with asyncio.timeout(self._limits.fork_deadline_s):
                forked = await answer
        except TimeoutError as error:
            self._end_hung()  # the next request gets another zygote (S15)
            raise Unavailable("cannot fork a worker: the zygote does not answer", code="worker_failed") from error
        finally:
            self._forks.pop(request_id, None)
        if forked.error:
            raise Unavailable(forked.error, code="worker_failed")
        return forked.pid, forked.start_ticks

    async def exit_of(self, pid: int, start_ticks: int, timeout_s: float) -> ForkedChild | None:
        """Return the exit of a child as the zygote saw it; None when it was not reported within `timeout_s` seconds."""
        key = (pid, start_ticks)
        if key not in self._exits:
            waiter = self._exit_waiters.setdefault(key, asyncio.get_running_loop().create_future())
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(waiter)
            except (TimeoutError, asyncio.CancelledError) as error:
                self._exit_waiters.pop(key, None)
                if isinstance(error, asyncio.CancelledError) and not waiter.cancelled():
                    raise
                return None
        child = self._exits.pop(key, None)
        with contextlib.suppress(Unavailable):
            self._send(Forget(pid=pid, start_ticks=start_ticks))
        return child

    async def close(self, *, end_zygote: bool) -> None:
        """Disconnect; with `end_zygote` also end the zygote that this or a previous supervisor started."""
        self._closed = True
        if end_zygote and self._may_spawn:
            with contextlib.suppress(Unavailable):
                self._send(Quit())
            if self._process is not None and not self._is_warm:
                self._process.terminate()  # still importing: it would not read the packet for seconds
        await self._tasks.close()
        self._drop()
        if end_zygote and self._process is not None:
            deadline = self._clock.now() + self._limits.kill_deadline_s / 2
            while self._process.poll() is None and self._clock.now() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        elif self._process is not None:
            self._process.returncode = 0  # it keeps running; no warning about that

    # --- joining ----------------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - self._clock.now()))
        # A zygote that this process starts is watched meanwhile; of another only the missing listener can be seen.
        timeout_s = self._limits.zygote_ready_s if self._may_spawn else self._limits.fork_deadline_s
        deadline = loop.time() + timeout_s
        is_ours = False
        while loop.time() < deadline:
            connection = self._connect()
            if connection is not None and self._may_spawn and _peer_pid(connection) == self._hung_pid:
                connection.close()  # it was killed and has not ended yet
            elif connection is not None:
                self._connection = connection
                self._hello = loop.create_future()
                loop.add_reader(connection, self._readable, connection)
                return
            if self._may_spawn and (self._process is None or self._process.poll() is not None):
                if is_ours:  # it died before it listened, and so would the next one
                    self._failed("it ended before it listened")
                    return
                try:
                    self._spawn()
                except OSError as error:
                    self._failed(str(error))
                    return
                is_ours = True
            await asyncio.sleep(_POLL_S)  # nothing signals that a socket file appears
        self._failed(f"no process listens on {self._socket_path}")

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self._socket_path))
        except OSError:
            connection.close()
            return None
        return connection

    def _spawn(self) -> None:
        self._process = spawn_zygote(self._socket_path, self._log_path)
        self._log.info("zygote started", extra=fields(pid=self._process.pid))

    # --- talking ----------------------------------------------------------------------------------------------------

    def _send(self, packet: ToZygote, descriptor: int | None = None) -> None:
        if self._connection is None:
            raise Unavailable("cannot reach the zygote", code="worker_failed")
        try:
            if descriptor is None:
                self._connection.send(encode_packet(packet))
            else:
                socket.send_fds(self._connection, [encode_packet(packet)], [descriptor])
        except OSError as error:
            self._lost(str(error))
            raise Unavailable(f"cannot reach the zygote: {error}", code="worker_failed") from error

    def _readable(self, connection: socket.socket) -> None:
        while connection is self._connection:
            try:
                data = connection.recv(PACKET_MAX_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error))
                return
            if not data:
                self._lost("it closed the connection")
                return
            try:
                packet = decode_from_zygote(data)
            except msgspec.MsgspecError as error:
                self._log.error("packet of the zygote not understood", extra=fields(error=error))
                continue
            match packet:
                case ZygoteHello():
                    for child in packet.children:
                        if child.status is not None:
                            self._exited(child)
                    if self._hello is not None and not self._hello.done():
                        self._hello.set_result(packet)
                    self._hung_pid = None
                case Forked():
                    self._failures = 0
                    answer = self._forks.get(packet.request_id)
                    if answer is not None and not answer.done():
                        answer.set_result(packet)
                case Exited():
                    self._exited(packet.child)

    def _exited(self, child: ForkedChild) -> None:
        key = (child.pid, child.start_ticks)
        self._exits[key] = child
        if len(self._exits) > _EXITS_KEPT:  # of children of other supervisors
            del self._exits[next(iter(self._exits))]
        waiter = self._exit_waiters.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(child)

    def _lost(self, why: str) -> None:
        """Drop the connection. The workers keep running; the next fork finds or starts another zygote."""
        if self._connection is None:
            return
        self._failed(why)
        self._drop()
        if not self._closed:
            self.join()

    def _failed(self, why: str) -> None:
        """Try the next one at once, and after each further failure later: no spin (S16)."""
        delay_s = _RETRY.delay_s(self._failures - 1) if self._failures else 0.0
        self._failures += 1
        self._not_before = self._clock.now() + delay_s
        details = fields(reason=why, log=self._log_path, failures=self._failures, again_in_s=delay_s)
        self._log.warning("zygote lost", extra=details)

    def _end_hung(self) -> None:
        """Drop a zygote that does not answer; kill it if it is ours, because it would keep the name of the socket."""
        pid = 0 if self._connection is None else _peer_pid(self._connection)
        if pid and self._may_spawn:
            # It is alive, or the connection would have ended: the pid cannot refer to another process.
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._hung_pid = pid or None
        self._lost("it does not answer")

    def _drop(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(Unavailable("cannot fork a worker: the zygote died", code="worker_failed"))
            self._hello.exception()  # retrieved, so that asyncio does not report it
        self._hello = None
        for answer in self._forks.values():
            if not answer.done():
                answer.set_result(Forked(request_id="", error="cannot fork a worker: the zygote died"))


def _peer_pid(connection: socket.socket) -> int:
    """Ask the kernel which process listens at the other end; 0 for one outside of this pid namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])
