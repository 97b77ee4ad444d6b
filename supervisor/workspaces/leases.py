"""Each client's claim on a workspace: held, attached, released, gone (http-api 5.2).

A claim begins with a create (held for the create grace) or a stream (attached). It ends when its hold runs out, when
it is released while no stream is open, when the last stream closes after a release, or when its client retires. When
the last claim ends, `LastGone` says so once: the workspace may then sleep when it has nothing to do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from protocol.base.machine import Machine
from protocol.errors import Conflict
from protocol.ids import ClientId, SessionId


class Claim(Enum):
    """The state of one client's claim."""

    HELD = "held"  # no stream; ends at its deadline
    ATTACHED = "attached"  # at least one stream
    RELEASED = "released"  # given back while streams are open: gone with the last of them
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Arm:
    """Call `elapsed` at this time; it replaces any earlier wish. None: no deadline is pending."""

    at: float | None


@dataclass(frozen=True, slots=True)
class LastGone:
    """Nobody has a claim any more."""


Effect = Arm | LastGone


class Lease(Machine[Claim]):
    """One client's claim. `until` is set exactly while held; `streams` is not empty exactly while attached/released."""

    table: ClassVar[Mapping[Enum, Mapping[str, Sequence[Enum]]]] = {
        Claim.HELD: {
            "created": (Claim.HELD,),
            "attached": (Claim.ATTACHED,),
            "released": (Claim.GONE,),
            "retired": (Claim.GONE,),
            "elapsed": (Claim.GONE,),
        },
        Claim.ATTACHED: {
            "created": (Claim.ATTACHED,),
            "attached": (Claim.ATTACHED,),
            "detached": (Claim.ATTACHED, Claim.HELD),
            "released": (Claim.RELEASED,),
            "retired": (Claim.GONE,),
        },
        Claim.RELEASED: {
            "created": (Claim.ATTACHED,),
            "attached": (Claim.RELEASED,),
            "detached": (Claim.RELEASED, Claim.GONE),
            "released": (Claim.RELEASED,),
            "retired": (Claim.GONE,),
        },
        Claim.GONE: {},
    }

    def __init__(self, *, until: float | None, stream: int | None = None) -> None:
        super().__init__(Claim.HELD if stream is None else Claim.ATTACHED)
        self.until = until
        self.streams: set[int] = set() if stream is None else {stream}
        self.viewed = SessionId("")

    def created(self, until: float) -> None:
        if self.state is Claim.HELD:
            self._move("created", Claim.HELD)
            self.until = until
        else:
            self._move("created", Claim.ATTACHED)  # clears an earlier release

    def attached(self, stream: int) -> None:
        self._move("attached", Claim.ATTACHED if self.state is Claim.HELD else self.state)
        self.until = None
        self.streams.add(stream)

    def detached(self, stream: int, until: float) -> None:
        self.streams.discard(stream)
        if self.streams:
            self._move("detached", self.state)
        elif self.state is Claim.RELEASED:
            self._move("detached", Claim.GONE)
        else:
            self._move("detached", Claim.HELD)
            self.until = until

    def released(self) -> None:
        self._move("released", Claim.GONE if self.state is Claim.HELD else Claim.RELEASED)

    def retired(self) -> None:
        self._move("retired", Claim.GONE)

    def elapsed(self) -> None:
        self._move("elapsed", Claim.GONE)


class Leases:
    """All claims on one workspace. `now` is monotonic, in seconds; a stream is any number unique in its workspace."""

    def __init__(self, *, create_grace_s: float, detach_grace_s: float) -> None:
        self._create_grace_s = create_grace_s
        self._detach_grace_s = detach_grace_s
        self._leases: dict[ClientId, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def streams(self) -> int:
        """How many streams are open under a claim."""
        return sum(len(lease.streams) for lease in self._leases.values())

    @property
    def attached_clients(self) -> int:
        """How many clients have at least one stream."""
        return sum(1 for lease in self._leases.values() if lease.streams)

    def state_of(self, client_id: ClientId) -> Claim:
        """Where this client's claim stands; gone when it has none."""
        lease = self._leases.get(client_id)
        return Claim.GONE if lease is None else lease.state

    def create(self, client_id: ClientId, now: float) -> list[Effect]:
        """The client created (or found) the workspace: a fresh hold, or an earlier release is forgotten."""
        until = now + self._create_grace_s
        lease = self._leases.get(client_id)
        if lease is None:
            self._leases[client_id] = Lease(until=until)
        else:
            lease.created(until)
        return [self._arm()]

    def attach(self, client_id: ClientId, stream: int) -> list[Effect]:
        """A stream of the client was opened; a client that never created may do that."""
        lease = self._leases.get(client_id)
        if lease is None:
            self._leases[client_id] = Lease(until=None, stream=stream)
        else:
            lease.attached(stream)
        return [self._arm()]

    def detach(self, client_id: ClientId, stream: int, now: float) -> list[Effect]:
        """A stream of the client closed."""
        lease = self._leases.get(client_id)
        if lease is None or stream not in lease.streams:
            return []  # the client retired meanwhile; the stream outlived its claim
        lease.detached(stream, now + self._detach_grace_s)
        return self._ended(client_id, lease)

    def release(self, client_id: ClientId) -> list[Effect]:
        """The client needs the workspace no more. Its streams stay open; unknown clients are welcome."""
        lease = self._leases.get(client_id)
        if lease is None:
            return []
        lease.released()
        return self._ended(client_id, lease)

    def retire(self, client_id: ClientId) -> list[Effect]:
        """The client leaves for good: its claim is gone at once, streams or not."""
        lease = self._leases.get(client_id)
        if lease is None:
            return []
        lease.retired()
        return self._ended(client_id, lease)

    def elapsed(self, now: float) -> list[Effect]:
        """Time has passed: holds that ran out are gone."""
        over = [(c, lease) for c, lease in self._leases.items() if lease.until is not None and lease.until <= now]
        for client_id, lease in over:
            lease.elapsed()
            del self._leases[client_id]
        return [self._arm(), *([LastGone()] if over and not self._leases else [])]

    def view(self, client_id: ClientId, session_id: SessionId) -> None:
        """The client looks at this session now ("" for none). Raises Conflict (not_attached) without a stream."""
        lease = self._leases.get(client_id)
        if lease is None or not lease.streams:
            raise Conflict(
                "cannot set the current session: this client has no open event stream here; open one first",
                code="not_attached",
            )
        lease.viewed = session_id

    def viewers(self, session_id: SessionId) -> int:
        """How many attached clients look at this session."""
        return sum(1 for lease in self._leases.values() if lease.streams and lease.viewed == session_id)

    def viewed(self) -> dict[SessionId, int]:
        """The sessions that attached clients look at, and how many look at each."""
        return dict(Counter(lease.viewed for lease in self._leases.values() if lease.streams and lease.viewed))

    def _ended(self, client_id: ClientId, lease: Lease) -> list[Effect]:
        if lease.state is Claim.GONE:
            del self._leases[client_id]
            return [self._arm(), *([] if self._leases else [LastGone()])]
        return [self._arm()]

    def _arm(self) -> Arm:
        return Arm(min((lease.until for lease in self._leases.values() if lease.until is not None), default=None))
