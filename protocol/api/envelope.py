"""The envelope of an event on the stream (http-api 4.3): `type` first, so that a client keeps it in any case."""

from typing import Literal

import msgspec

Change = Literal["created", "updated", "deleted"]


class StreamReset(msgspec.Struct, frozen=True, kw_only=True):
    """Of our own event `reset`: what came before is not told any more. Read all anew, go on from `cursor`."""

    reason: str
    cursor: str  # "" while the event log is not known


_encoder = msgspec.json.Encoder()


def envelope(kind: str, change: Change, payload: msgspec.Struct) -> bytes:
    """The JSON of one event, on one line."""
    inner = _encoder.encode(payload)
    return b'{"type":"%b","payload":{"type":"%b","payload":%b}}' % (kind.encode(), change.encode(), inner)
