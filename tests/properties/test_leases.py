"""Random facts for the leases of clients: the claims always agree with a simple model."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.ids import ClientId
from supervisor.workspaces.leases import Arm, Effect, LastClaimEnded, Leases

CLIENTS = st.sampled_from([ClientId(name) for name in "abc"])
CREATE_S, DETACH_S = 30.0, 10.0


class LeasesMachine(RuleBasedStateMachine):
    """Model: the open streams of each client, the end of its grace, and whether it released its lease."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(create_grace_s=CREATE_S, detach_grace_s=DETACH_S)
        self.now = 0.0
        self.number = 0
        self.streams: dict[ClientId, set[int]] = {}
        self.until: dict[ClientId, float] = {}
        self.was_released: set[ClientId] = set()
        self.open: list[tuple[ClientId, int]] = []  # all open streams, also those of retired clients
        self.armed: float | None = None

    def claims(self) -> set[ClientId]:
        return {client for client, streams in self.streams.items() if streams} | set(self.until)

    def perform(self, effects: list[Effect], before: set[ClientId]) -> None:
        for effect in effects:
            if isinstance(effect, Arm):
                self.armed = effect.at
        ended = [effect for effect in effects if isinstance(effect, LastClaimEnded)]
        assert len(ended) == (1 if before and not self.claims() else 0)

    @rule(client=CLIENTS)
    def create(self, client: ClientId) -> None:
        before = self.claims()
        if self.streams.get(client):
            self.was_released.discard(client)
        else:
            self.until[client] = self.now + CREATE_S
        self.perform(self.leases.create(client, self.now), before)

    @rule(client=CLIENTS)
    def attach(self, client: ClientId) -> None:
        before = self.claims()
        self.number += 1
        self.streams.setdefault(client, set()).add(self.number)
        self.until.pop(client, None)
        self.open.append((client, self.number))
        self.perform(self.leases.attach(client, self.number), before)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        before = self.claims()
        client, number = data.draw(st.sampled_from(self.open))
        self.open.remove((client, number))
        if number in self.streams.get(client, set()):
            self.streams[client].discard(number)
            if not self.streams[client]:
                if client in self.was_released:
                    self.was_released.discard(client)
                else:
                    self.until[client] = self.now + DETACH_S
        self.perform(self.leases.detach(client, number, self.now), before)

    @rule(client=CLIENTS)
    def release(self, client: ClientId) -> None:
        before = self.claims()
        if self.streams.get(client):
            self.was_released.add(client)
        else:
            self.until.pop(client, None)
        self.perform(self.leases.release(client), before)

    @rule(client=CLIENTS)
    def retire(self, client: ClientId) -> None:
        before = self.claims()
        self.streams.pop(client, None)
        self.until.pop(client, None)
        self.was_released.discard(client)
        self.perform(self.leases.retire(client), before)

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.armed is not None and self.armed <= self.now:  # the timer fires, and only then
            before = self.claims()
            self.until = {client: until for client, until in self.until.items() if until > self.now}
            self.perform(self.leases.elapsed(self.now), before)

    @invariant()
    def the_claims_agree_with_the_model(self) -> None:
        assert len(self.leases) == len(self.claims())
        assert self.leases.streams == sum(len(streams) for streams in self.streams.values())
        assert self.leases.attached_clients == sum(1 for streams in self.streams.values() if streams)

    @invariant()
    def the_timer_is_set_for_the_next_grace(self) -> None:
        assert self.armed == min(self.until.values(), default=None)


TestLeases = LeasesMachine.TestCase
