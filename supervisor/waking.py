"""Wake the workspaces that owe a run and sleep: after everything died at once, and when a worker left with work."""

import logging

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.ids import WorkspaceId
from supervisor.workspaces.debt_file import DebtFile
from supervisor.workspaces.registry import Registry


class Waking:
    """The look at all workspaces that owe, in each round of the housekeeping."""

    def __init__(self, *, debts: DebtFile, registry: Registry, clock: Clock, log: logging.Logger) -> None:
        self._debts = debts
        self._registry = registry
        self._clock = clock
        self._log = log
        self.is_pending = False  # a workspace that owes sleeps, and will be woken
        self.is_waking = False  # others wait for the one that starts now

    def look(self) -> None:
        """Update the book from the workers' reports, and wake a few of those that sleep; does not wait for them."""
        book, now = self._debts.book, self._clock.now()
        self.take_stock()
        states: dict[WorkspaceId, str] = {}
        for workspace_id in book.owing:
            known = self._registry.get(workspace_id)
            if known is None:
                book.remove(workspace_id)
            else:
                states[workspace_id] = known.driver.status().state
        self.is_pending = "asleep" in states.values()
        self.is_waking = self.is_pending and "starting" in states.values()
        for workspace_id in book.due(states, now):
            self._log.info("woken for open runs", extra=fields(workspace=workspace_id))
            self._registry.find(workspace_id).wake()
        self._debts.write()

    def take_stock(self) -> None:
        """Update the book from what the workers reported last, without waking any."""
        book, now = self._debts.book, self._clock.now()
        for workspace in self._registry.touched():
            if workspace.driver.may_owe or book.open_runs(workspace.registration.id):
                book.observe(workspace.registration.id, workspace.debt_facts(), now)
