"""Define what the link needs from the rest of the worker: its statistics, its publisher and its callbacks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protocol.messages import Shutdown


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """The state of a worker, read at each hello and each heartbeat."""

    log_id: str = ""
    last_number: int = 0  # of the newest committed event that the publisher knows
    open_runs: int = 0
    open_questions: int = 0
    children: int = 0
    holds_choices: bool = False
    degraded: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class LinkCallbacks:
    """Callbacks of a link, called on the loop."""

    on_shutdown: Callable[[Shutdown], None]
    on_supervisor_heard: Callable[[], None]
    """Called for every message of a supervisor, and at every heartbeat while one is connected."""
    on_attached: Callable[[int], None]
    """Called with the number of clients that listen to this workspace, when it changes."""


class EventSource(Protocol):
    """The publisher, as the link uses it."""

    def connected(self, last_number: int, credit: int, *, takes_growth: bool = False) -> None:
        """A supervisor has every event up to `last_number` or asks for it; `credit` more may be sent.

        `takes_growth`: it can append to the snapshots that it has.
        """
        ...

    def credit(self, more: int) -> None:
        """`more` further events may be sent."""
        ...

    def unfit(self, keys: list[str]) -> None:
        """The supervisor could not append to the snapshots of these keys."""
        ...

    def disconnected(self) -> None:
        """No supervisor is connected; what was sent last may be lost."""
        ...

    def writable(self) -> None:
        """The socket takes messages again after `send_events` returned False."""
        ...
