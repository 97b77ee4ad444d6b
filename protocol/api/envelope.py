"""Build the envelope of an event on the event stream. `type` comes first: some clients depend on it."""

from typing import Literal

import msgspec

Change = Literal["created", "updated", "deleted"]


class StreamReset(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `reset`: events may be missing. Read the state again, and continue from `cursor`.

    `cursor` is empty while the event log of the workspace is not open yet.
    """

    reason: str
    cursor: str


_encoder = msgspec.json.Encoder()


def envelope(kind: str, change: Change, payload: msgspec.Struct) -> bytes:
    """Return the JSON of one event, on one line."""
    inner = _encoder.encode(payload)
    return b'{"type":"%b","payload":{"type":"%b","payload":%b}}' % (kind.encode(), change.encode(), inner)
