"""Test the size limits of one event and of a whole answer (L05)."""

from hypothesis import given
from hypothesis import strategies as st

from worker.models.extras.response_limits import EventMeter

PIECES = st.lists(st.sampled_from([b"data: x", b"\n", b"\r\n", b"\r", b"\n\n", b"yyyyyyyy", b""]), max_size=30)


@given(PIECES, st.integers(1, 7))
def test_the_limits_do_not_depend_on_how_the_bytes_are_split(pieces: list[bytes], size: int) -> None:
    whole = b"".join(pieces)
    fine, coarse = EventMeter(12, 100), EventMeter(12, 100)
    by_bytes = [fine.take(whole[at : at + 1]) for at in range(len(whole))]
    # Large chunks may hide an event that was too long and has ended, but never one that has not ended.
    for at in range(0, len(whole), size):
        error = coarse.take(whole[at : at + size])
        end = min(at + size, len(whole))
        assert error == by_bytes[end - 1]


def test_only_the_event_that_has_not_ended_counts_against_the_event_limit() -> None:
    meter = EventMeter(10, 1000)
    assert meter.take(b"data: 1\n\n") == ""
    assert meter.take(b"data: 2\r\n\r\n") == ""
    assert meter.take(b"data: 3\n") == ""
    assert "event is longer than 10" in meter.take(b"data")
    assert meter.take(b"\n\n") == ""


def test_the_whole_answer_has_its_own_limit() -> None:
    meter = EventMeter(10, 30)
    assert [meter.take(b"12345678\n\n") for _ in range(3)] == ["", "", ""]
    assert "answer is longer than 30" in meter.take(b"\n")
