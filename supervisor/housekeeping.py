"""Look after a running server: its files, idle workers, whether it is still needed, and the manager's watchdog."""

import asyncio
from collections.abc import Callable

from protocol.base.clock import Clock
from supervisor.admission import Admission
from supervisor.owned_files import OwnedFiles
from supervisor.systemd import Notifier
from supervisor.waking import Waking
from supervisor.workspaces.registry import Registry

WAKING_S = 0.1
"""Between two rounds while workspaces wait for their turn to be woken."""
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
        files: OwnedFiles,
        registry: Registry,
        waking: Waking,
        admission: Admission,
        on_idle: Callable[[], None],
        interval_s: float,
        clock: Clock,
    ) -> None:
        """`on_idle` is called once, when the server was idle for long enough to exit."""
        self._files = files
        self._registry = registry
        self._waking = waking
        self._admission = admission
        self._on_idle = on_idle
        self._interval_s = interval_s
        self._clock = clock

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        while True:
            self._waking.look()
            await asyncio.sleep(WAKING_S if self._waking.is_waking else self._interval_s)
            self._files.restore()
            for workspace in self._registry.touched():
                workspace.observe()
            is_busy = self._registry.is_busy or self._waking.is_pending
            if self._admission.observed(is_busy=is_busy, now=self._clock.now()):
                self._on_idle()


async def ping_watchdog(notifier: Notifier, every_s: float) -> None:
    """Tell the service manager again and again that the loop runs, until cancelled."""
    while True:
        notifier.alive()
        await asyncio.sleep(every_s)
