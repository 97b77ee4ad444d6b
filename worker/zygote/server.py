"""Fork workers on request from a process that has everything imported; report their exits to every supervisor.

One thread, no event loop, no lock, no socket but its own. It binds its socket at once, so supervisors may connect
while it still imports; its hello says that it is ready. As the parent of the workers, and by PR_SET_CHILD_SUBREAPER of
everything that they leave behind, it alone can read exit codes.

On SIGTERM every worker gets SIGTERM and drains by itself. The zygote waits for them, kills those that overrun their
budget, and exits with 0.
"""

import argparse
import contextlib
import errno
import os
import resource
import selectors
import signal
import socket
import stat
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
import setproctitle

from protocol.base.process_identity import read_stat
from protocol.exit_codes import EXIT_USAGE
from protocol.limits import DEFAULT_LIMITS, Limits, limits_from_json
from protocol.version import BULKHEAD_VERSION
from protocol.worker_spec import spec_from_bytes
from protocol.zygote import (
    PACKET_MAX_BYTES,
    Exited,
    Forget,
    Fork,
    Forked,
    ForkedChild,
    FromZygote,
    Quit,
    ZygoteHello,
    decode_to_zygote,
    encode_packet,
)
from worker.process_setup import become_subreaper, become_worker
from worker.zygote.fork_hooks import renew_random
from worker.zygote.huge_pages import collapse, huge_ranges
from worker.zygote.preload import preload

IDLE_MAX_S = 120.0
"""Exit after this time without a connection and without children, unless started with --stay."""
EXITS_KEPT = 256
"""How many unacknowledged exits are kept; the oldest are forgotten first."""
HELLO_CHILDREN_MAX = 512
"""How many children a hello lists, the dead first. So many always fit into one packet."""
_BLOCKED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that the zygote handles, and that a worker must not receive with the zygote's handlers."""


@dataclass(slots=True)
class _Child:
    """A forked worker. `status` is that of wait(2), None while it lives."""

    start_ticks: int
    status: int | None = None
    max_rss_bytes: int = 0


