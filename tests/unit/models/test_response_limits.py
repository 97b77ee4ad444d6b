"""L05: how many bytes an event, and an answer, may have."""

from hypothesis import given
from hypothesis import strategies as st

from worker.models.response_limits import EventMeter

pieces = st.lists(st.sampled_from([b"data: x", b"\n", b"\r\n", b"\r", b"\n\n", b"yyyyyyyy", b""]), max_size=30)


@given(pieces, st.integers(1, 7))
def test_it_does_not_matter_how_the_bytes_come(found: list[bytes], size: int) -> None:
    whole = b"".join(found)
    fine, coarse = EventMeter(12, 100), EventMeter(12, 100)
    by_bytes = [fine.take(whole[at : at + 1]) for at in range(len(whole))]
    # Coarse chunks may hide an event that was too long and has ended, never one that still grows.
    for at in range(0, len(whole), size):
        said = coarse.take(whole[at : at + size])
        end = min(at + size, len(whole))
        assert said == by_bytes[end - 1]


def test_an_event_that_does_not_end_is_too_long_and_one_that_ends_is_forgotten() -> None:
    meter = EventMeter(10, 1000)
    assert meter.take(b"data: 1\n\n") == ""
    assert meter.take(b"data: 2\r\n\r\n") == ""
    assert meter.take(b"data: 3\n") == ""
    assert "event is longer than 10" in meter.take(b"data")
    assert meter.take(b"\n\n") == ""


def test_an_answer_has_a_bound_of_its_own() -> None:
    meter = EventMeter(10, 30)
    assert [meter.take(b"12345678\n\n") for _ in range(3)] == ["", "", ""]
    assert "answer is longer than 30" in meter.take(b"\n")
