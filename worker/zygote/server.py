"""Start workers on request, by templates that have everything imported; report their exits to every supervisor.

One thread, no event loop, no lock. The zygote itself imports almost nothing. It binds its socket at once and accepts
supervisors when the first template is ready; its hello says so. By PR_SET_CHILD_SUBREAPER it is the parent of the
workers and of everything that they leave behind, so it alone can read exit codes.

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
from types import FrameType
from typing import NoReturn

import msgspec
import setproctitle

from protocol.exit_codes import EXIT_USAGE
from protocol.limits import DEFAULT_LIMITS, Limits, limits_from_json
from protocol.version import BULKHEAD_VERSION
from protocol.zygote import (
    Exited,
    Forget,
    Fork,
    Forked,
    FromZygote,
    Quit,
    ZygoteHello,
    decode_to_zygote,
    encode_packet,
)
from worker.process_setup import become_subreaper
from worker.zygote import packets
from worker.zygote.children import ChildTable
from worker.zygote.template import run_template
from worker.zygote.template_pool import Template, TemplatePool

IDLE_MAX_S = 120.0
"""Exit after this time without a connection and without children, unless started with --stay."""
_TEMPLATE_END_S = 2.0
_KILL_LOOK_S = 0.2
EXIT_NO_TEMPLATE = 1


class Zygote:
    """Serves fork requests on one socket until it is not needed."""

    def __init__(self, listener: socket.socket, *, stay: bool, limits: Limits) -> None:
        self._listener = listener
        self._stay = stay
        self._limits = limits
        self._connections: set[socket.socket] = set()
        self._children = ChildTable()
        self._forks: dict[str, tuple[socket.socket, str]] = {}  # requester and its request id, by that of the pool
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._templates = TemplatePool(
            run_template=self._be_template,
            watch=lambda template: self._watch(template.channel, template),
            unwatch=lambda template: self._unwatch(template.channel),
            on_forked=self._forked,
            fork_deadline_s=limits.fork_deadline_s / 2,
        )
        self._is_accepting = False
        self._kill_at: float | None = None  # after a SIGTERM: when to kill the workers that still live
        self._is_quitting = False  # end as soon as no child lives, unless a fork is requested before
        self._idle_since = time.monotonic()

    def serve(self) -> int:
        """Serve until the zygote is not needed; return the exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _handle_nothing)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the supervisor
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._templates.start()
        self._watch(self._wake_read)
        while not self._is_over():
            timeout_s = self._templates.look()
            if self._kill_at is not None:
                timeout_s = min(timeout_s, _KILL_LOOK_S)
            self._accept_when_ready()
            for key, _ in self._selector.select(timeout_s):
                if isinstance(key.data, Template):
                    self._templates.read(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
            self._reap()
            self._kill_overdue()
        has_failed = self._templates.has_failed
        self._templates.close(_TEMPLATE_END_S)
        return EXIT_NO_TEMPLATE if has_failed else 0

    def _watch(self, file: socket.socket | int, data: Template | None = None) -> None:
        self._selector.register(file, selectors.EVENT_READ, data)

    def _unwatch(self, file: socket.socket) -> None:
        self._selector.unregister(file)

    def _accept_when_ready(self) -> None:
        """Say hello from the first template on; until then supervisors wait in the backlog of the socket."""
        if self._templates.was_ready and not self._is_accepting:
            self._is_accepting = True
            self._watch(self._listener)
            notify_ready()
            print("zygote ready", flush=True)

    def _is_over(self) -> bool:
        living = self._children.living()
        if self._kill_at is not None or self._is_quitting or self._templates.has_failed:
            return not living and not self._forks
        if living or self._connections or self._stay:
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since > IDLE_MAX_S

    # --- ending -----------------------------------------------------------------------------------------------------

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._kill_at is not None:
            return
        limits = self._limits
        self._kill_at = time.monotonic() + limits.drain_s + limits.flush_s + limits.exit_s
        for pid in self._children.living():
            _kill(pid, signal.SIGTERM)

    def _kill_overdue(self) -> None:
        """Kill workers that outlived the budget of the shutdown."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            for pid in self._children.living():
                _kill(pid, signal.SIGKILL)

    # --- supervisors ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it disconnected again, or no descriptor is left; the next one may succeed
        connection.setblocking(False)
        self._connections.add(connection)
        self._watch(connection)
        self._reap()
        hello = ZygoteHello(pid=os.getpid(), code_version=BULKHEAD_VERSION, children=self._children.listed())
        self._send(connection, hello)

    def _read(self, connection: socket.socket) -> None:
        try:
            data, descriptors = packets.receive(connection)
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
                    self._fork(connection, request_id, descriptors)
                case Forget(pid=pid, start_ticks=start_ticks):
                    self._children.forget(pid, start_ticks)
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

    def _fork(self, connection: socket.socket, request_id: str, descriptors: list[int]) -> None:
        """Let a template fork a worker; `_forked` gets the answer."""
        try:
            if self._kill_at is not None:
                raise OSError("the zygote is ending")
            if len(descriptors) != 1:
                raise OSError("the request carries no spec")
            self._is_quitting = False
            self._forks[self._templates.fork(descriptors[0])] = connection, request_id
        except OSError as error:
            self._send(connection, Forked(request_id=request_id, error=f"cannot fork: {error}"))

    def _forked(self, forked: Forked) -> None:
        connection, request_id = self._forks.pop(forked.request_id)
        if forked.pid:
            self._children.add(forked.pid, forked.start_ticks)
            if self._kill_at is not None:
                _kill(forked.pid, signal.SIGTERM)
        if connection in self._connections:
            self._send(connection, msgspec.structs.replace(forked, request_id=request_id))

    def _be_template(self, channel: socket.socket) -> NoReturn:
        """Be a template from here on, without anything of the zygote."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for connection in self._connections:
            connection.close()
        self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        run_template(channel)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if not self._children.is_living(pid):
                self._templates.read_all()  # a new worker is reported before it can end, perhaps not read yet
            self._templates.reaped(pid)
            if not self._children.is_living(pid):
                continue  # a template, or an orphan of a dead worker, perhaps with that worker's pid
            exited = Exited(child=self._children.exited(pid, status, usage.ru_maxrss * 1024))
            for connection in list(self._connections):
                self._send(connection, exited)


def _handle_nothing(number: int, frame: FrameType | None) -> None:
    """Exist: the wake-up descriptor is written only for signals with a Python handler."""


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
    return Zygote(listener, stay=options.stay, limits=limits).serve()