class Zygote:
    """Serves fork requests on one socket until it is not needed."""

    def __init__(self, listener: socket.socket, *, stay: bool, limits: Limits) -> None:
        self._listener = listener
        self._stay = stay
        self._limits = limits
        self._connections: set[socket.socket] = set()
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._kill_at: float | None = None  # after a SIGTERM: when to kill the workers that still live
        self._is_quitting = False  # end as soon as no child lives, unless a fork is requested before
        self._idle_since = time.monotonic()
        self._small_pages = deque(huge_ranges(Path("/proc/self/maps").read_text()))  # not in huge pages yet

    def serve(self) -> int:
        """Serve until the zygote is not needed; return the exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _handle_nothing)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the supervisor
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        while not self._is_over():
            events = self._selector.select(timeout=0.0 if self._may_collapse() else 1.0)
            if not events and self._may_collapse():
                collapse(self._small_pages.popleft())
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
            self._reap()
            self._kill_overdue()
        return 0

    def _is_over(self) -> bool:
        living = self._living()
        if self._kill_at is not None or self._is_quitting:
            return not living
        if living or self._connections or self._stay:
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since > IDLE_MAX_S

    def _may_collapse(self) -> bool:
        """Return whether no worker lives: pages that it shares would become private by the move to huge pages."""
        return bool(self._small_pages) and not self._living()

    def _living(self) -> list[int]:
        return [pid for pid, child in self._children.items() if child.status is None]

    # --- ending -----------------------------------------------------------------------------------------------------

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._kill_at is not None:
            return
        limits = self._limits
        self._kill_at = time.monotonic() + limits.drain_s + limits.flush_s + limits.exit_s
        for pid in self._living():
            _kill(pid, signal.SIGTERM)

    def _kill_overdue(self) -> None:
        """Kill workers that outlived the budget of the shutdown."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            for pid in self._living():
                _kill(pid, signal.SIGKILL)

    # --- supervisors ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it disconnected again, or no descriptor is left; the next one may succeed
        connection.setblocking(False)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._reap()
        dead_first = sorted(self._children, key=lambda pid: self._children[pid].status is None)
        children = [self._described(pid) for pid in dead_first[:HELLO_CHILDREN_MAX]]
        self._send(connection, ZygoteHello(pid=os.getpid(), code_version=BULKHEAD_VERSION, children=children))

    def _read(self, connection: socket.socket) -> None:
        try:
            data, descriptors = _receive(connection)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            if not data:
                self._drop(connection)
                return
            match decode_to_zygote(data):
                case Fork(request_id=request_id):
                    self._send(connection, self._fork(request_id, descriptors))
                case Forget(pid=pid, start_ticks=start_ticks):
                    child = self._children.get(pid)
                    if child is not None and child.start_ticks == start_ticks and child.status is not None:
                        del self._children[pid]
                case Quit():
                    self._is_quitting = True
        except msgspec.MsgspecError as error:
            print(f"dropped a packet that cannot be read: {error}", file=sys.stderr, flush=True)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _send(self, connection: socket.socket, packet: FromZygote) -> None:
        try:
            connection.send(encode_packet(packet))
        except BlockingIOError:
            # A supervisor that does not read is disconnected; the hello of the next connection repeats everything.
            self._drop(connection)
        except OSError:
            pass  # it has disconnected; a Quit that it sent before is read first, and then the end of the connection

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._selector.unregister(connection)
            connection.close()

    # --- children ---------------------------------------------------------------------------------------------------

    def _fork(self, request_id: str, descriptors: list[int]) -> Forked:
        if self._kill_at is not None:
            return Forked(request_id=request_id, error="cannot fork: the zygote is ending")
        if len(descriptors) != 1:
            return Forked(request_id=request_id, error="cannot fork: the request carries no spec")
        self._is_quitting = False
        # Blocked until both sides know which they are: the child would handle a SIGTERM in between as the zygote, and
        # the zygote's would miss a child that is not in the list yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            pid = os.fork()
            if pid == 0:
                self._run_worker(descriptors[0])
            forked = read_stat(pid)
            assert forked is not None, "a child that is not reaped is in /proc, also as a zombie"
            start_ticks = forked.start_ticks
            self._children[pid] = _Child(start_ticks)
        except OSError as error:
            return Forked(request_id=request_id, error=f"cannot fork: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        return Forked(request_id=request_id, pid=pid, start_ticks=start_ticks)

    def _run_worker(self, spec_descriptor: int) -> NoReturn:
        """Be a worker from here on."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            renew_random()
            for number in _BLOCKED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            os.setsid()
            self._selector.close()
            for connection in self._connections:
                connection.close()
            self._listener.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            with os.fdopen(spec_descriptor, "rb") as file:
                file.seek(0)
                spec = spec_from_bytes(file.read())
            code = become_worker(spec)
        except msgspec.MsgspecError as error:
            print(f"cannot read the worker's spec: {error}", file=sys.stderr)
            code = EXIT_USAGE
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is None or child.status is not None:
                continue  # an orphan of a dead worker, perhaps with that worker's pid; it only had to be reaped
            child.status = status
            child.max_rss_bytes = usage.ru_maxrss * 1024
            self._forget_oldest()
            exited = Exited(child=self._described(pid))
            for connection in list(self._connections):
                self._send(connection, exited)

    def _described(self, pid: int) -> ForkedChild:
        child = self._children[pid]
        return ForkedChild(
            pid=pid, start_ticks=child.start_ticks, status=child.status, max_rss_bytes=child.max_rss_bytes
        )

    def _forget_oldest(self) -> None:
        dead = [pid for pid, child in self._children.items() if child.status is not None]
        for pid in dead[:-EXITS_KEPT]:
            del self._children[pid]


def _handle_nothing(number: int, frame: FrameType | None) -> None:
    """Exist: the wake-up descriptor is written only for signals with a Python handler."""


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors. Raises OSError."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    except ConnectionResetError:
        # The peer closed with unread data; the kernel reports that first, and then what the peer had sent before.
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    return data, descriptors


def _kill(pid: int, number: signal.Signals) -> None:
    # No race with a reused pid: only this process reaps its children, and this one was not reaped.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def bind(path: str) -> socket.socket:
    """Listen on `path`; a stale socket is replaced. Raises OSError, with EADDRINUSE when another zygote listens."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(errno.EEXIST, f"cannot listen on {path}: it is not a socket; remove it") from None
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {path}: another zygote does")
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def notify_ready() -> None:
    """Notify a service manager, if there is one, that forks are served from now on."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(b"READY=1\nSTATUS=forking workers on request")


def main() -> int:
    """Run a zygote; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.zygote", description="Parent of Bulkhead's workers.")
    parser.add_argument("--socket", required=True, help="where supervisors connect")
    parser.add_argument("--stay", action="store_true", help="never exit for want of a supervisor (a service unit)")
    parser.add_argument("--title-room", default="", help="reserves space for the process titles of workers; not read")
    options = parser.parse_args()
    try:
        limits = limits_from_json(os.environ.get("BULKHEAD_LIMITS") or b"{}")
    except msgspec.MsgspecError:
        limits = DEFAULT_LIMITS  # the supervisor reports what is wrong with them
    become_subreaper()
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else soft, hard))
    try:
        listener = bind(options.socket)
    except OSError as error:
        print(f"{error}", file=sys.stderr)
        return EXIT_USAGE
    setproctitle.setproctitle(f"bulkhead zygote {options.socket}")
    preload()
    notify_ready()
    print("zygote ready", flush=True)
    return Zygote(listener, stay=options.stay, limits=limits).serve()
