"""Encode and decode the messages between supervisor and worker, with the size limit. Invalid bytes raise `WireError`.

A frame is one byte with the wire version, then msgpack. The version is outside the msgpack, so that a peer with an
unsupported version still gets a typed refusal.
"""

from typing import TypeVar

import msgspec

from protocol.messages import ToSupervisor, ToWorker
from protocol.version import WIRE_VERSION, is_speakable


class WireError(Exception):
    """The bytes are not a valid message. The receiver drops and counts them, and disconnects a peer that sends many."""


class TooLarge(WireError):
    """The message exceeds the limit. It is refused before it is sent: libzmq would close the link without an error."""


class VersionUnknown(WireError):
    """The peer uses an unsupported wire version; `version` is the one it announced."""

    def __init__(self, version: int) -> None:
        super().__init__(f"cannot read wire version {version}; this side supports {WIRE_VERSION}")
        self.version = version


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_supervisor: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)
_VERSION = bytes([WIRE_VERSION])


def encode(message: ToWorker | ToSupervisor, *, max_bytes: int) -> bytes:
    """Return the frame of `message`. Raises TooLarge above `max_bytes`."""
    frame = _VERSION + _encoder.encode(message)
    if len(frame) > max_bytes:
        raise TooLarge(f"cannot send a {type(message).__name__} of {len(frame)} bytes; the limit is {max_bytes}")
    return frame


def decode_to_worker(frame: bytes | memoryview) -> ToWorker:
    """Decode a message sent by a supervisor. Raises WireError."""
    return _decode(frame, _to_worker)


def decode_to_supervisor(frame: bytes | memoryview) -> ToSupervisor:
    """Decode a message sent by a worker. Raises WireError."""
    return _decode(frame, _to_supervisor)


def _decode(frame: bytes | memoryview, decoder: "msgspec.msgpack.Decoder[T]") -> T:
    if len(frame) < 2:
        raise WireError("cannot read a frame without a body")
    if not is_speakable(frame[0]):
        raise VersionUnknown(frame[0])
    try:
        return decoder.decode(memoryview(frame)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"cannot read the frame: {error}") from error
