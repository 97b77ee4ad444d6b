"""Define what the event stream adds to the payloads of events: the types of changes, and its own `reset`."""

from typing import Literal

import msgspec

Change = Literal["created", "updated", "deleted"]


class StreamReset(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `reset`: events may be missing. Read the state again, and continue from `cursor`."""

    reason: str
    cursor: str  # "" while the event log of the workspace is not open yet
