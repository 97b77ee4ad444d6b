"""Make again what programs that clean up removed while the server runs, and keep its files from looking abandoned."""

import logging
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.base.logs import fields
from supervisor.http.listener_set import ListenerSet
from supervisor.launch.records import RecordStore
from supervisor.private_directory import RuntimeRefused
from supervisor.runtime import RuntimeDir, RuntimeTaken
from supervisor.state_dir import StateDir
from supervisor.workspaces.debt_file import DebtFile

REFRESH_S = 3600.0
"""How often the times of runtime files are set to now. Cleaners of /tmp remove what is some days old."""
FILES_S = 2.0
"""How often to check that single files in the state directory exist."""


class OwnedFiles:
    """The two directories of a server with their locks, its sockets, the workers' records, the list of open work."""

    def __init__(
        self,
        *,
        runtime: RuntimeDir,
        state: StateDir,
        records: RecordStore,
        debts: DebtFile,
        listeners: ListenerSet,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._runtime = runtime
        self._state = state
        self._records = records
        self._debts = debts
        self._listeners = listeners
        self._clock = clock
        self._log = log
        self._problems: dict[str, str] = {}  # of each place that could not be restored
        self._refreshed_at = self._checked_at = clock.now()

    def restore(self) -> None:
        """Look for what is missing and make it again; called in each round of the housekeeping."""
        now = self._clock.now()
        self._restore("runtime directory", self._runtime.restore)
        self._restore("state directory", self._state.restore)
        if now - self._checked_at >= FILES_S:
            self._checked_at = now
            self._restore("records of workers", self._records.restore)
            self._restore("list of open work", self._debts.restore)
        if now - self._refreshed_at >= REFRESH_S:
            self._refreshed_at = now
            self._runtime.refresh()
        self._listeners.restore()

    def _restore(self, what: str, restore: Callable[[], int]) -> None:
        try:
            if restore():
                places = fields(runtime=self._runtime.path, state=self._state.path)
                self._log.error(f"{what} vanished, made again", extra=places)
            self._problems.pop(what, None)
        except (RuntimeRefused, RuntimeTaken, OSError) as error:
            if str(error) != self._problems.get(what):  # it is tried in every round
                self._problems[what] = str(error)
                self._log.error(f"cannot make the {what} again", extra=fields(reason=error))
