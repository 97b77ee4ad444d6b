"""Keep a template that forks workers: start it, let it be replaced by a warm one, replace it when it dies or hangs.

Forks never wait for a warm-up: the template that is there serves until the warm one is ready. A warm-up that fails or
hangs is given up, and the first template stays.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from protocol.base.backoff import Backoff
from protocol.zygote import Fork, Forked
from worker.zygote import packets
from worker.zygote.template import BLOCKED

QUIET_S = 0.3
"""A warm-up begins after this time without a fork, and a fork interrupts it for this time."""
WARM_UP_MAX_S = 120.0
"""A warm-up that takes longer is given up."""
_LOOK_S = 10.0
"""Between two looks while nothing is due; a supervisor, a template or a signal wakes the zygote earlier."""
_RETRY = Backoff(first_s=1.0, max_s=60.0)


@dataclass(slots=True, eq=False)
class Template:
    """A template process; `pid` is 0 until it is ready where another template forked it."""

    channel: socket.socket
    pid: int = 0
    is_ready: bool = False
    is_warm: bool = False
    deadline: float = 0.0  # of the warm-up
    waiting: dict[str, float] = field(default_factory=dict)  # forks that were requested, with their deadlines


class TemplatePool:
    """The templates of one zygote. The owner polls their channels and calls `read` when one can be read."""

    def __init__(
        self,
        *,
        run_template: Callable[[socket.socket], NoReturn],
        watch: Callable[[Template], None],
        unwatch: Callable[[Template], None],
        on_forked: Callable[[Forked], None],
        fork_deadline_s: float,
    ) -> None:
        """`run_template` is called in a fork of this process. `on_forked` gets the answer to each accepted `fork`."""
        self._run_template = run_template
        self._watch = watch
        self._unwatch = unwatch
        self._on_forked = on_forked
        self._fork_deadline_s = fork_deadline_s
        self._current: Template | None = None
        self._next: Template | None = None
        self._may_warm = True
        self._was_ready = False
        self._failures = 0  # templates in a row that forked nothing
        self._start_at = 0.0
        self._quiet_since = time.monotonic()
        self._count = 0

    @property
    def was_ready(self) -> bool:
        """Return whether a template was ready at least once."""
        return self._was_ready

    @property
    def has_failed(self) -> bool:
        """Return whether the first template ended before it was ready, as the next one would."""
        return self._failures > 0 and not self._was_ready

    def start(self) -> None:
        """Fork a template from this process; it imports for some hundred milliseconds. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Templates keep these blocked: they must not handle signals as the zygote does.
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._run_template(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
            theirs.close()
        self._current = self._add(Template(ours, pid))

    def fork(self, spec_descriptor: int) -> str:
        """Request a worker; return the request's id. Raises OSError when there is no template."""
        template = self._current
        if template is None:
            raise OSError("there is no template")
        self._count += 1
        request_id = str(self._count)
        packets.send(template.channel, Fork(request_id=request_id), [spec_descriptor])
        template.waiting[request_id] = time.monotonic() + self._fork_deadline_s
        self._quiet_since = time.monotonic()
        if self._next is not None:
            with contextlib.suppress(OSError):
                packets.send(self._next.channel, packets.Pause(seconds=QUIET_S))
        return request_id

    def read(self, template: Template) -> None:
        """Take everything that a template has sent."""
        while template in (self._current, self._next):
            try:
                data, _ = packets.receive(template.channel)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended(template)
                return
            match packets.decode_from_template(data):
                case packets.TemplateReady(pid=pid):
                    template.pid, template.is_ready, self._was_ready = pid, True, True
                    self._quiet_since = time.monotonic()
                case Forked(request_id=packets.WARM, pid=pid):
                    if self._next is not None:
                        self._next.pid = pid
                case Forked() as forked:
                    self._failures = 0
                    if template.waiting.pop(forked.request_id, None) is not None:
                        self._on_forked(forked)

    def read_all(self) -> None:
        """Take everything that all templates have sent."""
        for template in (self._current, self._next):
            if template is not None:
                self.read(template)

    def reaped(self, pid: int) -> None:
        """Note that a child has ended, so that its pid is not used for a template any more."""
        for template in (self._current, self._next):
            if template is not None and template.pid == pid:
                template.pid = 0

    def look(self) -> float:
        """Do what is due; return after how many seconds to look again."""
        now = time.monotonic()
        current, following = self._current, self._next
        if current is None:
            if self._was_ready and now >= self._start_at:
                with contextlib.suppress(OSError):
                    self.start()
            return 0.1
        if any(deadline < now for deadline in current.waiting.values()):
            self._give_up_forks(current)
        elif following is not None and following.is_ready and not current.waiting:
            self._replace(current, following)
        elif following is not None and not following.is_ready and now > following.deadline:
            print("a warm-up took too long and was given up", file=sys.stderr, flush=True)
            _kill(following.pid)
            self._drop(following)
        elif following is None and current.is_ready and self._may_warm and not current.is_warm and not current.waiting:
            if now - self._quiet_since < QUIET_S:
                return self._quiet_since + QUIET_S - now
            self._make_warm(current, now)
        return 0.1 if current.waiting or self._next is not None else _LOOK_S

    def close(self, timeout_s: float) -> None:
        """End the templates: those that do not exit by themselves within `timeout_s` seconds are killed."""
        templates = [template for template in (self._current, self._next) if template is not None]
        for template in templates:
            template.channel.shutdown(socket.SHUT_WR)
            template.channel.settimeout(timeout_s)
            try:
                while packets.receive(template.channel)[0]:
                    pass
            except OSError:
                _kill(template.pid)
            template.channel.close()
            if template.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(template.pid, 0)

    def _add(self, template: Template) -> Template:
        template.channel.setblocking(False)
        self._watch(template)
        return template

    def _make_warm(self, current: Template, now: float) -> None:
        self._may_warm = False  # once; a template that has replaced a dead one begins with its own
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            packets.send(current.channel, packets.MakeWarm(), [theirs.fileno()])
        except OSError:
            ours.close()
            return
        finally:
            theirs.close()
        self._next = self._add(Template(ours, is_warm=True, deadline=now + WARM_UP_MAX_S))

    def _replace(self, current: Template, following: Template) -> None:
        """Let new workers come from the warm template; the former one exits when its channel closes."""
        self._drop(current)
        self._current, self._next = following, None
        print("zygote warm", flush=True)

    def _give_up_forks(self, template: Template) -> None:
        """Answer the forks that wait too long; a template that was ready hangs and is killed."""
        if template.is_ready:
            print("a template does not answer and was killed", file=sys.stderr, flush=True)
            _kill(template.pid)
            self._ended(template)
        else:
            self._refuse(template, "cannot fork: the imports take too long")

    def _ended(self, template: Template) -> None:
        self._drop(template)
        if template.is_warm and not template.is_ready:
            print("a warm-up failed; workers are forked without it", file=sys.stderr, flush=True)
        self._refuse(template, "cannot fork: the template died")
        if self._current is None:
            self._may_warm = True
            self._start_at = time.monotonic() + (_RETRY.delay_s(self._failures - 1) if self._failures else 0.0)
            self._failures += 1

    def _drop(self, template: Template) -> None:
        self._unwatch(template)
        template.channel.close()
        if template is self._current:
            self._current = None
        if template is self._next:
            self._next = None

    def _refuse(self, template: Template, error: str) -> None:
        waiting, template.waiting = template.waiting, {}
        for request_id in waiting:
            self._on_forked(Forked(request_id=request_id, error=error))


def _kill(pid: int) -> None:
    # No race with a reused pid: only the zygote reaps templates, and `reaped` clears the pid of one that it has.
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
