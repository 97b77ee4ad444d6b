"""Keep the open requests of a workspace. The first caller decides each of them, and only once.

A decision is taken at once, so that every later caller is refused, and counts when it is stored. A decision that could
not be stored is undone, and the request is open again. A grant for the session is part of the decision that won.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from worker.store.rows import RequestKind, RequestState, StoredRequest


@dataclass(frozen=True, slots=True)
class RequestDecision:
    """The end of a request, to be stored and announced. `for_session`: grant the same from now on."""

    request: StoredRequest
    state: RequestState
    resolution: str
    granted: bool = False
    for_session: bool = False


class DecisionState(Enum):
    """The state of a request in memory, while its run waits for it."""

    OPEN = "open"
    DECIDING = "deciding"  # taken by the first caller, and being stored
    DECIDED = "decided"  # on disk: resolved or expired
    CANCELLED = "cancelled"  # the run ended before a decision was stored


class RequestMachine(Machine[DecisionState]):
    """One request of a run, from the commit of its row to its one end."""

    table = {
        DecisionState.OPEN: {"taken": (DecisionState.DECIDING,), "abandoned": (DecisionState.CANCELLED,)},
        DecisionState.DECIDING: {
            "stored": (DecisionState.DECIDED,),
            "not_stored": (DecisionState.OPEN, DecisionState.CANCELLED),
        },
        DecisionState.DECIDED: {},
        DecisionState.CANCELLED: {},
    }

    def __init__(self, request: StoredRequest) -> None:
        super().__init__(DecisionState.OPEN)
        self.request = request
        self._is_abandoned = False

    def take(self) -> bool:
        """Begin to decide; return False when another caller was first."""
        if self.state is not DecisionState.OPEN:
            return False
        self._move("taken", DecisionState.DECIDING)
        return True

    def stored(self) -> None:
        """The decision is on disk."""
        self._move("stored", DecisionState.DECIDED)

    def undone(self) -> None:
        """The decision could not be stored: the request is open again, if its run still waits."""
        self._move("not_stored", DecisionState.CANCELLED if self._is_abandoned else DecisionState.OPEN)

    def abandon(self) -> None:
        """The run no longer waits for the answer. A decision that is being stored still counts."""
        self._is_abandoned = True
        if self.state is DecisionState.OPEN:
            self._move("abandoned", DecisionState.CANCELLED)


class PendingRequests:
    """The requests of one workspace that have not ended, the oldest first."""

    def __init__(self) -> None:
        self._machines: dict[str, RequestMachine] = {}

    def __len__(self) -> int:
        return len(self._machines)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._machines

    def open(self, kind: RequestKind | None = None) -> Iterator[StoredRequest]:
        """Yield the requests without a decision, the oldest first."""
        for machine in self._machines.values():
            if machine.state is DecisionState.OPEN and kind in (None, machine.request.kind):
                yield machine.request

    def equivalent(self, request: StoredRequest) -> list[StoredRequest]:
        """Return the other open requests that a grant of `request` for its session covers as well."""
        key = (request.kind, request.session_id, request.tool, request.action, request.path)
        return [
            other
            for other in self.open()
            if (other.kind, other.session_id, other.tool, other.action, other.path) == key and other.id != request.id
        ]

    def add(self, request: StoredRequest) -> None:
        """Add a request whose row is committed; it is open."""
        assert request.id not in self._machines, request
        self._machines[request.id] = RequestMachine(request)

    def resolve(
        self, request_id: str, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> RequestDecision | None:
        """Take the decision for a request. Return it to be stored, or None, without a change, when it is too late."""
        return self._take(
            request_id, RequestState.RESOLVED, resolution, granted=granted, for_session=for_session and granted
        )

    def expire(self, request_id: str, resolution: str) -> RequestDecision | None:
        """End a request at its deadline. Return the decision to be stored, or None as `resolve`."""
        return self._take(request_id, RequestState.EXPIRED, resolution)

    def stored(self, request_id: str) -> None:
        """The decision is on disk, so the request has ended."""
        self._machines.pop(request_id).stored()

    def undone(self, request_id: str) -> None:
        """The decision could not be stored."""
        machine = self._machines[request_id]
        machine.undone()
        if machine.state is DecisionState.CANCELLED:
            del self._machines[request_id]

    def abandon(self, request_id: str) -> None:
        """The run no longer waits for this request. A decision under way is stored all the same."""
        machine = self._machines.get(request_id)
        if machine is not None:
            machine.abandon()
            if machine.state is DecisionState.CANCELLED:
                del self._machines[request_id]

    def _take(
        self, request_id: str, state: RequestState, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> RequestDecision | None:
        machine = self._machines.get(request_id)
        if machine is None or not machine.take():
            return None
        return RequestDecision(machine.request, state, resolution, granted, for_session)
