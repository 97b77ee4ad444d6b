"""The leases of clients: which effects follow from which facts."""

import pytest

from protocol.errors import Conflict
from protocol.ids import ClientId, SessionId
from supervisor.workspaces.leases import Arm, LastClaimEnded, Leases

A, B = ClientId("a"), ClientId("b")


def leases() -> Leases:
    return Leases(create_grace_s=30, detach_grace_s=10)


def test_a_create_holds_the_lease_for_the_create_grace() -> None:
    claims = leases()
    assert claims.create(A, now=0) == [Arm(30)]
    assert claims.elapsed(now=29.9) == [Arm(30)]
    assert claims.elapsed(now=30) == [Arm(None), LastClaimEnded()]
    assert len(claims) == 0


def test_a_stream_ends_the_create_grace_and_its_end_starts_the_detach_grace() -> None:
    claims = leases()
    claims.create(A, now=0)
    assert claims.attach(A, stream=1) == [Arm(None)]
    assert claims.attached_clients == 1
    assert claims.detach(A, stream=1, now=100) == [Arm(110)]
    assert (claims.attached_clients, len(claims)) == (0, 1)
    assert claims.attach(A, stream=2) == [Arm(None)]
    claims.detach(A, stream=2, now=200)
    assert claims.elapsed(now=210) == [Arm(None), LastClaimEnded()]


def test_a_stream_of_a_client_that_never_created_is_a_claim() -> None:
    claims = leases()
    assert claims.attach(A, stream=1) == [Arm(None)]
    assert claims.attached_clients == 1


def test_the_detach_grace_starts_with_the_end_of_the_last_stream() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.attach(A, stream=2)
    assert claims.detach(A, stream=1, now=5) == [Arm(None)]
    assert claims.detach(A, stream=2, now=6) == [Arm(16)]


def test_a_release_without_a_stream_ends_the_claim_at_once() -> None:
    claims = leases()
    claims.create(A, now=0)
    assert claims.release(A) == [Arm(None), LastClaimEnded()]
    assert claims.release(A) == []


def test_a_release_with_open_streams_skips_the_detach_grace() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.attach(A, stream=2)
    assert claims.release(A) == [Arm(None)]
    assert claims.detach(A, stream=1, now=5) == [Arm(None)]
    assert claims.detach(A, stream=2, now=6) == [Arm(None), LastClaimEnded()]


def test_a_create_clears_an_earlier_release() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.release(A)
    claims.create(A, now=50)
    assert claims.detach(A, stream=1, now=60) == [Arm(70)]


def test_a_repeated_create_restarts_the_grace_and_keeps_the_session() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.view(A, SessionId("s"))
    claims.detach(A, stream=1, now=0)
    assert claims.create(A, now=5) == [Arm(35)]
    claims.attach(A, stream=2)
    assert claims.viewed() == {"s": 1}


def test_a_retired_client_loses_its_claim_although_its_stream_is_open() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.attach(B, stream=2)
    assert claims.retire(A) == [Arm(None)]
    assert claims.retire(B) == [Arm(None), LastClaimEnded()]
    assert claims.detach(A, stream=1, now=9) == []


def test_a_stream_of_an_earlier_claim_does_not_count_for_the_next_one() -> None:
    claims = leases()
    claims.attach(A, stream=1)
    claims.retire(A)
    claims.attach(A, stream=2)
    assert claims.detach(A, stream=1, now=9) == []
    assert claims.attached_clients == 1


def test_the_end_of_the_last_claim_is_reported_once() -> None:
    claims = leases()
    claims.create(A, now=0)
    claims.create(B, now=1)
    assert claims.elapsed(now=30) == [Arm(31)]
    assert claims.elapsed(now=31) == [Arm(None), LastClaimEnded()]
    assert claims.elapsed(now=32) == [Arm(None)]


def test_the_current_session_needs_an_open_stream() -> None:
    claims = leases()
    claims.create(A, now=0)
    with pytest.raises(Conflict) as refused:
        claims.view(A, SessionId("s"))
    assert refused.value.code == "not_attached"
    claims.attach(A, stream=1)
    claims.view(A, SessionId("s"))
    assert claims.viewed() == {"s": 1}
    claims.detach(A, stream=1, now=0)
    assert claims.viewed() == {}  # kept, but not counted
