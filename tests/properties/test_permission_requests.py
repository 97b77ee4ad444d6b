"""Open permission requests under random facts: each is decided once, by its first caller."""

from hypothesis import given
from hypothesis import strategies as st

from worker.permissions.client_presence import ClientPresence
from worker.permissions.requests import PendingRequests, RequestDecision
from worker.store.rows import StoredRequest

IDS = ("a", "b", "c")
FACTS = st.lists(
    st.tuples(
        st.sampled_from(("add", "allow", "allow_session", "deny", "expire", "stored", "undone", "abandon")),
        st.sampled_from(IDS),
    ),
    max_size=60,
)


def stored(request_id: str, session: str = "s") -> StoredRequest:
    call = f"call-{request_id}"
    return StoredRequest(request_id, "permission", session, "r", call, tool="bash", action="execute", path="/w")


@given(FACTS)
def test_each_request_is_decided_once_by_the_first_caller(facts: list[tuple[str, str]]) -> None:
    pending = PendingRequests()
    deciding: dict[str, RequestDecision] = {}  # decided, not yet stored
    ended: dict[str, RequestDecision | None] = {}  # None: its run no longer waited
    abandoned: set[str] = set()
    added: set[str] = set()
    for fact, request_id in facts:
        is_open = request_id in added and request_id not in deciding and request_id not in ended
        match fact:
            case "add" if request_id not in added:
                pending.add(stored(request_id))
                added.add(request_id)
            case "allow" | "allow_session" | "deny" | "expire":
                if fact == "expire":
                    decision = pending.expire(request_id, "late")
                else:
                    decision = pending.resolve(
                        request_id, fact, granted=fact != "deny", for_session=fact == "allow_session"
                    )
                assert (decision is not None) == is_open
                if decision is not None:
                    assert decision.granted == (fact in ("allow", "allow_session"))
                    assert decision.for_session == (fact == "allow_session")
                    deciding[request_id] = decision
            case "stored" if request_id in deciding:
                pending.stored(request_id)
                ended[request_id] = deciding.pop(request_id)
            case "undone" if request_id in deciding:
                pending.undone(request_id)
                del deciding[request_id]
                if request_id in abandoned:
                    ended[request_id] = None
            case "abandon":
                pending.abandon(request_id)
                if request_id in added:
                    abandoned.add(request_id)
                if is_open:
                    ended[request_id] = None
        assert {one.id for one in pending.open()} == added - set(deciding) - set(ended)
        assert len(pending) == len(added) - len(ended)
        for known_id in IDS:
            assert (known_id in pending) == (known_id in added and known_id not in ended)


async def test_a_grant_for_the_session_covers_equivalent_requests() -> None:
    pending = PendingRequests()
    for request_id, session in (("a", "s"), ("b", "s"), ("c", "other")):
        pending.add(stored(request_id, session))
    assert [one.id for one in pending.equivalent(stored("a"))] == ["b"]
    pending.resolve("b", "deny")
    assert pending.equivalent(stored("a")) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(("clients", "said")), st.integers(0, 3), st.floats(0.1, 20, allow_nan=False)),
        max_size=30,
    )
)
def test_a_client_that_can_answer_counts_while_it_is_attached(facts: list[tuple[str, int, float]]) -> None:
    presence = ClientPresence(grace_s=10.0)
    now = 0.0
    empty_since: float | None = None
    clients, said = 0, None
    for fact, value, passed_s in facts:
        now += passed_s
        if empty_since is not None and now - empty_since > 10.0:
            said = empty_since = None
        if fact == "clients":
            if clients and not value:
                empty_since = now
            elif value:
                empty_since = None
            clients = value
            presence.attached(value, now)
        else:
            said = bool(value % 2) or (bool(said) and clients > 0)
            presence.said(bool(value % 2), now)
        assert presence.clients == clients
        assert presence.is_interactive(now) is said
        assert presence.cannot_answer(now) == (said is False and clients <= 1)
