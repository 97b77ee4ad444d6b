"""Requests that wait: whatever happens in whatever order, each is decided once, by its first caller, and nothing else
grants anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base.machine import InvalidTransition
from worker.permissions.client_presence import ClientPresence
from worker.permissions.requests import PendingRequests, RequestDecision, RequestMachine
from worker.store.rows import RequestState, StoredRequest

IDS = ("a", "b", "c")
FACTS = st.lists(
    st.tuples(
        st.sampled_from(("asked", "allow", "allow_session", "deny", "expire", "stored", "undone", "leave")),
        st.sampled_from(IDS),
    ),
    max_size=60,
)


def asked(ask_id: str, session: str = "s") -> StoredRequest:
    return StoredRequest(ask_id, "permission", session, "r", f"call-{ask_id}", tool="bash", action="execute", path="/w")


@given(FACTS)
def test_each_request_is_decided_once_and_by_the_first(facts: list[tuple[str, str]]) -> None:
    pending = PendingRequests()
    deciding: dict[str, RequestDecision] = {}  # taken, and not yet on disk
    ended: dict[str, RequestDecision | None] = {}  # None: its run left
    left: set[str] = set()
    known: set[str] = set()
    for fact, ask_id in facts:
        is_open = ask_id in known and ask_id not in deciding and ask_id not in ended
        match fact:
            case "asked" if ask_id not in known:
                pending.asked(asked(ask_id))
                known.add(ask_id)
            case "allow" | "allow_session" | "deny" | "expire":
                if fact == "expire":
                    decision = pending.expire(ask_id, "late")
                else:
                    decision = pending.resolve(
                        ask_id, fact, granted=fact != "deny", for_session=fact == "allow_session"
                    )
                assert (decision is not None) == is_open
                if decision is not None:
                    assert decision.granted == (fact in ("allow", "allow_session"))
                    assert decision.for_session == (fact == "allow_session")
                    deciding[ask_id] = decision
            case "stored" if ask_id in deciding:
                pending.stored(ask_id)
                ended[ask_id] = deciding.pop(ask_id)
            case "undone" if ask_id in deciding:
                pending.undone(ask_id)
                del deciding[ask_id]
                if ask_id in left:
                    ended[ask_id] = None
            case "leave":
                pending.leave(ask_id)
                if ask_id in known:
                    left.add(ask_id)
                if is_open:
                    ended[ask_id] = None
        assert {one.id for one in pending.open()} == known - set(deciding) - set(ended)
        assert len(pending) == len(known) - len(ended)
        for one in IDS:
            assert (one in pending) == (one in known and one not in ended)


@given(st.lists(st.sampled_from(("allow", "deny", "expire", "stored", "undone", "leave")), max_size=12), st.booleans())
def test_a_dead_worker_leaves_nothing_open(facts: list[str], is_stored: bool) -> None:
    """What was open in the file is void; what was decided there stays decided."""
    ask = RequestMachine(asked("a"))
    for fact in facts:
        match fact:
            case "allow" | "deny":
                ask.take(RequestDecision(ask.asked, RequestState.RESOLVED, fact, fact == "allow"))
            case "expire":
                ask.take(RequestDecision(ask.asked, RequestState.EXPIRED, "late"))
            case "stored" if ask.state is RequestState.DECIDING:
                ask.stored()
            case "undone" if ask.state is RequestState.DECIDING:
                ask.undone()
            case "leave":
                ask.leave()
    if ask.state is RequestState.DECIDING and is_stored:
        ask.died(RequestState.RESOLVED)
        assert ask.state is RequestState.RESOLVED
    elif ask.state in (RequestState.OPEN, RequestState.DECIDING):
        ask.died()
        assert ask.state is RequestState.VOID
        assert not ask.take(RequestDecision(ask.asked, RequestState.RESOLVED, "allow", True)), "a late answer"
    else:
        with pytest.raises(InvalidTransition):
            ask.died()


def test_a_grant_for_the_session_covers_what_is_alike() -> None:
    pending = PendingRequests()
    for ask_id, session in (("a", "s"), ("b", "s"), ("c", "other")):
        pending.asked(asked(ask_id, session))
    assert [one.id for one in pending.alike(asked("a"))] == ["b"]
    pending.resolve("b", "deny")
    assert pending.alike(asked("a")) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(("clients", "said")), st.integers(0, 3), st.floats(0.1, 20, allow_nan=False)),
        max_size=30,
    )
)
def test_who_said_that_it_can_answer_is_believed_while_it_is_here(facts: list[tuple[str, int, float]]) -> None:
    presence = ClientPresence(grace_s=10.0)
    now = 0.0
    empty_since: float | None = None
    clients, said = 0, None
    for what, value, passed in facts:
        now += passed
        if empty_since is not None and now - empty_since > 10.0:
            said = empty_since = None
        if what == "clients":
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
