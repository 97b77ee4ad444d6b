"""Test the parser of server-sent events: every form of lines, any split of the bytes, and the limits (L05)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models.transport.sse import Event, EventParser, TooLong


def parse(*chunks: bytes) -> list[Event]:
    parser = EventParser()
    return [*(event for chunk in chunks for event in parser.feed(chunk)), *parser.end()]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
        (b"event: x\ndata: a\n\n", [("x", b"a")]),
        (b"data: a\nevent:x\n\n", [("x", b"a")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b": comment\n\n: another\ndata: a\n\n", [("", b"a")]),
        (b"id: 7\nretry: 10\ndata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
        (b"event: x\n\n", []),
        (b"data\n\ndata:\n\n", []),
        (b"dat: a\n\ndatas: b\n\n", []),
        (b'data: {"x": "a\\nb"}\n\n', [("", b'{"x": "a\\nb"}')]),
    ],
)
def test_the_forms_of_an_event(stream: bytes, events: list[Event]) -> None:
    assert parse(stream) == events


_lines = st.sampled_from(
    [
        b"data: x",
        b"data:",
        b"data: [DONE]",
        b"event: e",
        b": c",
        b"\xef\xbb\xbf",
        b"junk",
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\n",
    ]
)


@given(st.lists(_lines, max_size=20).map(b"".join), st.data())
def test_events_do_not_depend_on_how_the_bytes_are_split(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*pieces) == parse(stream)
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == parse(stream)


@pytest.mark.parametrize(
    ("rest", "events"),
    [
        (b"data: [DONE]", [("", b"[DONE]")]),
        (b"data:[DONE]\r", [("", b"[DONE]")]),
        (b"data: a\n", [("", b"a")]),
        (b"data: {half", []),
        (b'{"error": "no"}', [("", b'{"error": "no"}')]),
        (b'\n {"error": "no"}', [("", b'\n {"error": "no"}')]),
    ],
)
def test_what_the_last_empty_line_does_not_end(rest: bytes, events: list[Event]) -> None:
    assert parse(b"data: x\n\n" + rest) == [("", b"x"), *events]


def test_L05_an_event_without_end_is_refused_at_the_limit() -> None:
    parser = EventParser(event_max=10)
    assert parser.feed(b"data: 1\n\ndata: 2") == [("", b"1")]
    assert parser.feed(b"3\n\n") == [("", b"23")]
    assert parser.feed(b"data: 4\n") == []
    with pytest.raises(TooLong, match="one event is longer than 10 bytes"):
        parser.feed(b"data")


def test_L05_events_before_the_excess_are_returned_first() -> None:
    parser = EventParser(event_max=10)
    assert parser.feed(b"data: 1\n\n" + b"x" * 20) == [("", b"1")]
    with pytest.raises(TooLong):
        parser.feed(b"x")
    with pytest.raises(TooLong):
        parser.end()


def test_L05_the_whole_answer_has_its_own_limit() -> None:
    parser = EventParser(10, 30)
    assert [parser.feed(b"data: xx\n\n") for _ in range(3)] == [[("", b"xx")]] * 3
    with pytest.raises(TooLong, match="the answer is longer than 30 bytes"):
        parser.feed(b"\n")
