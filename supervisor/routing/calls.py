"""Track the calls in flight to one worker: ids, deadlines, repetition, and failure when the worker dies.

A call lives from `opened` until it is answered, expired, abandoned or failed. Halfway to its deadline it is sent once
more under the same id: if the answer was lost the worker repeats it, if the call was lost the worker starts it now. A
call that is opened twice under one id is one call with two waiters.
"""

from dataclasses import dataclass

from protocol.errors import LimitReached
from protocol.operations import Operation


@dataclass(slots=True, eq=False)
class Flight:
    """One call in flight. `body` is kept because the call may be sent again."""

    call_id: str
    operation: Operation
    args: dict[str, str]
    body: bytes
    deadline: float
    again_at: float  # when it is sent once more, or its deadline if it already was
    waiters: int = 1


@dataclass(frozen=True, slots=True)
class Send:
    """Send this call to the worker (again)."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Let the worker cancel this call: no caller waits for it."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Raise `deadline` in every waiter of this call."""

    flight: Flight


Effect = Send | SendCancel | Expire


class Calls:
    """The calls of one link, bounded by count and by the bytes of their bodies.

    The supervisor's own calls are not counted: they must not displace those of clients.
    """

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._flights: dict[str, Flight] = {}
        self._counted = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._flights)

    def get(self, call_id: str) -> Flight | None:
        """Return the call in flight with this id, or None."""
        return self._flights.get(call_id)

    def opened(
        self, call_id: str, operation: Operation, args: dict[str, str], body: bytes, *, timeout_s: float, now: float
    ) -> list[Effect]:
        """Open a call, or join the one in flight with the same id. Raises LimitReached `too_many_calls`."""
        if (flight := self._flights.get(call_id)) is not None:
            flight.waiters += 1
            return []
        is_counted = not operation.is_inner
        is_full = is_counted and self._counted >= self._count_max
        if is_full or (self._flights and self._bytes + len(body) > self._bytes_max):
            raise LimitReached(
                f"cannot ask the worker: {len(self._flights)} calls are waiting for it already; try again later",
                code="too_many_calls",
                retryable=True,
                retry_after_s=1.0,
            )
        flight = Flight(call_id, operation, args, body, deadline=now + timeout_s, again_at=now + timeout_s / 2)
        self._flights[call_id] = flight
        self._counted += is_counted
        self._bytes += len(body)
        return [Send(flight)]

    def answered(self, call_id: str) -> Flight | None:
        """End a call that was answered. None when it had ended before: the answer came twice, or too late."""
        return self._remove(call_id)

    def due(self, call_id: str, now: float) -> list[Effect]:
        """The time `again_at` of this call was reached."""
        flight = self._flights.get(call_id)
        if flight is None or now < flight.again_at:
            return []  # the timer lost the race against the answer
        if flight.again_at < flight.deadline:
            flight.again_at = flight.deadline
            return [Send(flight)]
        self._remove(call_id)
        return [Expire(flight), *self._cancel(flight)]

    def abandoned(self, call_id: str) -> list[Effect]:
        """One waiter was cancelled."""
        flight = self._flights.get(call_id)
        if flight is None:
            return []
        flight.waiters -= 1
        if flight.waiters > 0:
            return []
        self._remove(call_id)
        return self._cancel(flight)

    def reconnected(self) -> list[Effect]:
        """The worker connected again: send the calls that it may have missed, in order."""
        return [Send(flight) for flight in self._flights.values()]

    def lost(self) -> list[Flight]:
        """The worker has exited: remove all calls and return them."""
        flights = list(self._flights.values())
        self._flights.clear()
        self._counted = self._bytes = 0
        return flights

    def _remove(self, call_id: str) -> Flight | None:
        flight = self._flights.pop(call_id, None)
        if flight is not None:
            self._counted -= not flight.operation.is_inner
            self._bytes -= len(flight.body)
        return flight

    @staticmethod
    def _cancel(flight: Flight) -> list[Effect]:
        return [SendCancel(flight.call_id)] if flight.operation.is_bound else []
