"""The requests that wait: each is decided once, by whoever comes first. Pure.

A decision is taken at once, so that a second caller is late from then on, and counts when it is stored; a decision that
could not be stored is undone, and the request is open again. A grant for the session is part of the decision that won.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from protocol.base.machine import Machine

Kind = Literal["permission", "question"]


class AskState(Enum):
    """How it stands with a request."""

    OPEN = "open"
    DECIDING = "deciding"  # somebody was first, and that is being stored
    RESOLVED = "resolved"
    EXPIRED = "expired"  # nobody answered in time
    CANCELLED = "cancelled"  # the run ended while it waited
    VOID = "void"  # the worker died while it waited


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it was stored. `tool`, `action` and `path` are what a grant for the session is keyed by."""

    id: str
    kind: Kind
    session_id: str
    run_id: str
    tool_call_id: str
    tool: str = ""
    action: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be stored for a request, and told. `for_session`: grant the same from now on."""

    asked: Asked
    state: AskState
    resolution: str
    granted: bool = False
    for_session: bool = False


class Ask(Machine[AskState]):
    """One request of a run, from its storing to its one end."""

    table = {
        AskState.OPEN: {
            "taken": (AskState.DECIDING,),
            "left": (AskState.CANCELLED,),
            "worker died": (AskState.VOID,),
        },
        AskState.DECIDING: {
            "stored": (AskState.RESOLVED, AskState.EXPIRED),
            "not stored": (AskState.OPEN, AskState.CANCELLED),
            "worker died": (AskState.VOID, AskState.RESOLVED, AskState.EXPIRED),
        },
        AskState.RESOLVED: {},
        AskState.EXPIRED: {},
        AskState.CANCELLED: {},
        AskState.VOID: {},
    }

    def __init__(self, asked: Asked) -> None:
        super().__init__(AskState.OPEN)
        self.asked = asked
        self._decision: Decision | None = None
        self._is_left = False

    def take(self, decision: Decision) -> bool:
        """Somebody decides; False when somebody else did."""
        if self.state is not AskState.OPEN:
            return False
        self._move("taken", AskState.DECIDING)
        self._decision = decision
        return True

    def stored(self) -> None:
        """The decision is on disk."""
        assert self._decision is not None
        self._move("stored", self._decision.state)

    def undone(self) -> None:
        """The decision could not be stored: whoever still waits goes on waiting."""
        self._decision = None
        self._move("not stored", AskState.CANCELLED if self._is_left else AskState.OPEN)

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self._is_left = True
        if self.state is AskState.OPEN:
            self._move("left", AskState.CANCELLED)

    def died(self, stored: AskState = AskState.OPEN) -> None:
        """The worker is gone; `stored` is what the file says. What was open there is void, what was decided stays."""
        self._move("worker died", AskState.VOID if stored is AskState.OPEN else stored)


class Pending:
    """The requests of one workspace that have not ended, in the order of asking."""

    def __init__(self) -> None:
        self._asks: dict[str, Ask] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def __contains__(self, ask_id: str) -> bool:
        return ask_id in self._asks

    def open(self, kind: Kind | None = None) -> Iterator[Asked]:
        """Those that nobody has decided, the oldest first."""
        for ask in self._asks.values():
            if ask.state is AskState.OPEN and kind in (None, ask.asked.kind):
                yield ask.asked

    def alike(self, asked: Asked) -> list[Asked]:
        """The open ones that a grant for the session of `asked` covers as well."""
        key = (asked.kind, asked.session_id, asked.tool, asked.action, asked.path)
        return [
            other
            for other in self.open()
            if (other.kind, other.session_id, other.tool, other.action, other.path) == key and other.id != asked.id
        ]

    def asked(self, asked: Asked) -> None:
        """A request is stored, and waits."""
        assert asked.id not in self._asks, asked
        self._asks[asked.id] = Ask(asked)

    def resolve(
        self, ask_id: str, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> Decision | None:
        """The first caller gets what is to be stored; None for all others, and then nothing has changed."""
        return self._take(ask_id, AskState.RESOLVED, resolution, granted=granted, for_session=for_session and granted)

    def expire(self, ask_id: str, resolution: str) -> Decision | None:
        """Its time is over; None when it is being decided or has ended."""
        return self._take(ask_id, AskState.EXPIRED, resolution)

    def stored(self, ask_id: str) -> None:
        """The decision is on disk, so the request has ended."""
        self._asks.pop(ask_id).stored()

    def undone(self, ask_id: str) -> None:
        """The decision could not be stored."""
        ask = self._asks[ask_id]
        ask.undone()
        if ask.state is AskState.CANCELLED:
            del self._asks[ask_id]

    def leave(self, ask_id: str) -> None:
        """Nobody waits for this one any more. A decision under way is stored all the same."""
        ask = self._asks.get(ask_id)
        if ask is not None:
            ask.leave()
            if ask.state is AskState.CANCELLED:
                del self._asks[ask_id]

    def _take(
        self, ask_id: str, state: AskState, resolution: str, *, granted: bool = False, for_session: bool = False
    ) -> Decision | None:
        ask = self._asks.get(ask_id)
        if ask is None:
            return None
        decision = Decision(ask.asked, state, resolution, granted, for_session)
        return decision if ask.take(decision) else None
