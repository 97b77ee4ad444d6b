"""Start the commands of tools in sessions of their own, read their output, end them with their whole tree (T01-T04).

Every child of this worker with a session of its own has to be started here: any other is taken for a daemon that some
tool left behind.
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
"""The environment variable that marks the process tree of one child."""

PIPE_BYTES = 256 * 1024  # of one read, and of the pipe where the kernel allows it: a quarter of the wake-ups
KILL_ROUND_S = 0.2  # between two scans for processes that were forked meanwhile


class Pipe:
    """Reads one output of a child. Each piece goes to `feed` or to the buffer; `feed` gets b"" at the end."""

    def __init__(self, fd: int, buffer: OutputBuffer, feed: Callable[[bytes], None] | None = None) -> None:
        self.buffer = buffer
        self._feed = feed
        self.ended = asyncio.Event()
        self._fd = fd
        os.set_blocking(fd, False)
        with contextlib.suppress(
            OSError
        ):  # the pipes of a user have a common limit; smaller ones only cost more wake-ups
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
        """Stop reading."""
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set()


class ChildProcess:
    """One running child. The caller that started it awaits `end`, in a `finally`."""

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
        self.kill_reason = ""
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    @property
    def is_ending(self) -> bool:
        """Return whether `end` was called, so that its exit is no failure."""
        return self._is_ending

    @property
    def unsent(self) -> int:
        """Return how many written bytes the child has not read yet."""
        return self._stdin.unsent if self._stdin is not None else 0

    def write(self, data: bytes) -> None:
        """Send `data` to the input of a child that was started with `stdin=True`; never blocks.

        Raises BrokenPipeError when the child has closed its input or has ended, and when it reads nothing while more
        than `limits.child_unsent_max_bytes` are queued.
        """
        if self._stdin is None:
            raise BrokenPipeError("this child has no input")
        self._stdin.write(data)

    def finish_stdin(self) -> None:
        """End the input: the child reads what was written and then the end of the stream."""
        if self._stdin is not None:
            self._stdin.finish()

    def close_stdin(self) -> None:
        """End the input at once: what the child has not read yet is dropped."""
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
        # Read without reaping: while it is a zombie, its pid, group and session cannot be reused.
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return 0
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    async def exited_within(self, timeout_s: float) -> int | None:
        """Return its exit code as `exited` does, or None when it still runs after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.exited()
        except TimeoutError:
            return None

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no process holds the output open; False when one still does after `timeout_s` seconds (T02)."""
        try:
            async with asyncio.timeout(timeout_s):
                for pipe in self._pipes:
                    await pipe.ended.wait()
        except TimeoutError:
            return False
        return True

    def kill_tree(self, why: str) -> None:
        """Kill the process group at once, then its tree (T05); `why` becomes `kill_reason`, for the tool's result."""
        if self._is_gone.is_set() or self.kill_reason:
            return
        self.kill_reason = why
        with contextlib.suppress(OSError):  # a whole group dies at once: none of it can fork meanwhile
            os.killpg(self.pid, signal.SIGKILL)
        self._of.tasks.start(self.end(), f"kill_tree {self.pid}")

    async def members(self) -> int:
        """Count the processes of its tree, itself included."""
        return 1 + len((await self._of.scan(self._identity, (MARKER, self._marker))).members)

    async def end(self) -> None:
        """End the child and its process tree: SIGTERM, a grace period, SIGKILL until nothing is left. Bounded.

        Done when this returns or raises, also for a caller that is being cancelled.
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
            if self.kill_reason or await self._signal(signal.SIGTERM, timeout_s=limits.tool_term_grace_s):
                deadline = start + limits.tool_term_grace_s + limits.kill_deadline_s
                while left := await self._signal(signal.SIGKILL, timeout_s=KILL_ROUND_S):
                    if self._of.clock.now() > deadline:
                        pids = " ".join(str(pid) for pid in left)
                        self._of.log.error("processes of a tool do not end", extra=fields(pids=pids))
                        break
        finally:
            self._release()

    async def _signal(self, signum: signal.Signals, *, timeout_s: float) -> list[int]:
        """Signal every living process of the tree and wait for their end. Return the pids that were signalled."""
        targets = []
        if not self._has_exited.is_set():
            targets.append(self.pid)
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signum)  # the leader is not reaped, so the group id was not reused
        handles: list[ProcessHandle] = []
        for process in await self._others():
            self._seen.add(process.pid)  # zombies too: they are reaped at the end
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
        # Decided on the loop, where children are started: one that started during the scan is registered by now.
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
    """Starts the children of this worker's tools and keeps those that live."""

    def __init__(self, *, limits: Limits, clock: Clock, log: logging.Logger, random: random.Random) -> None:
        self.limits = limits
        self.clock = clock
        self.log = log
        self.tasks = TaskOwner("children", log)
        # Scans have a thread of their own: file jobs that hang on a dead mount must not delay the end of a child.
        self.threads = self._make_threads(max(1, limits.tool_threads - 1))
        self._scan_thread = self._make_threads(1)
        self._random = random
        self._children: dict[int, ChildProcess] = {}
        self._is_closed = False
        self.has_ended = False
        """Set when `close` is done: nothing more can be done to the children."""
        self._process_limit = ProcessLimit(self)

    @property
    def running(self) -> list[ChildProcess]:
        """Return the children of tools that live or are being ended, without the services."""
        return [child for child in self._children.values() if not child.is_service]

    @property
    def count(self) -> int:
        """Return how many children of tools live or are being ended, without the services."""
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

        The caller awaits `ChildProcess.end` in a `finally`. The byte counts bound what is kept of each output stream.
        With `stdin` the child reads what `ChildProcess.write` sends, otherwise its input is empty. `on_stdout` is
        called on the loop with each piece of output, and with b"" at the end; the output is not kept then. It must not
        raise. A service is ended with the worker, but does not count as work that keeps it awake (`count`). `ruleset`
        confines the child (worker/tools/shell/sandbox.py).
        """
        if self._is_closed:
            raise OSError("this worker is closing")
        marker = self.new_marker()
        head = self.limits.tool_output_head_bytes if head_bytes is None else head_bytes
        tail = self.limits.tool_output_tail_bytes if tail_bytes is None else tail_bytes
        # A vfork and an exec take a millisecond. Children start on the loop, so that all of them are registered there.
        spawn = partial(_spawn, argv, {**env, **markers(os.environ), MARKER: marker}, cwd, stdin=stdin)
        process = ruleset.start(spawn) if ruleset is not None else spawn()
        pipes: list[Pipe] = []
        input_pipe: InputPipe | None = None
        try:
            identity = read_stat(process.pid)
            assert identity is not None, "a child that is not reaped is in /proc"
            for stream, feed in ((process.stdout, on_stdout), (process.stderr, None)):
                assert stream is not None
                pipes.append(Pipe(os.dup(stream.fileno()), OutputBuffer(head, tail), feed))
                stream.close()
            if process.stdin is not None:
                input_pipe = InputPipe(os.dup(process.stdin.fileno()), self.limits.child_unsent_max_bytes)
                process.stdin.close()
            child = ChildProcess(process, identity, marker, pipes, self, stdin=input_pipe, is_service=is_service)
        except BaseException:  # no descriptor left: it must not keep running unregistered
            process.kill()
            process.wait()
            for pipe in pipes:
                pipe.close()
            if input_pipe is not None:
                input_pipe.close()
            raise
        self._children[child.pid] = child
        if not is_service:
            self._process_limit.check_soon()
        return child

    def new_marker(self) -> str:
        """Return a text that no other child or file of this worker carries."""
        return f"{os.getpid()}-{self._random.getrandbits(64):016x}"

    async def scan(self, leader: ProcessStat, marker: tuple[str, str]) -> ProcessTree:
        """Find what `leader` started, in a thread; nothing when that takes too long."""
        keeper_pid = os.getpid()
        try:
            return await self._scan_thread.run(
                lambda _stop: find_tree(leader, marker, keeper_pid), timeout_s=self.limits.kill_deadline_s
            )
        except TimeoutError:
            self.log.error("scan for processes of a tool took too long", extra=fields(leader=leader.pid))
            return ProcessTree((), ())

    def may_end_orphan(self, ending: ChildProcess, process: ProcessStat) -> bool:
        """Return whether no other tool may have started this orphan, which has no marker.

        Services live long and do not leave daemons behind, so they do not count.
        """
        others = sum(child is not ending and not child.is_service for child in self._children.values())
        return others == 0 and process.pid not in self._children

    def reap(self, pids: Iterable[int]) -> None:
        """Reap the zombies among these that became children of this worker: exactly these pids, never all."""
        for pid in pids:
            if pid not in self._children:
                with contextlib.suppress(ChildProcessError):  # a child of another process
                    os.waitpid(pid, os.WNOHANG)

    def forget(self, child: ChildProcess) -> None:
        """Remove a child that has ended and is reaped."""
        self._children.pop(child.pid, None)

    async def close(self) -> None:
        """End every child and the threads; no child can be started from now on."""
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
