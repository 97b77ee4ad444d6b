"""Be a template: a process that has everything imported and forks workers when the zygote asks for one.

A template has one thread, no event loop and one socket, and keeps no list: a worker is forked twice, by a process in
between that reports it and exits at once. So every worker is a child of the zygote, which is a subreaper, and stays
that when its template exits or dies.

The first template forks as soon as its imports are done. When asked to, it forks another one, which warms itself up
while the first one continues to serve, and replaces it.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import msgspec
import setproctitle

from protocol.base.failpoints import failpoint_blocking
from protocol.base.process_identity import read_stat
from protocol.exit_codes import EXIT_USAGE
from protocol.worker_spec import spec_from_bytes
from protocol.zygote import Fork, Forked
from worker.process_setup import become_worker
from worker.zygote import packets

BLOCKED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals for the zygote. Templates block them for life and end with their socket; a worker unblocks them."""
_TITLE = "bulkhead template"


def run_template(channel: socket.socket) -> NoReturn:
    """Import what workers need, in a fresh fork of the zygote, and serve on `channel` until the zygote closes it."""

    def work() -> None:
        from worker.zygote.preload import preload

        setproctitle.setproctitle(_TITLE)
        preload()
        _serve(channel)

    _run(work)


def _serve(channel: socket.socket) -> None:
    packets.send(channel, packets.TemplateReady(pid=os.getpid()))
    while True:
        data, descriptors = packets.receive(channel)
        try:
            if not data:
                return
            match packets.decode_to_template(data):
                case Fork(request_id=request_id):
                    _fork_twice(channel, request_id, partial(_run_worker, channel, descriptors[0]))
                case packets.MakeWarm():
                    _fork_twice(channel, packets.WARM, partial(_run_warm, channel, descriptors[0]))
                case packets.Pause():
                    pass
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _fork_twice(channel: socket.socket, request_id: str, be_child: Callable[[], NoReturn]) -> None:
    """Fork a child of the zygote that continues as `be_child`, and report it or the error."""
    try:
        between = os.fork()
        if between == 0:
            _be_between(channel, request_id, be_child)
        os.waitpid(between, 0)
    except OSError as error:
        packets.send(channel, Forked(request_id=request_id, error=f"cannot fork: {error}"))


def _be_between(channel: socket.socket, request_id: str, be_child: Callable[[], NoReturn]) -> NoReturn:
    try:
        try:
            pid = os.fork()
            if pid == 0:
                be_child()
            child = read_stat(pid)
            assert child is not None, "a child that is not reaped is in /proc, also as a zombie"
            forked = Forked(request_id=request_id, pid=pid, start_ticks=child.start_ticks)
        except OSError as error:
            forked = Forked(request_id=request_id, error=f"cannot fork: {error}")
        packets.send(channel, forked)  # before the exit: the zygote knows the child before it can reap it
    finally:
        os._exit(0)


def _run_worker(channel: socket.socket, spec_descriptor: int) -> NoReturn:
    """Be a worker from here on."""
    code = 1
    try:
        for number in BLOCKED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        os.setsid()
        channel.close()
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
        _exit(code)


def _run_warm(former: socket.socket, descriptor: int) -> NoReturn:
    """Be the template that replaces the one on `former`: warm up, then serve on `descriptor`."""
    channel = socket.socket(fileno=descriptor)

    def work() -> None:
        former.close()
        failpoint_blocking("zygote.warm_up")
        from worker.zygote.warm_up import warm_up

        for _ in warm_up():
            _pause_if_asked(channel)
        _serve(channel)

    _run(work)


def _pause_if_asked(channel: socket.socket) -> None:
    """Wait as long as the zygote asks for. Exits the process when the zygote has closed the channel."""
    until = 0.0
    while select.select([channel], [], [], max(0.0, until - time.monotonic()))[0]:
        data, descriptors = packets.receive(channel)
        for descriptor in descriptors:
            os.close(descriptor)
        if not data:
            _exit(0)
        match packets.decode_to_template(data):
            case packets.Pause(seconds=seconds):
                until = time.monotonic() + seconds


def _run(work: Callable[[], None]) -> NoReturn:
    """Run a template; its exit is the answer to any error, which the zygote notices by the end of the channel."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(code)


def _exit(code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
