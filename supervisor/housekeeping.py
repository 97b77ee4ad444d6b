"""Look after a running server: its files, idle workers, whether it is still needed, and the manager's watchdog."""

import asyncio
import logging
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.base.logs import fields
from supervisor.admission import Admission
from supervisor.http.listener_set import ListenerSet
from supervisor.launch.records import RecordStore
from supervisor.runtime import RuntimeDir, RuntimeRefused, RuntimeTaken
from supervisor.state_dir import StateDir
from supervisor.systemd import Notifier
from supervisor.waking import Waking
from supervisor.workspaces.debt_file import DebtFile
from supervisor.workspaces.registry import Registry

REFRESH_S = 3600.0
"""How often the times of runtime files are set to now. Cleaners of /tmp remove what is some days old."""
WAKING_S = 0.1
"""Between two rounds while workspaces wait for their turn to be woken."""
RECORDS_S = 2.0
"""How often to check that the records of the workers exist."""
INTERVAL_S_MAX = 1.0
INTERVAL_S_MIN = 0.05


def interval_for(*, evict_idle_s: float, idle_exit_s: float | None) -> float:
    """Return the seconds between two rounds: a quarter of the shorter idle time, within bounds."""
    shortest = min(evict_idle_s, idle_exit_s or INTERVAL_S_MAX)
    return min(INTERVAL_S_MAX, max(INTERVAL_S_MIN, shortest / 4))


class Housekeeping:
    """The periodic checks of one server."""

    def __init__(
        self,
        *,
        runtime: RuntimeDir,
        state: StateDir,
        records: RecordStore,
        debts: DebtFile,
        listeners: ListenerSet,
        registry: Registry,
        waking: Waking,
        admission: Admission,
        on_idle: Callable[[], None],
        interval_s: float,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`on_idle` is called once, when the server was idle for long enough to exit."""
        self._runtime = runtime
        self._state = state
        self._records = records
        self._debts = debts
        self._listeners = listeners
        self._registry = registry
        self._waking = waking
        self._admission = admission
        self._on_idle = on_idle
        self._interval_s = interval_s
        self._clock = clock
        self._log = log
        self._problems: dict[str, str] = {}  # of each place that could not be restored
        self._refreshed_at = self._records_at = clock.now()

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        while True:
            self._waking.look()
            await asyncio.sleep(WAKING_S if self._waking.is_waking else self._interval_s)
            self._check_files()
            self._listeners.restore()
            for workspace in self._registry.touched():
                workspace.observe()
            is_busy = self._registry.is_busy or self._waking.is_pending
            if self._admission.observed(is_busy=is_busy, now=self._clock.now()):
                self._on_idle()

    def _check_files(self) -> None:
        """Make again what programs that clean up removed: the two directories, their locks, the workers' records."""
        now = self._clock.now()
        self._restore("runtime directory", self._runtime.restore)
        self._restore("state directory", self._state.restore)
        if now - self._records_at >= RECORDS_S:
            self._records_at = now
            self._restore("records of workers", self._records.restore)
            self._restore("list of open work", self._debts.restore)
        if now - self._refreshed_at >= REFRESH_S:
            self._refreshed_at = now
            self._runtime.refresh()

    def _restore(self, what: str, restore: Callable[[], int]) -> None:
        try:
            if restore():
                self._log.error(
                    f"{what} vanished, made again", extra=fields(runtime=self._runtime.path, state=self._state.path)
                )
                self._problems.pop(what, None)
        except (RuntimeRefused, RuntimeTaken, OSError) as error:
            if str(error) != self._problems.get(what):  # it is tried in every round
                self._problems[what] = str(error)
                self._log.error(f"cannot make the {what} again", extra=fields(reason=error))


async def ping_watchdog(notifier: Notifier, every_s: float) -> None:
    """Tell the service manager again and again that the loop runs, until cancelled."""
    while True:
        notifier.alive()
        await asyncio.sleep(every_s)
