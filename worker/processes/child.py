"""Children of tools: started in a session of their own, drained while they run, ended with their whole tree (T01-T04).

Every child started by this worker with a session of its own has to come from here: what is our child, has its own
session and is not known here is taken for a daemon that some tool left behind.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.process_identity import ProcessHandle, ProcessStat, read_stat
from protocol.base.tasks import TaskOwner, run_shielded
from protocol.limits import Limits
from worker.processes.environment import markers
from worker.processes.landlock import Ruleset
from worker.processes.output_buffer import OutputBuffer
from worker.processes.process_limit import ProcessLimit
from worker.processes.process_tree import ProcessTree, find_tree, send
from worker.processes.stdin_pipe import InputPipe
from worker.processes.thread_pool import ThreadPool

MARKER = "BULKHEAD_TOOL"
"""The environment variable by which the tree of one child is found again."""

PIPE_BYTES = 256 * 1024  # of one read, and of the pipe where the kernel lets us: a quarter of the wake-ups
KILL_ROUND_S = 0.2  # SIGKILL, wait so long, look again for what was forked meanwhile


class Pipe:
    """Our end of one pipe of a child; what comes goes to `feed`, and an empty piece at the end of the stream."""

    def __init__(self, fd: int, buffer: OutputBuffer, feed: Callable[[bytes], None] | None = None) -> None:
        self.buffer = buffer
        self._feed = feed
        self.ended = asyncio.Event()
        self._fd = fd
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # a user's pipes have a common limit; smaller ones only wake us more often
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, PIPE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            (self._feed or self.buffer.feed)(data)
        else:
            self.close()
            if self._feed is not None:
                self._feed(b"")

    def close(self) -> None:
        """Read no more."""
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set()


class ChildProcess:
    """One running child. Whoever started it awaits `end` in the end, in a `finally`."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        identity: ProcessStat,
        marker: str,
        pipes: Sequence[Pipe],
        of: "ChildProcesses",
        *,
        stdin: InputPipe | None = None,
        is_service: bool = False,
    ) -> None:
        self.pid = process.pid
        self.is_service = is_service
        self._stdin = stdin
        self.stdout = pipes[0].buffer
        self.stderr = pipes[1].buffer
        self._process = process
        self._identity = identity
        self._marker = marker
        self._pipes = pipes
        self._of = of
        self._pidfd = os.pidfd_open(process.pid)
        self._has_exited = asyncio.Event()
        self._is_ending = False
        self._is_gone = asyncio.Event()
        self._seen: set[int] = set()
        self.struck = ""
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    @property
    def is_ending(self) -> bool:
        """Has `end` been called? Then its exit is our doing."""
        return self._is_ending

    @property
    def unsent(self) -> int:
        """How many written bytes the child has not taken yet; what it never reads stays here."""
        return self._stdin.unsent if self._stdin is not None else 0

    def write(self, data: bytes) -> None:
        """Send `data` to the input of a child that was started with `stdin=True`; never blocks.

        Raises BrokenPipeError when the child has closed its input or has ended, and when it takes nothing while more
        than `limits.child_unsent_max_bytes` wait for it.
        """
        if self._stdin is None:
            raise BrokenPipeError("this child has no input")
        self._stdin.write(data)

    def finish_stdin(self) -> None:
        """No more input: the child reads the end of the stream behind what was written."""
        if self._stdin is not None:
            self._stdin.finish()

    def close_stdin(self) -> None:
        """No more input: the child reads the end of the stream. What it has not taken yet is dropped."""
        if self._stdin is not None:
            self._stdin.close()

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._has_exited.set()

    async def exited(self) -> int:
        """Wait for the child itself and return its exit code, minus the signal when one ended it."""
        await self._has_exited.wait()
        return self._exit_code()

    def _exit_code(self) -> int:
        # Looked at, not reaped: as long as it is a zombie, its pid, group and session belong to nobody else.
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return 0
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    async def exited_within(self, timeout_s: float) -> int | None:
        """The same, or None when it still runs after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.exited()
        except TimeoutError:
            return None

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nobody holds the output any more; False when somebody still does after `timeout_s` (T02)."""
        try:
            async with asyncio.timeout(timeout_s):
                for pipe in self._pipes:
                    await pipe.ended.wait()
        except TimeoutError:
            return False
        return True

    def kill_tree(self, why: str) -> None:
        """End it without grace, and what is with it at once (T05); `struck` says why to who waits for it."""
        if self._is_gone.is_set() or self.struck:
            return
        self.struck = why
        with contextlib.suppress(OSError):  # all of a group die in one moment: none of them can fork any more
            os.killpg(self.pid, signal.SIGKILL)
        self._of.tasks.start(self.end(), f"kill_tree {self.pid}")

    async def members(self) -> int:
        """How many processes it is now, itself included."""
        return 1 + len((await self._of.scan(self._identity, (MARKER, self._marker))).members)

    async def end(self) -> None:
        """End the child and all that came from it: SIGTERM, a grace, SIGKILL until nothing is left. Bounded.

        It has happened when this returns or raises, also for a caller that is being cancelled.
        """
        if self._is_gone.is_set() or self._of.has_ended:
            return
        limits = self._of.limits
        bound_s = limits.tool_term_grace_s + limits.kill_deadline_s + limits.settle_s
        work = self._is_gone.wait() if self._is_ending else self._end_tree()
        self._is_ending = True
        # A late end is logged by `_end_tree`; a TimeoutError must not take the place of the caller's cancel.
        with contextlib.suppress(TimeoutError):
            await run_shielded(work, owner=self._of.tasks, timeout_s=bound_s, name=f"end {self.pid}")

    async def _end_tree(self) -> None:
        limits = self._of.limits
        start = self._of.clock.now()
        try:
            if self.struck or await self._signal(signal.SIGTERM, timeout_s=limits.tool_term_grace_s):
                deadline = start + limits.tool_term_grace_s + limits.kill_deadline_s
                while left := await self._signal(signal.SIGKILL, timeout_s=KILL_ROUND_S):
                    if self._of.clock.now() > deadline:
                        pids = " ".join(str(pid) for pid in left)
                        self._of.log.error("processes of a tool do not end", extra=fields(pids=pids))
                        break
        finally:
            self._release()

    async def _signal(self, signum: signal.Signals, *, timeout_s: float) -> list[int]:
        """Signal all that lives of the tree and wait for its end. Returns the pids that had to be signalled."""
        targets = []
        if not self._has_exited.is_set():
            targets.append(self.pid)
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signum)  # the leader is not reaped, so the group cannot be a stranger's
        handles: list[ProcessHandle] = []
        for process in await self._others():
            self._seen.add(process.pid)  # zombies, too, and those that become one before the signal arrives
            if not process.is_dead and (handle := send(process, signum)) is not None:
                targets.append(process.pid)
                handles.append(handle)
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_exited.wait()
                for handle in handles:
                    await handle.ended()
        except TimeoutError:
            pass
        finally:
            for handle in handles:
                handle.close()
        return targets

    async def _others(self) -> list[ProcessStat]:
        tree = await self._of.scan(self._identity, (MARKER, self._marker))
        # Decided here on the loop, where children are started: a child that was born during the scan is known by now.
        orphans = [p for p in tree.orphans if self._of.may_end_orphan(self, p)]
        return [*tree.members, *orphans]

    def _release(self) -> None:
        self.close_stdin()
        for pipe in self._pipes:
            pipe.close()
        if not self._has_exited.is_set():
            asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.poll()  # reaps exactly this child
        self._of.forget(self)
        self._of.reap(self._seen)
        self._is_gone.set()


