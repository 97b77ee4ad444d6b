"""Bytes to messages and back, with the size limit; anything odd is a `WireError`.

A frame is one byte of wire version, then msgpack. The version stands outside the msgpack so that a peer of a
version we cannot read still gets a typed refusal.
"""

from typing import TypeVar

import msgspec

from protocol.messages import ToSupervisor, ToWorker
from protocol.version import WIRE_VERSION, is_speakable


class WireError(Exception):
    """These bytes are no message of ours. Drop them, count them, cut the peer that sends too many."""


class TooLarge(WireError):
    """A message above the limit; refused before it is sent, because libzmq would drop the link without an error."""


class VersionUnknown(WireError):
    """The peer speaks a wire version that we don't; `version` is what it announced."""

    def __init__(self, version: int) -> None:
        super().__init__(f"cannot understand wire version {version}; this side speaks {WIRE_VERSION}")
        self.version = version


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_supervisor: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)
_VERSION = bytes([WIRE_VERSION])


def encode(message: ToWorker | ToSupervisor, *, max_bytes: int) -> bytes:
    """The frame of `message`. Raises TooLarge above `max_bytes`."""
    frame = _VERSION + _encoder.encode(message)
    if len(frame) > max_bytes:
        raise TooLarge(f"cannot send a {type(message).__name__} of {len(frame)} bytes; the limit is {max_bytes}")
    return frame


def decode_to_worker(frame: bytes | memoryview) -> ToWorker:
    """The message that a supervisor sent. Raises WireError."""
    return _decode(frame, _to_worker)


def decode_to_supervisor(frame: bytes | memoryview) -> ToSupervisor:
    """The message that a worker sent. Raises WireError."""
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
