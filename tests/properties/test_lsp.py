"""LSP: frames divided anywhere, the lifecycle under random facts, text edits."""

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
def test_frames_are_decoded_in_any_division_and_large_ones_are_skipped(
    values: list[str | int], cuts: list[int]
) -> None:
    frames = [encode({"id": number, "result": value}) for number, value in enumerate(values)]
    fits = [len(frame.partition(b"\r\n\r\n")[2]) <= MAX for frame in frames]
    stream, framer, index = b"".join(frames), Framer(MAX), 0
    messages = []
    while stream:
        size = cuts[index % len(cuts)]
        messages += framer.feed(stream[:size])
        stream, index = stream[size:], index + 1
    expected = [(n, value) for n, (value, fit) in enumerate(zip(values, fits, strict=True)) if fit]
    assert [(message.id, json.loads(bytes(message.result))) for message in messages] == expected
    assert framer.skipped == fits.count(False)


@given(st.binary(max_size=2000))
def test_other_bytes_are_refused_or_ignored_without_another_error(data: bytes) -> None:
    framer = Framer(MAX)
    try:
        framer.feed(data)
        framer.feed(b"\r\n\r\n" + b"x" * HEADER_MAX_BYTES)
    except BadFrame:
        pass


def test_an_invalid_body_is_counted_and_a_header_without_a_length_is_an_error() -> None:
    framer = Framer(MAX)
    assert framer.feed(b"Content-Length: 5\r\n\r\n[1,2]" + encode({"method": "x"}))[0].method == "x"
    assert framer.unreadable == 1
    with pytest.raises(BadFrame, match="without a valid Content-Length"):
        framer.feed(b"Hello: world\r\n\r\n")


FACTS = st.sampled_from(["wanted", "started", "failed", "stop", "time"])


@given(st.lists(FACTS, max_size=60), st.booleans())
def test_a_server_has_at_most_one_process_and_an_error_always_has_a_reason(facts: list[str], disabled: bool) -> None:
    server, now, processes = ServerLifecycle(is_disabled=disabled), 0.0, 0
    for fact in facts:
        match fact:
            case "wanted":
                effects = server.wanted(now)
            case "started" if server.state is ServerState.STARTING:
                effects = server.started(now)
            case "failed" if server.state in (ServerState.STARTING, ServerState.READY):
                effects = server.failed("why", now)
                assert server.retry_at <= now + DELAYS_S[-1]
            case "stop":
                effects = server.stop()
            case _:
                now += 7.0
                effects = []
        processes += sum(isinstance(e, Launch) for e in effects) - sum(isinstance(e, End) for e in effects)
        assert processes == (server.state in (ServerState.STARTING, ServerState.READY))
        assert (server.error != "") == (server.state is ServerState.ERROR)
        assert disabled == (server.state is ServerState.DISABLED)


def test_a_first_crash_has_no_delay_further_ones_do_and_a_stop_resets_it() -> None:
    server = ServerLifecycle()

    def crash(now: float) -> float:
        assert server.wanted(now) == [Launch()]
        server.started(now)
        server.failed("crash", now)
        return server.retry_at - now

    assert crash(0.0) == 0.0
    assert crash(1.0) == 2.0
    assert server.wanted(2.9) == []
    assert crash(3.0) == 8.0
    assert server.wanted(11.0) == [Launch()]
    server.started(11.0)
    server.failed("crash", 11.0 + 60.0)
    assert server.retry_at == 71.0, "it had run for a minute"
    server.wanted(71.0)
    server.failed("no licence", 72.0)
    assert server.retry_at == 74.0, "an immediate new start would fail as well"
    server.stop()
    assert server.wanted(72.0) == [Launch()]


@given(st.text(alphabet="aé🙂\n\r x", max_size=60), st.data())
def test_an_edit_replaces_exactly_its_range(text: str, data: st.DataObject) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    number = data.draw(st.integers(0, len(lines) - 1))
    start = data.draw(st.integers(0, len(lines[number])))
    end = data.draw(st.integers(start, len(lines[number])))
    target = Range(
        start=Position(line=number, character=units_of(lines[number], start)),
        end=Position(line=number, character=units_of(lines[number], end)),
    )
    lines[number] = lines[number][:start] + "NEW" + lines[number][end:]
    changed = apply_edits(text, [TextEdit(range=target, newText="NEW")])
    assert changed.replace("\r\n", "\n").replace("\r", "\n") == "\n".join(lines)
