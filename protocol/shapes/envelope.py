"""The envelope of an event on the stream (http-api 4.3): `type` first, so that a client keeps it in any case."""

from typing import Literal

import msgspec

Change = Literal["created", "updated", "deleted"]
_encoder = msgspec.json.Encoder()


def envelope(kind: str, change: Change, payload: msgspec.Struct) -> bytes:
    """The JSON of one event, on one line."""
    inner = _encoder.encode(payload)
    return b'{"type":"%b","payload":{"type":"%b","payload":%b}}' % (kind.encode(), change.encode(), inner)
