"""Frames survive any cutting; a server's life survives any order of facts; edits are what they say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.lsp.edits import apply_edits, units_of
from worker.lsp.framing import HEADER_MAX_BYTES, BadFrame, Framer, encode
from worker.lsp.lifecycle import DELAYS_S, End, Launch, ServerLifecycle, ServerState
from worker.lsp.types import Position, Range, TextEdit

MAX = 300


@given(
    st.lists(st.one_of(st.text(max_size=400), st.integers()), max_size=8),
    st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=20),
)
def test_frames_come_out_whole_however_they_are_cut_and_large_ones_are_left_out(values: list, cuts: list[int]) -> None:
    frames = [encode({"id": number, "result": value}) for number, value in enumerate(values)]
    fits = [len(frame.partition(b"\r\n\r\n")[2]) <= MAX for frame in frames]
    stream, framer, found, place = b"".join(frames), Framer(MAX), [], 0
    while stream:
        size = cuts[place % len(cuts)]
        found += framer.feed(stream[:size])
        stream, place = stream[size:], place + 1
    expected = [(n, value) for n, (value, fit) in enumerate(zip(values, fits, strict=True)) if fit]
    assert [(message.id, json.loads(bytes(message.result))) for message in found] == expected
    assert framer.skipped == fits.count(False)


@given(st.binary(max_size=2000))
def test_anything_else_is_refused_or_ignored_but_never_an_accident(data: bytes) -> None:
    framer = Framer(MAX)
    try:
        framer.feed(data)
        framer.feed(b"\r\n\r\n" + b"x" * HEADER_MAX_BYTES)
    except BadFrame:
        pass


def test_a_body_that_is_no_message_is_counted_and_a_header_without_a_length_ends_it() -> None:
    framer = Framer(MAX)
    assert framer.feed(b"Content-Length: 5\r\n\r\n[1,2]" + encode({"method": "x"}))[0].method == "x"
    assert framer.unreadable == 1
    with pytest.raises(BadFrame, match="without a valid Content-Length"):
        framer.feed(b"Hello: world\r\n\r\n")


FACTS = st.sampled_from(["wanted", "started", "failed", "stop", "time"])


@given(st.lists(FACTS, max_size=60), st.booleans())
def test_a_server_has_at_most_one_process_and_never_an_error_without_a_reason(facts: list[str], disabled: bool) -> None:
    life, now, processes = ServerLifecycle(is_disabled=disabled), 0.0, 0
    for fact in facts:
        match fact:
            case "wanted":
                effects = life.wanted(now)
            case "started" if life.state is ServerState.STARTING:
                effects = life.started(now)
            case "failed" if life.state in (ServerState.STARTING, ServerState.READY):
                effects = life.failed("why", now)
                assert life.retry_at <= now + DELAYS_S[-1]
            case "stop":
                effects = life.stop()
            case _:
                now += 7.0
                effects = []
        processes += sum(isinstance(e, Launch) for e in effects) - sum(isinstance(e, End) for e in effects)
        assert processes == (life.state in (ServerState.STARTING, ServerState.READY))
        assert (life.error != "") == (life.state is ServerState.ERROR)
        assert disabled == (life.state is ServerState.DISABLED)


def test_one_crash_costs_nothing_more_of_them_cost_time_and_a_stop_forgives() -> None:
    life = ServerLifecycle()

    def crash(now: float) -> float:
        assert life.wanted(now) == [Launch()]
        life.started(now)
        life.failed("crash", now)
        return life.retry_at - now

    assert crash(0.0) == 0.0
    assert crash(1.0) == 2.0
    assert life.wanted(2.9) == []
    assert crash(3.0) == 8.0
    assert life.wanted(11.0) == [Launch()]
    life.started(11.0)
    life.failed("crash", 11.0 + 60.0)
    assert life.retry_at == 71.0, "it was well for a minute"
    life.wanted(71.0)
    life.failed("no licence", 72.0)
    assert life.retry_at == 74.0, "a start that fails would fail again at once"
    life.stop()
    assert life.wanted(72.0) == [Launch()]


@given(st.text(alphabet="aé🙂\n\r x", max_size=60), st.data())
def test_an_edit_replaces_what_its_range_says(text: str, data: st.DataObject) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    number = data.draw(st.integers(0, len(lines) - 1))
    start = data.draw(st.integers(0, len(lines[number])))
    end = data.draw(st.integers(start, len(lines[number])))
    where = Range(
        start=Position(line=number, character=units_of(lines[number], start)),
        end=Position(line=number, character=units_of(lines[number], end)),
    )
    lines[number] = lines[number][:start] + "NEW" + lines[number][end:]
    changed = apply_edits(text, [TextEdit(range=where, newText="NEW")])
    assert changed.replace("\r\n", "\n").replace("\r", "\n") == "\n".join(lines)
