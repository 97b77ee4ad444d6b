"""Encoding of messages, and bytes that are not messages."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import (
    TooLarge,
    VersionUnknown,
    WireError,
    decode_to_supervisor,
    decode_to_worker,
    encode,
)
from protocol.errors import ErrorInfo
from protocol.events import Event
from protocol.ids import Epoch, Generation, RunId, SessionId, WorkspaceId
from protocol.messages import (
    Answer,
    Attached,
    Call,
    CancelCall,
    Closing,
    Credit,
    EventBatch,
    Heartbeat,
    Hello,
    LastWord,
    Ready,
    Refusal,
    SendWhole,
    Shutdown,
    ToSupervisor,
    ToWorker,
    Welcome,
)
from protocol.version import SPEAKABLE, WIRE_VERSION

MAX = 1_000_000
ERROR = ErrorInfo(code="busy", message="cannot: it is busy", status=409, retryable=True, details={"id": "s"})
TO_WORKER: list[ToWorker] = [
    Welcome(epoch=Epoch(3), credit=10),
    Refusal(error=ERROR),
    Call(call_id="c", epoch=Epoch(3), operation="session.get", args={"sid": "ü"}, body=b'{"a":1}', within_s=1.5),
    CancelCall(call_id="c", epoch=Epoch(3)),
    Credit(more=5),
    SendWhole(keys=["m"]),
    Attached(epoch=Epoch(3), clients=2),
    Shutdown(epoch=Epoch(3), reason="idle", drain_s=1.0, flush_s=2.0),
]
TO_SUPERVISOR: list[ToSupervisor] = [
    Hello(
        wire_version=1,
        code_version="0.1.0",
        workspace_id=WorkspaceId("w"),
        generation=Generation(2),
        token="t",
        pid=7,
        start_ticks=8,
        boot_id="b",
        epoch=Epoch(0),
        ready=False,
    ),
    Ready(log_id="l", last_number=3, open_runs=1, interrupted=[RunId("r")]),
    Heartbeat(sequence=1, loop_lag_s=0.001, open_runs=2, degraded="storage full"),
    Answer(call_id="c", status=404, error=ERROR),
    EventBatch(events=[Event(kind="message", data=b"{}", number=4, key="m", session_id=SessionId("s"))]),
    Closing(stage="draining", open_runs=1),
    LastWord(reason="idle", last_number=9, cancelled_runs=1, left_runs=[RunId("r")], flushed=True),
]


def frame(**fields: object) -> bytes:
    return bytes([WIRE_VERSION]) + msgspec.msgpack.encode(fields)


def test_each_message_is_decoded_as_it_was_encoded() -> None:
    assert {type(message) for message in TO_WORKER} == set(get_args(ToWorker))
    assert {type(message) for message in TO_SUPERVISOR} == set(get_args(ToSupervisor))
    for command in TO_WORKER:
        assert decode_to_worker(encode(command, max_bytes=MAX)) == command
    for message in TO_SUPERVISOR:
        assert decode_to_supervisor(memoryview(encode(message, max_bytes=MAX))) == message


def test_the_two_directions_are_not_mixed_up() -> None:
    for message in TO_SUPERVISOR:
        with pytest.raises(WireError):
            decode_to_worker(encode(message, max_bytes=MAX))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01garbage",
        frame(op="hello"),
        b"\x01" + msgspec.msgpack.encode("text"),
        b"\x01" + b"\x91" * 100_000 + b"\xc0",
        b"\x01\x82\xa2op\xa7closing\xa5stage\xa1\xff",
    ],
    ids=["empty", "version only", "garbage", "missing fields", "no map", "deep", "invalid UTF-8"],
)
def test_Z04_bytes_that_are_not_a_message_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_to_supervisor(data)
    with pytest.raises(WireError):
        decode_to_worker(data)


def test_Z04_every_truncation_is_a_wire_error() -> None:
    for message in TO_SUPERVISOR:
        whole = encode(message, max_bytes=MAX)
        for length in range(len(whole)):
            with pytest.raises(WireError):
                decode_to_supervisor(whole[:length])


@given(st.binary(max_size=200))
def test_Z04_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    for bytes_ in (data, b"\x01" + data):
        for decode in (decode_to_worker, decode_to_supervisor):
            try:
                decode(bytes_)
            except WireError:
                pass


@given(st.integers(0, len(TO_SUPERVISOR) - 1), st.data())
def test_Z04_a_message_with_flipped_bytes_is_a_message_or_a_wire_error(index: int, data: st.DataObject) -> None:
    whole = bytearray(encode(TO_SUPERVISOR[index], max_bytes=MAX))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_to_supervisor(bytes(whole))
    except WireError:
        pass


def test_Z05_a_message_above_the_limit_is_refused_by_the_sender() -> None:
    message = Answer(call_id="c", body=b"x" * 100)
    size = len(encode(message, max_bytes=MAX))
    assert encode(message, max_bytes=size)
    with pytest.raises(TooLarge, match="Answer"):
        encode(message, max_bytes=size - 1)


def test_Z06_the_error_names_an_unknown_version() -> None:
    assert WIRE_VERSION in SPEAKABLE
    with pytest.raises(VersionUnknown) as caught:
        decode_to_supervisor(b"\x63anything")
    assert caught.value.version == 0x63


def test_Z06_an_unknown_tag_or_a_missing_field_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="nonsense"):
        decode_to_worker(frame(op="nonsense"))
    with pytest.raises(WireError, match="more"):
        decode_to_worker(frame(op="credit"))
    with pytest.raises(WireError):
        decode_to_worker(frame(op="credit", more="five"))


def test_Z06_unknown_fields_are_ignored_and_optional_ones_may_be_missing() -> None:
    assert decode_to_worker(frame(op="credit", more=5, colour="blue")) == Credit(more=5)
    old = frame(op="heartbeat", sequence=1, loop_lag_s=0.0, open_runs=0)
    assert decode_to_supervisor(old) == Heartbeat(sequence=1, loop_lag_s=0.0, open_runs=0)


def test_Z06_messages_of_version_1_are_still_decoded() -> None:
    old = bytes.fromhex("0182a26f70a6637265646974a46d6f726505")
    assert decode_to_worker(old) == Credit(more=5)
