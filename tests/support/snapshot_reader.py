"""Read the snapshots that a worker sends, as the supervisor does."""

from msgspec.structs import replace

from protocol.events import Event


class SnapshotReader:
    """The whole snapshots of a worker's growing messages, by their keys."""

    def __init__(self) -> None:
        self._wholes: dict[str, Event] = {}

    def read(self, event: Event) -> Event:
        """Return the whole snapshot that this event makes. Asserts that growth continues what was read before."""
        growth = event.growth
        if growth is None:
            whole = event
        else:
            before = self._wholes[event.key]
            head = before.data[: len(before.data) - before.tail_bytes]
            assert growth.base == len(head), "an event was lost or sent twice"
            tail = growth.tail or before.data[len(head) :]
            whole = replace(before, data=head + event.data + tail, tail_bytes=len(tail))
        self._wholes[event.key] = whole
        return whole

    def void(self, key: str) -> None:
        """Forget the snapshot of this key, because a numbered event of it came."""
        self._wholes.pop(key, None)
