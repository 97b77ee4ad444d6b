"""The pre-imported process: forks workers on request and reports their exits to any supervisor that connects.

One thread, no event loop, no lock, no socket but its own. It binds its socket at once, so supervisors may connect
while it still imports; the hello tells them that it is ready. It is the parent, and by PR_SET_CHILD_SUBREAPER the
foster parent, of everything that workers leave behind, so it alone can read exit codes.

SIGTERM: every worker gets SIGTERM and drains by itself; the zygote waits for them, kills what overruns, exits 0.
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

ALONE_S = 120.0
"""Without a connection and without children for so long, nobody needs this zygote (unless told to stay)."""
EXITS_KEPT = 256
"""Exits that nobody has acknowledged are kept up to this number, oldest forgotten first."""
CHILDREN_TOLD = 512
"""A hello names so many children at most, the dead first: then it surely fits into one packet."""
_HELD_BACK = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that the zygote handles and a worker must not see with the zygote's handlers."""


@dataclass(slots=True)
class _Known:
    start_ticks: int
    status: int | None = None
    max_rss_bytes: int = 0


class Zygote:
    """The parent of workers."""

    def __init__(self, listener: socket.socket, *, stay: bool, limits: Limits) -> None:
        self._listener = listener
        self._stay = stay
        self._limits = limits
        self._connections: set[socket.socket] = set()
        self._children: dict[int, _Known] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ending_at: float | None = None  # SIGTERM came; when patience ends
        self._quit = False  # end as soon as no child lives, unless somebody wants one before
        self._alone_since = time.monotonic()
        self._small = deque(huge_ranges(Path("/proc/self/maps").read_text()))  # memory not in huge pages yet

    def serve(self) -> int:
        """Until nobody needs us; returns the exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C in a terminal is the supervisor's to handle
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        while not self._is_over():
            events = self._selector.select(timeout=0.0 if self._may_gather() else 1.0)
            if not events and self._may_gather():
                collapse(self._small.popleft())
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
            self._reap()
            self._press()
        return 0

    def _is_over(self) -> bool:
        living = self._living()
        if self._ending_at is not None or self._quit:
            return not living
        if living or self._connections or self._stay:
            self._alone_since = time.monotonic()
        return time.monotonic() - self._alone_since > ALONE_S

    def _may_gather(self) -> bool:
        """While nobody wants anything. Pages that a worker shares would become its own by that."""
        return bool(self._small) and not self._living()

    def _living(self) -> list[int]:
        return [pid for pid, known in self._children.items() if known.status is None]

    # --- ending -----------------------------------------------------------------------------------------------------

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._ending_at is not None:
            return
        limits = self._limits
        self._ending_at = time.monotonic() + limits.drain_s + limits.flush_s + limits.exit_s
        for pid in self._living():
            _kill(pid, signal.SIGTERM)

    def _press(self) -> None:
        """After the budget of an orderly end: SIGKILL."""
        if self._ending_at is not None and time.monotonic() > self._ending_at:
            for pid in self._living():
                _kill(pid, signal.SIGKILL)

    # --- supervisors ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it left again, or we are out of descriptors; the next one may succeed
        connection.setblocking(False)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._reap()
        dead_first = sorted(self._children, key=lambda pid: self._children[pid].status is None)
        children = [self._child(pid) for pid in dead_first[:CHILDREN_TOLD]]
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
                    known = self._children.get(pid)
                    if known is not None and known.start_ticks == start_ticks and known.status is not None:
                        del self._children[pid]
                case Quit():
                    self._quit = True
        except msgspec.MsgspecError as error:
            print(f"dropped a packet that is none of ours: {error}", file=sys.stderr, flush=True)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _send(self, connection: socket.socket, packet: FromZygote) -> None:
        try:
            connection.send(encode_packet(packet))
        except BlockingIOError:
            # A supervisor that reads nothing gets no more; it learns all of it when it connects again.
            self._drop(connection)
        except OSError:
            pass  # it has left; what it said before (a Quit) is still to be read, and then its end

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._selector.unregister(connection)
            connection.close()

    # --- children ---------------------------------------------------------------------------------------------------

    def _fork(self, request_id: str, descriptors: list[int]) -> Forked:
        if self._ending_at is not None:
            return Forked(request_id=request_id, error="cannot fork: the zygote is ending")
        if len(descriptors) != 1:
            return Forked(request_id=request_id, error="cannot fork: the request carries no spec")
        self._quit = False  # somebody needs us again
        # Held back until both sides know who they are: a SIGTERM in between would be handled by the child as if it
        # were the zygote, or miss a child that is not in the list yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(descriptors[0])
            child = read_stat(pid)
            assert child is not None, "a child that is not reaped is in /proc, also as a zombie"
            start_ticks = child.start_ticks
            self._children[pid] = _Known(start_ticks)
        except OSError as error:
            return Forked(request_id=request_id, error=f"cannot fork: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        return Forked(request_id=request_id, pid=pid, start_ticks=start_ticks)

    def _be_child(self, spec_descriptor: int) -> None:
        """Never returns: this process is a worker from here on."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            renew_random()
            for number in _HELD_BACK:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
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
            known = self._children.get(pid)
            if known is None or known.status is not None:
                continue  # an orphan of a dead worker, perhaps with a dead worker's pid: it only had to be reaped
            known.status = status
            known.max_rss_bytes = usage.ru_maxrss * 1024
            self._forget_oldest()
            exited = Exited(child=self._child(pid))
            for connection in list(self._connections):
                self._send(connection, exited)

    def _child(self, pid: int) -> ForkedChild:
        known = self._children[pid]
        return ForkedChild(
            pid=pid, start_ticks=known.start_ticks, status=known.status, max_rss_bytes=known.max_rss_bytes
        )

    def _forget_oldest(self) -> None:
        dead = [pid for pid, known in self._children.items() if known.status is not None]
        for pid in dead[:-EXITS_KEPT]:
            del self._children[pid]


def _note(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor does the work; a handler must exist for it to be written."""


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors. Raises OSError."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    except ConnectionResetError:
        # The peer closed with something unread; the kernel says so first, and what it had sent before comes after.
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    return data, descriptors


def _kill(pid: int, number: signal.Signals) -> None:
    # No race with a reused pid: only we reap our children, and this one was not reaped.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def bind(path: str) -> socket.socket:
    """Listen on `path`, replacing a socket that nobody listens on. Raises OSError (EADDRINUSE) when somebody does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(errno.EEXIST, f"cannot listen on {path}: it is no socket; remove it") from None
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
    """Tell a service manager, if there is one, that forks are served from now on."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(b"READY=1\nSTATUS=forking workers on request")


def main() -> int:
    """Run a zygote; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.zygote", description="Parent of Bulkhead's workers.")
    parser.add_argument("--socket", required=True, help="where supervisors connect")
    parser.add_argument("--stay", action="store_true", help="do not leave when nobody is connected (a service unit)")
    parser.add_argument("--title-room", default="", help="room for the process titles of workers; not read")
    options = parser.parse_args()
    try:
        limits = limits_from_json(os.environ.get("BULKHEAD_LIMITS") or b"{}")
    except msgspec.MsgspecError:
        limits = DEFAULT_LIMITS  # the supervisor says what is wrong with them
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
