"""What every launcher offers, and the handle it returns. Only this folder may assume a local child or a pid."""

from dataclasses import dataclass
from typing import Protocol

from protocol.exit_codes import EXIT_REASONS
from protocol.ids import WorkspaceId
from protocol.worker_spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a worker ended. Neither code nor signal: nobody could read its status."""

    code: int | None = None
    signal: int | None = None
    at_wall: float = 0.0
    max_rss_bytes: int = 0
    tail: str = ""  # the last lines of its output

    @property
    def cause(self) -> str:
        """The cause in words that status and log show."""
        if self.signal is not None:
            return f"signal {self.signal}"
        if self.code is None:
            return "without a word"
        return EXIT_REASONS.get(self.code, f"exit {self.code}")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a worker on disk. `pid` is 0 from before the start until the process is known."""

    workspace_id: WorkspaceId
    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    token: str
    started_wall: float
    path: str


class Handle(Protocol):
    """A worker that was started or adopted."""

    @property
    def pid(self) -> int: ...

    @property
    def start_ticks(self) -> int: ...

    async def exited(self) -> ExitReport:
        """Wait for its end; what it left behind has been swept when this returns. May be awaited once."""
        ...

    def kill(self) -> None:
        """SIGKILL, at once. Safe when it is dead already."""
        ...

    def dump(self) -> None:
        """Ask it to write its stacks to its log. Safe when it is dead already."""
        ...

    def forget(self) -> None:
        """Stop watching it; it lives on."""
        ...


class Launcher(Protocol):
    """Brings workers to life and finds them again."""

    async def start(self, spec: WorkerSpec) -> Handle:
        """A process that becomes this worker. Raises Unavailable (worker_failed)."""
        ...

    async def adopt(self, record: Record) -> Handle | None:
        """The living process that `record` tells of, or None when there is none any more."""
        ...

    async def sweep(self, workspace_id: WorkspaceId, keep_pid: int) -> int:
        """End everything that carries the workspace's marker, but not `keep_pid`; returns how many that were."""
        ...

    async def close(self, *, end_zygote: bool) -> None:
        """Let go of everything."""
        ...
