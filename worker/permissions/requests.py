"""The requests that wait: each is decided once, by whoever comes first. Pure.

A decision is taken at once, so that a second caller is late from then on, and counts when it is stored; a decision that
could not be stored is undone, and the request is open again. A grant for the session is part of the decision that won.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.base.machine import Machine
from worker.store.rows import RequestKind, RequestState, StoredRequest


@dataclass(frozen=True, slots=True)
class RequestDecision:
    """What is to be stored for a request, and told. `for_session`: grant the same from now on."""

    asked: StoredRequest
    state: RequestState
    resolution: str
    granted: bool = False
    for_session: bool = False


class RequestMachine(Machine[RequestState]):
    """One request of a run, from its storing to its one end."""

    table = {
        RequestState.OPEN: {
            "taken": (RequestState.DECIDING,),
            "left": (RequestState.CANCELLED,),
            "worker died": (RequestState.VOID,),
        },
        RequestState.DECIDING: {
            "stored": (RequestState.RESOLVED, RequestState.EXPIRED),
            "not stored": (RequestState.OPEN, RequestState.CANCELLED),
            "worker died": (RequestState.VOID, RequestState.RESOLVED, RequestState.EXPIRED),
        },
        RequestState.RESOLVED: {},
        RequestState.EXPIRED: {},
        RequestState.CANCELLED: {},
        RequestState.VOID: {},
    }

    def __init__(self, asked: StoredRequest) -> None:
        super().__init__(RequestState.OPEN)
        self.asked = asked
        self._decision: RequestDecision | None = None
        self._is_left = False

    def take(self, decision: RequestDecision) -> bool:
        """Somebody decides; False when somebody else did."""
        if self.state is not RequestState.OPEN:
            return False
        self._move("taken", RequestState.DECIDING)
        self._decision = decision
        return True

    def stored(self) -> None:
        """The decision is on disk."""
        assert self._decision is not None
        self._move("stored", self._decision.state)

    def undone(self) -> None:
        """The decision could not be stored: whoever still waits goes on waiting."""
        self._decision = None
        self._move("not stored", RequestState.CANCELLED if self._is_left else RequestState.OPEN)

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self._is_left = True
        if self.state is RequestState.OPEN:
            self._move("left", RequestState.CANCELLED)

    def died(self, stored: RequestState = RequestState.OPEN) -> None:
        """The worker is gone; `stored` is what the file says. What was open there is void, what was decided stays."""
        self._move("worker died", RequestState.VOID if stored is RequestState.OPEN else stored)


class PendingRequests:
    """The requests of one workspace that have not ended, in the order of asking."""

    def __init__(self) -> None:
        self._asks: dict[str, RequestMachine] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def __contains__(self, ask_id: str) -> bool:
        return ask_id in self._asks

    def open(self, kind: RequestKind | None = None) -> Iterator[StoredRequest]:
        """Those that nobody has decided, the oldest first."""
        for ask in self._asks.values():
            if ask.state is RequestState.OPEN and kind in (None, ask.asked.kind):
                yield ask.asked

    def alike(self, asked: StoredRequest) -> list[StoredRequest]:
        """The open ones that a grant for the session of `asked` covers as well."""
        key = (asked.kind, asked.session_id, asked.tool, asked.action, asked.path)
        return [
            other
            for other in self.open()
            if (other.kind, other.session_id, other.tool, other.action, other.path) == key and other.id != asked.id
        ]

    def asked(self, asked: StoredRequest) -> None:
        """A request is stored, and waits."""
        assert asked.id not in self._asks, asked
        self._asks[asked.id] = RequestMachine(asked)

    def resolve(
        self, ask_id: str, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> RequestDecision | None:
        """The first caller gets what is to be stored; None for all others, and then nothing has changed."""
        return self._take(
            ask_id, RequestState.RESOLVED, resolution, granted=granted, for_session=for_session and granted
        )

    def expire(self, ask_id: str, resolution: str) -> RequestDecision | None:
        """Its time is over; None when it is being decided or has ended."""
        return self._take(ask_id, RequestState.EXPIRED, resolution)

    def stored(self, ask_id: str) -> None:
        """The decision is on disk, so the request has ended."""
        self._asks.pop(ask_id).stored()

    def undone(self, ask_id: str) -> None:
        """The decision could not be stored."""
        ask = self._asks[ask_id]
        ask.undone()
        if ask.state is RequestState.CANCELLED:
            del self._asks[ask_id]

    def leave(self, ask_id: str) -> None:
        """Nobody waits for this one any more. A decision under way is stored all the same."""
        ask = self._asks.get(ask_id)
        if ask is not None:
            ask.leave()
            if ask.state is RequestState.CANCELLED:
                del self._asks[ask_id]

    def _take(
        self, ask_id: str, state: RequestState, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> RequestDecision | None:
        ask = self._asks.get(ask_id)
        if ask is None:
            return None
        decision = RequestDecision(ask.asked, state, resolution, granted, for_session)
        return decision if ask.take(decision) else None