class ChildProcesses:
    """Starts the children of this worker's tools and knows those that live."""

    def __init__(self, *, limits: Limits, clock: Clock, log: logging.Logger, random: random.Random) -> None:
        self.limits = limits
        self.clock = clock
        self.log = log
        self.tasks = TaskOwner("children", log)
        # Scans have a thread of their own: file jobs that hang on a dead mount must not keep a child alive.
        self.threads = self._make_threads(max(1, limits.tool_threads - 1))
        self._scan_thread = self._make_threads(1)
        self._random = random
        self._children: dict[int, ChildProcess] = {}
        self._is_closed = False
        self.has_ended = False
        """Closed, with all that could be done to the children done."""
        self._crowd = ProcessLimit(self)

    @property
    def running(self) -> list[ChildProcess]:
        """The children of tools that live or are being ended, without the services."""
        return [child for child in self._children.values() if not child.is_service]

    @property
    def count(self) -> int:
        """How many children of tools live or are being ended; those that serve beside the runs do not count."""
        return len(self.running)

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        head_bytes: int | None = None,
        tail_bytes: int | None = None,
        stdin: bool = False,
        on_stdout: Callable[[bytes], None] | None = None,
        is_service: bool = False,
        ruleset: Ruleset | None = None,
    ) -> ChildProcess:
        """Start `argv` with descriptors 0, 1, 2 only, and exactly `env` and the markers. Raises OSError.

        The caller awaits `Child.end` in a `finally`. The byte counts bound what is kept of each output stream. With
        `stdin` the child takes what `Child.write` sends, otherwise its input is empty. `on_stdout` gets its output
        piece by piece, on the loop, and an empty piece at the end; nothing of it is kept then, and it must not raise.
        A service lives beside the runs: it is ended with the worker, but does not keep it awake (`count`).
        `ruleset` confines it (worker/tools/shell/sandbox.py).
        """
        if self._is_closed:
            raise OSError("this worker is closing")
        marker = self.new_marker()
        head = self.limits.tool_output_head_bytes if head_bytes is None else head_bytes
        tail = self.limits.tool_output_tail_bytes if tail_bytes is None else tail_bytes
        # A vfork and an exec take a millisecond; the loop starts children itself, so that it knows all of them.
        spawn = partial(_spawn, argv, {**env, **markers(os.environ), MARKER: marker}, cwd, stdin=stdin)
        process = ruleset.start(spawn) if ruleset is not None else spawn()
        pipes: list[Pipe] = []
        given: InputPipe | None = None
        try:
            identity = read_stat(process.pid)
            assert identity is not None, "a child that is not reaped is in /proc"
            for stream, feed in ((process.stdout, on_stdout), (process.stderr, None)):
                assert stream is not None
                pipes.append(Pipe(os.dup(stream.fileno()), OutputBuffer(head, tail), feed))
                stream.close()
            if process.stdin is not None:
                given = InputPipe(os.dup(process.stdin.fileno()), self.limits.child_unsent_max_bytes)
                process.stdin.close()
            child = ChildProcess(process, identity, marker, pipes, self, stdin=given, is_service=is_service)
        except BaseException:  # out of descriptors: it must not live on unknown
            process.kill()
            process.wait()
            for pipe in pipes:
                pipe.close()
            if given is not None:
                given.close()
            raise
        self._children[child.pid] = child
        if not is_service:
            self._crowd.check_soon()
        return child

    def new_marker(self) -> str:
        """A text that no other child or file of ours carries."""
        return f"{os.getpid()}-{self._random.getrandbits(64):016x}"

    async def scan(self, leader: ProcessStat, marker: tuple[str, str]) -> ProcessTree:
        """What came from `leader`, found in a thread."""
        keeper_pid = os.getpid()
        try:
            return await self._scan_thread.run(
                lambda _stop: find_tree(leader, marker, keeper_pid), timeout_s=self.limits.kill_deadline_s
            )
        except TimeoutError:
            self.log.error("scan for processes of a tool took too long", extra=fields(leader=leader.pid))
            return ProcessTree((), ())

    def may_end_orphan(self, ending: ChildProcess, process: ProcessStat) -> bool:
        """An orphan without a marker could be any tool's; it goes with the last tool that may have started it.

        Services live long and do not fork away, so they do not shield the orphans of a tool.
        """
        others = sum(child is not ending and not child.is_service for child in self._children.values())
        return others == 0 and process.pid not in self._children

    def reap(self, pids: Iterable[int]) -> None:
        """Collect the zombies among these that became our children: exactly these pids, never `waitpid(-1)`."""
        for pid in pids:
            if pid not in self._children:
                with contextlib.suppress(ChildProcessError):  # its parent was somebody else
                    os.waitpid(pid, os.WNOHANG)

    def forget(self, child: ChildProcess) -> None:
        """The child has ended and is reaped."""
        self._children.pop(child.pid, None)

    async def close(self) -> None:
        """End every child and the threads; no new one can be started from now on."""
        self._is_closed = True
        await asyncio.gather(*(child.end() for child in list(self._children.values())))
        await self.tasks.close(self.limits.settle_s)
        self.has_ended = True
        self.threads.close()
        self._scan_thread.close()

    def _make_threads(self, count: int) -> ThreadPool:
        return ThreadPool(count=count, settle_s=self.limits.settle_s, clock=self.clock, owner=self.tasks)


def _spawn(argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, stdin: bool) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        close_fds=True,
        start_new_session=True,
    )
