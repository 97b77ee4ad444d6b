"""Define the interface of launchers and of the handles they return. Only this folder may assume a local process."""

from dataclasses import dataclass
from typing import Protocol

from protocol.exit_codes import EXIT_REASONS
from protocol.ids import WorkspaceId
from protocol.worker_spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a worker ended. Without code and signal its status could not be read."""

    code: int | None = None
    signal: int | None = None
    at_wall: float = 0.0
    max_rss_bytes: int = 0
    tail: str = ""  # the end of its output

    @property
    def cause(self) -> str:
        """Return the cause as status and log show it."""
        if self.signal is not None:
            return f"signal {self.signal}"
        if self.code is None:
            return "without a word"
        return EXIT_REASONS.get(self.code, f"exit {self.code}")


@dataclass(frozen=True, slots=True)
class Record:
    """A worker as stored on disk. `pid` is 0 from before the start until the process is known."""

    workspace_id: WorkspaceId
    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    token: str
    started_wall: float
    path: str
    endpoint: str = ""  # where the worker looks for its supervisor; "" for that of this runtime directory


class Handle(Protocol):
    """A worker process that was started or adopted."""

    @property
    def pid(self) -> int: ...

    @property
    def start_ticks(self) -> int: ...

    async def exited(self) -> ExitReport:
        """Wait for its end and sweep what it left behind. May be awaited once."""
        ...

    def kill(self) -> None:
        """Send SIGKILL. Does nothing when it is dead."""
        ...

    def dump(self) -> None:
        """Ask it to write its stacks to its log. Does nothing when it is dead."""
        ...

    def forget(self) -> None:
        """Stop watching it; it keeps running."""
        ...


class Launcher(Protocol):
    """Starts workers and finds running ones again."""

    async def start(self, spec: WorkerSpec) -> Handle:
        """Start a process that becomes this worker. Raises Unavailable (worker_failed)."""
        ...

    async def adopt(self, record: Record) -> Handle | None:
        """Return the living process of `record`; None when it has ended."""
        ...

    async def sweep(self, workspace_id: WorkspaceId, keep_pid: int) -> int:
        """Kill everything that carries the workspace's marker except `keep_pid`; return how many processes."""
        ...

    async def close(self, *, end_zygote: bool) -> None:
        """Release everything; with `end_zygote` end the zygote that this runtime directory started."""
        ...
