"""Decide which workspaces owe something: a run that was accepted and may not have ended. They are woken after a crash.

A workspace owes from before the answer to a prompt until its worker has reported for a while that no run is open. The
worker's database knows the runs; the book only says where to look, so a mark too many costs one start of a worker, and
a mark too few would leave an accepted prompt waiting for a visitor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.base.backoff import Backoff
from protocol.ids import WorkspaceId

CLEAR_AFTER_S = 30.0
"""How long no run has to be open before the mark is removed: a conversation does not write the file at each prompt."""
AT_ONCE_MAX = 4
"""Workers that are woken at the same time. Each needs a processor for some tens of milliseconds before it is ready."""
_AGAIN = Backoff(first_s=1.0, max_s=60.0)
"""Before a workspace is woken again whose worker left and still owes."""
_WAKING = frozenset({"starting", "restarting"})


@dataclass(slots=True)
class Debt:
    """What is known of one workspace that owes. Times are monotonic seconds."""

    open_runs: int = 1  # as reported last; at least one until a worker has reported
    clear_since: float | None = None
    attempts: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class DebtFacts:
    """The present state of one workspace. `open_runs` is None while no report is newer than the last call."""

    state: str  # of its worker, as clients see it: asleep starting ready …
    open_runs: int | None = None
    calls: int = 0  # in flight; one of them may accept a run
    left_open: int | None = None  # the open runs that its last worker named when it left; None if it named none


class DebtBook:
    """The workspaces that owe. `changes` counts the changes that have to be stored."""

    def __init__(self, stored: Mapping[WorkspaceId, int] | None = None) -> None:
        """`stored`: the open runs of each workspace that owed when the last server ended."""
        self._debts = {workspace_id: Debt(max(1, count)) for workspace_id, count in (stored or {}).items()}
        self.changes = 0

    @property
    def owing(self) -> dict[WorkspaceId, int]:
        """Return the number of open runs of each workspace that owes, as far as it is known."""
        return {workspace_id: debt.open_runs for workspace_id, debt in self._debts.items()}

    def open_runs(self, workspace_id: WorkspaceId) -> int:
        """Return how many runs a workspace owes, as far as it is known; 0 for none."""
        debt = self._debts.get(workspace_id)
        return debt.open_runs if debt is not None else 0

    def accept(self, workspace_id: WorkspaceId) -> None:
        """A run may be accepted now: from here on the workspace owes."""
        debt = self._debts.get(workspace_id)
        if debt is None:
            self._debts[workspace_id] = Debt()
            self.changes += 1
        else:
            debt.clear_since = None

    def remove(self, workspace_id: WorkspaceId) -> None:
        """The workspace owes nothing, or is not registered any more."""
        if self._debts.pop(workspace_id, None) is not None:
            self.changes += 1

    def observe(self, workspace_id: WorkspaceId, facts: DebtFacts, now: float) -> None:
        """Take the state of a workspace: a report of open runs makes a debt, a while without them removes it."""
        open_runs = facts.left_open if facts.state == "asleep" else facts.open_runs
        if open_runs and workspace_id not in self._debts:
            self.accept(workspace_id)
        debt = self._debts.get(workspace_id)
        if debt is None:
            return
        if open_runs is None or facts.calls:
            debt.clear_since = None
        elif open_runs:
            debt.open_runs, debt.clear_since = open_runs, None
        elif facts.state == "asleep":
            self.remove(workspace_id)
        elif debt.clear_since is None:
            debt.clear_since = now
        elif now - debt.clear_since >= CLEAR_AFTER_S:
            self.remove(workspace_id)

    def due(self, states: Mapping[WorkspaceId, str], now: float) -> list[WorkspaceId]:
        """Return the sleeping workspaces to wake now, in the order in which they began to owe; a few at a time."""
        waking = sum(states.get(workspace_id) in _WAKING for workspace_id in self._debts)
        result: list[WorkspaceId] = []
        for workspace_id, debt in self._debts.items():
            if waking + len(result) >= AT_ONCE_MAX:
                break
            if states.get(workspace_id) == "asleep" and now >= debt.not_before:
                debt.not_before = now + _AGAIN.delay_s(debt.attempts)
                debt.attempts += 1  # never set back: a debt that is paid is removed, and the next one is a new one
                result.append(workspace_id)
        return result
