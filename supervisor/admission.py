"""May the server take new work, is it idle, has it decided to exit?

The decision to exit is final: whoever came a moment later is refused, and tries elsewhere or again.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar

from protocol.base.machine import Machine
from protocol.errors import BadInput, Conflict, Unavailable


class AdmissionState(Enum):
    """Open: work is taken. Exiting: the shutdown was decided."""

    OPEN = "open"
    EXITING = "exiting"


class Admission(Machine[AdmissionState]):
    """One per server. `now` is monotonic, in seconds."""

    table: ClassVar[Mapping[Enum, Mapping[str, Sequence[Enum]]]] = {
        AdmissionState.OPEN: {
            "stopped": (AdmissionState.EXITING,),
            "idled": (AdmissionState.EXITING,),
            "asked": (AdmissionState.EXITING,),
        },
        AdmissionState.EXITING: {},
    }

    def __init__(self, *, idle_exit_s: float | None) -> None:
        """`idle_exit_s`: leave after so long without use; None: stay for ever."""
        super().__init__(AdmissionState.OPEN)
        self._idle_exit_s = idle_exit_s
        self._was_used = False
        self._creates = 0
        self._idle_since: float | None = None

    @property
    def is_exiting(self) -> bool:
        """Was the exit decided?"""
        return self.state is AdmissionState.EXITING

    def check(self) -> None:
        """Raises Unavailable (server_exiting) once the exit was decided."""
        if self.is_exiting:
            raise Unavailable(
                "cannot take new work: this server is shutting down; try again when it is back",
                code="server_exiting",
                retry_after_s=1.0,
            )

    def used(self) -> None:
        """A request came that means somebody wants us (not a health check)."""
        self._was_used = True
        self._idle_since = None

    def create_began(self) -> None:
        """A workspace is being created; raises like `check`, and then nothing began."""
        self.check()
        self.used()
        self._creates += 1

    def create_ended(self) -> None:
        """The creation came to an end, well or not."""
        self._creates -= 1
        assert self._creates >= 0

    def observed(self, *, is_busy: bool, now: float) -> bool:
        """Look at the server; True when this observation decided the exit. `is_busy`: anybody attached or at work."""
        if self.is_exiting or self._idle_exit_s is None or not self._was_used:
            return False
        if is_busy or self._creates:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < self._idle_exit_s:
            return False
        self._move("idled", AdmissionState.EXITING)
        return True

    def commanded(self, command: str, *, is_busy: bool) -> None:
        """A client asks us to leave; returns when that is granted.

        Raises BadInput for an unknown command and Conflict (not_idle) when we stay: always, unless the server was
        started to leave when idle, because a managed service is never taken down by a client.
        """
        if command not in ("shutdown", "shutdown_if_idle"):
            raise BadInput(f"cannot obey the command {command!r}: `shutdown_if_idle` and `shutdown` are known")
        if self.is_exiting:
            return  # granted before
        if self._idle_exit_s is None:
            raise Conflict(
                "cannot shut down for a client: this is a managed service; `bulkhead stop` ends it", code="not_idle"
            )
        if is_busy or self._creates:
            raise Conflict("cannot shut down: a workspace is in use", code="not_idle")
        self._move("asked", AdmissionState.EXITING)

    def stopped(self) -> None:
        """A signal, or our own end, decided the exit. Repeating it changes nothing."""
        if not self.is_exiting:
            self._move("stopped", AdmissionState.EXITING)
