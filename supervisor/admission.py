"""Decide whether the server takes new work, whether it is idle, and whether it exits.

The decision to exit is final: later requests for work are refused, and the client tries again or starts a server.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar

from protocol.base.machine import Machine
from protocol.errors import BadInput, Conflict, Unavailable


class AdmissionState(Enum):
    """Open: new work is accepted. Exiting: the shutdown was decided."""

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
        """`idle_exit_s`: exit after this time without use; None: never."""
        super().__init__(AdmissionState.OPEN)
        self._idle_exit_s = idle_exit_s
        self._was_used = False
        self._creates = 0
        self._idle_since: float | None = None

    @property
    def is_exiting(self) -> bool:
        """Return whether the exit was decided."""
        return self.state is AdmissionState.EXITING

    def check(self) -> None:
        """Raise Unavailable `server_exiting` once the exit was decided."""
        if self.is_exiting:
            raise Unavailable(
                "cannot take new work: this server is shutting down; try again when it is back",
                code="server_exiting",
                retry_after_s=1.0,
            )

    def used(self) -> None:
        """Record a request that counts as use of the server (not a health check)."""
        self._was_used = True
        self._idle_since = None

    def create_began(self) -> None:
        """Record that a workspace is being created. Raises as `check` does, and then nothing was recorded."""
        self.check()
        self.used()
        self._creates += 1

    def create_ended(self) -> None:
        """Record the end of a creation, successful or not."""
        self._creates -= 1
        assert self._creates >= 0

    def observed(self, *, is_busy: bool, now: float) -> bool:
        """Record the present state; return True when this decided the exit. `is_busy`: a workspace is in use."""
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
        """Decide on a client's command to exit; return when it is granted.

        Raises BadInput for an unknown command and Conflict `not_idle` when the server stays. That is always so unless
        it was started to exit when idle: a client never ends a managed service.
        """
        if command not in ("shutdown", "shutdown_if_idle"):
            raise BadInput(f"cannot obey the command {command!r}: it must be `shutdown_if_idle` or `shutdown`")
        if self.is_exiting:
            return  # granted already
        if self._idle_exit_s is None:
            raise Conflict(
                "cannot shut down for a client: this is a managed service; `bulkhead stop` ends it", code="not_idle"
            )
        if is_busy or self._creates:
            raise Conflict("cannot shut down: a workspace is in use", code="not_idle")
        self._move("asked", AdmissionState.EXITING)

    def stopped(self) -> None:
        """Record that a signal, or the end of the server, decided the exit. A repetition changes nothing."""
        if not self.is_exiting:
            self._move("stopped", AdmissionState.EXITING)
