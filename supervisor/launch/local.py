"""Launch workers on this machine: zygote, pidfds and the sweep behind the interface of `launcher.py`."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.process_identity import ProcessHandle, boot_id, start_ticks
from protocol.errors import Unavailable
from protocol.ids import WorkspaceId
from protocol.limits import Limits
from protocol.worker_spec import MARKER, WorkerSpec, marker_value, spec_to_bytes
from supervisor.launch import process_sweep
from supervisor.launch.adoption import AdoptionDecision, decide_adoption
from supervisor.launch.launcher import ExitReport, Handle, Record
from supervisor.launch.zygote import ZygoteLink
from supervisor.launch.zygote_process import LOG_NAME, SOCKET_NAME

_EXIT_REPORT_S = 0.5
"""The zygote reports an exit within this time or not at all."""
_TAIL_BYTES = 4096


class LocalLauncher:
    """Starts workers by a fork of the zygote, or as new processes, which is slower, where that fails."""

    def __init__(
        self,
        *,
        runtime_dir: Path,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        spawn_zygote: bool,
        zygote_socket: Path | None = None,
        zygote_process: "subprocess.Popen[bytes] | None" = None,
        state_id: str = "",
    ) -> None:
        """`zygote_process` is a zygote of this runtime directory that this process has started already. `state_id` is
        the identity of the server's state directory, part of the marker of its workers' processes."""
        self._state_id = state_id
        self._limits = limits
        self._clock = clock
        self._log = log
        self._logs = runtime_dir / "workers"
        self._zygote = ZygoteLink(
            socket_path=zygote_socket or runtime_dir / SOCKET_NAME,
            log_path=runtime_dir / LOG_NAME,
            may_spawn=spawn_zygote,
            limits=limits,
            clock=clock,
            log=log,
            process=zygote_process,
        )
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="launch")

    async def start_zygote(self) -> None:
        """Begin to start a zygote, or to connect to the running one; does not wait for it."""
        self._zygote.join()

    async def start(self, spec: WorkerSpec) -> "LocalHandle":
        """Start a process that becomes this worker. Raises Unavailable (worker_failed)."""
        descriptor = os.memfd_create("worker-spec")
        try:
            os.write(descriptor, spec_to_bytes(spec))
            try:
                await self._zygote.ready()
                pid, ticks = await self._zygote.fork(descriptor)
                child = None
            except Unavailable as error:
                self._log.warning("plain start of a worker", extra=fields(workspace=spec.workspace_id, reason=error))
                child = self._spawn(spec, descriptor)
                pid, ticks = child.pid, start_ticks(child.pid) or 0
        finally:
            os.close(descriptor)
        process = ProcessHandle.open(pid, ticks)
        return LocalHandle(self, spec.workspace_id, pid, ticks, process, child)

    async def adopt(self, record: Record) -> Handle | None:
        """Return the living process of `record`, or None."""
        ticks = start_ticks(record.pid) if record.pid else None
        if decide_adoption(record, boot_id=boot_id(), start_ticks=ticks) is not AdoptionDecision.ADOPT:
            return None
        process = ProcessHandle.open(record.pid, record.start_ticks)
        if process is None:
            return None
        return LocalHandle(self, record.workspace_id, record.pid, record.start_ticks, process, None)

    async def sweep(self, workspace_id: WorkspaceId, keep_pid: int) -> int:
        """Kill everything that carries the workspace's marker, except `keep_pid`, the zygote and this process."""
        keep = {keep_pid, os.getpid(), self._zygote.pid or 0}
        loop = asyncio.get_running_loop()
        marker = marker_value(workspace_id, self._state_id)

        def work() -> int:
            return process_sweep.sweep(marker, keep=keep, timeout_s=self._limits.kill_deadline_s)

        try:
            count = await loop.run_in_executor(self._threads, work)
        except OSError as error:  # no descriptor left: /proc cannot be listed (H02)
            self._log.error("leftovers not looked for", extra=fields(workspace=workspace_id, reason=error))
            return 0
        if count:
            self._log.info("leftovers ended", extra=fields(workspace=workspace_id, processes=count))
        return count

    async def close(self, *, end_zygote: bool) -> None:
        """Release everything; with `end_zygote` end the zygote that this runtime directory started."""
        await self._zygote.close(end_zygote=end_zygote)
        self._threads.shutdown(wait=False)

    async def report(
        self, workspace_id: WorkspaceId, pid: int, ticks: int, child: "subprocess.Popen[bytes] | None"
    ) -> ExitReport:
        """Return how the process, which has ended, did so."""
        status: int | None = None
        max_rss_bytes = 0
        if child is not None:
            code = child.wait()  # it has ended: this only reads its status
            tail = await self._tail(workspace_id)
            return ExitReport(code if code >= 0 else None, -code if code < 0 else None, self._clock.wall(), 0, tail)
        exited = await self._zygote.exit_of(pid, ticks, _EXIT_REPORT_S)
        if exited is not None:
            status, max_rss_bytes = exited.status, exited.max_rss_bytes
        tail = await self._tail(workspace_id)
        if status is None:
            return ExitReport(at_wall=self._clock.wall(), tail=tail)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code_or_none = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        return ExitReport(code_or_none, number, self._clock.wall(), max_rss_bytes, tail)

    def _spawn(self, spec: WorkerSpec, descriptor: int) -> "subprocess.Popen[bytes]":
        environment = {key: value for key, value in spec.env.items() if not key.startswith("PYTHON")}
        environment[MARKER] = spec.marker
        command = [sys.executable, "-P", "-m", "worker", "--spec-fd", str(descriptor)]
        try:
            log = os.open(spec.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd="/",
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
            finally:
                os.close(log)
        except OSError as error:
            raise Unavailable(f"cannot start a worker: {error}", code="worker_failed", retry_after_s=1.0) from error

    async def _tail(self, workspace_id: WorkspaceId) -> str:
        """Read the end of the worker's output."""
        path = self._logs / f"{workspace_id}.log"

        def read() -> str:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return file.read().decode(errors="replace")
            return ""

        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


class LocalHandle:
    """A worker process on this machine."""

    def __init__(
        self,
        launcher: LocalLauncher,
        workspace_id: WorkspaceId,
        pid: int,
        ticks: int,
        process: ProcessHandle | None,
        child: "subprocess.Popen[bytes] | None",
    ) -> None:
        self.pid = pid
        self.start_ticks = ticks
        self._launcher = launcher
        self._workspace_id = workspace_id
        self._process = process  # None: it had ended before it could be opened
        self._child = child

    async def exited(self) -> ExitReport:
        """Wait for the end, read its status, sweep what is left."""
        if self._process is not None:
            await self._process.ended()
            self._process.close()
        report = await self._launcher.report(self._workspace_id, self.pid, self.start_ticks, self._child)
        await self._launcher.sweep(self._workspace_id, keep_pid=0)
        return report

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    def dump(self) -> None:
        """Let it write its stacks to its log, which works even when its Python is stuck in C code."""
        if self._process is not None:
            self._process.send(signal.SIGUSR1)

    def forget(self) -> None:
        """Stop watching; the process keeps running."""
        if self._process is not None:
            self._process.close()
        if self._child is not None:
            self._child.returncode = 0  # no warning about a child that is still running
