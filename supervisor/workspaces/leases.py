"""Track each client's claim on a workspace: held, attached, released, ended.

A claim begins with a create (held for the create grace) or a stream (attached). It ends when its hold expires, when it
is released while no stream is open, when the last stream closes after a release, or when its client retires. When the
last claim ends, `LastClaimEnded` reports it once: the workspace may then sleep when it has nothing to do.
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
    RELEASED = "released"  # by the client, while streams are open: ends with the last of them
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Arm:
    """Call `elapsed` at this time; replaces an earlier `Arm`. None: no deadline is pending."""

    at: float | None


@dataclass(frozen=True, slots=True)
class LastClaimEnded:
    """No client has a claim now."""


Effect = Arm | LastClaimEnded


class Lease(Machine[Claim]):
    """One client's claim. `until` is set exactly while held; `streams` is not empty exactly while attached/released."""

    table: ClassVar[Mapping[Enum, Mapping[str, Sequence[Enum]]]] = {
        Claim.HELD: {
            "created": (Claim.HELD,),
            "attached": (Claim.ATTACHED,),
            "released": (Claim.ENDED,),
            "retired": (Claim.ENDED,),
            "elapsed": (Claim.ENDED,),
        },
        Claim.ATTACHED: {
            "created": (Claim.ATTACHED,),
            "attached": (Claim.ATTACHED,),
            "detached": (Claim.ATTACHED, Claim.HELD),
            "released": (Claim.RELEASED,),
            "retired": (Claim.ENDED,),
        },
        Claim.RELEASED: {
            "created": (Claim.ATTACHED,),
            "attached": (Claim.RELEASED,),
            "detached": (Claim.RELEASED, Claim.ENDED),
            "released": (Claim.RELEASED,),
            "retired": (Claim.ENDED,),
        },
        Claim.ENDED: {},
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
            self._move("detached", Claim.ENDED)
        else:
            self._move("detached", Claim.HELD)
            self.until = until

    def released(self) -> None:
        self._move("released", Claim.ENDED if self.state is Claim.HELD else Claim.RELEASED)

    def retired(self) -> None:
        self._move("retired", Claim.ENDED)

    def elapsed(self) -> None:
        self._move("elapsed", Claim.ENDED)


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
        """The number of streams that are open under a claim."""
        return sum(len(lease.streams) for lease in self._leases.values())

    @property
    def attached_clients(self) -> int:
        """The number of clients with at least one stream."""
        return sum(1 for lease in self._leases.values() if lease.streams)

    def create(self, client_id: ClientId, now: float) -> list[Effect]:
        """The client created (or found) the workspace: start a new hold, or forget an earlier release."""
        until = now + self._create_grace_s
        lease = self._leases.get(client_id)
        if lease is None:
            self._leases[client_id] = Lease(until=until)
        else:
            lease.created(until)
        return [self._arm()]

    def attach(self, client_id: ClientId, stream: int) -> list[Effect]:
        """A stream of the client was opened; a client that never created may do that too."""
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
            return []  # the client retired meanwhile: the stream outlived its claim
        lease.detached(stream, now + self._detach_grace_s)
        return self._ended(client_id, lease)

    def release(self, client_id: ClientId) -> list[Effect]:
        """The client released the workspace. Its streams stay open. An unknown client changes nothing."""
        lease = self._leases.get(client_id)
        if lease is None:
            return []
        lease.released()
        return self._ended(client_id, lease)

    def retire(self, client_id: ClientId) -> list[Effect]:
        """The client leaves for good: its claim ends at once, streams or not."""
        lease = self._leases.get(client_id)
        if lease is None:
            return []
        lease.retired()
        return self._ended(client_id, lease)

    def elapsed(self, now: float) -> list[Effect]:
        """Time has passed: end the holds that expired."""
        expired = [(c, lease) for c, lease in self._leases.items() if lease.until is not None and lease.until <= now]
        for client_id, lease in expired:
            lease.elapsed()
            del self._leases[client_id]
        return [self._arm(), *([LastClaimEnded()] if expired and not self._leases else [])]

    def view(self, client_id: ClientId, session_id: SessionId) -> None:
        """The client looks at this session now ("" for none). Raises Conflict `not_attached` without a stream."""
        lease = self._leases.get(client_id)
        if lease is None or not lease.streams:
            raise Conflict(
                "cannot set the current session: this client has no open event stream here; open one first",
                code="not_attached",
            )
        lease.viewed = session_id

    def viewed(self) -> dict[SessionId, int]:
        """Return the sessions that attached clients look at, with the number of clients for each."""
        return dict(Counter(lease.viewed for lease in self._leases.values() if lease.streams and lease.viewed))

    def _ended(self, client_id: ClientId, lease: Lease) -> list[Effect]:
        if lease.state is Claim.ENDED:
            del self._leases[client_id]
            return [self._arm(), *([] if self._leases else [LastClaimEnded()])]
        return [self._arm()]

    def _arm(self) -> Arm:
        return Arm(min((lease.until for lease in self._leases.values() if lease.until is not None), default=None))
