"""Keep the table of forked workers, living and dead, until a supervisor has confirmed each exit."""

from dataclasses import dataclass

from protocol.zygote import ForkedChild

EXITS_KEPT = 256
"""How many unacknowledged exits are kept; the oldest are forgotten first."""
HELLO_CHILDREN_MAX = 512
"""How many children a hello lists, the dead first. So many always fit into one packet."""


@dataclass(slots=True)
class _Child:
    """A forked worker. `status` is that of wait(2), None while it lives."""

    start_ticks: int
    status: int | None = None
    max_rss_bytes: int = 0


class ChildTable:
    """The workers of one zygote, by pid. Pids of the dead are reused by the kernel: `start_ticks` tells them apart."""

    def __init__(self) -> None:
        self._children: dict[int, _Child] = {}

    def living(self) -> list[int]:
        """Return the pids of the workers whose exit was not seen."""
        return [pid for pid, child in self._children.items() if child.status is None]

    def add(self, pid: int, start_ticks: int) -> None:
        """Enter a new worker."""
        self._children[pid] = _Child(start_ticks)

    def is_living(self, pid: int) -> bool:
        """Return whether `pid` is a worker whose exit was not seen yet."""
        child = self._children.get(pid)
        return child is not None and child.status is None

    def exited(self, pid: int, status: int, max_rss_bytes: int) -> ForkedChild:
        """Record the exit of a living worker and return it as supervisors get it."""
        child = self._children[pid]
        child.status, child.max_rss_bytes = status, max_rss_bytes
        dead = [pid for pid, child in self._children.items() if child.status is not None]
        for old in dead[:-EXITS_KEPT]:
            del self._children[old]
        return _described(pid, child)

    def forget(self, pid: int, start_ticks: int) -> None:
        """Remove a dead worker whose exit a supervisor has recorded; any other is kept."""
        child = self._children.get(pid)
        if child is not None and child.start_ticks == start_ticks and child.status is not None:
            del self._children[pid]

    def listed(self) -> list[ForkedChild]:
        """Return as many workers as fit into a hello, the dead first."""
        dead_first = sorted(self._children.items(), key=lambda item: item[1].status is None)
        return [_described(pid, child) for pid, child in dead_first[:HELLO_CHILDREN_MAX]]


def _described(pid: int, child: _Child) -> ForkedChild:
    return ForkedChild(pid=pid, start_ticks=child.start_ticks, status=child.status, max_rss_bytes=child.max_rss_bytes)
