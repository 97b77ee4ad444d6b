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
OBSERVE_S_MAX = 15.0


def interval_for(idle_s: float, most_s: float) -> float:
    """Return the seconds between two checks of something that counts after `idle_s`: a quarter, within bounds."""
    return min(most_s, max(INTERVAL_S_MIN, idle_s / 4))


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
        evict_idle_s: float,
        idle_exit_s: float | None,
        clock: Clock,
    ) -> None:
        """`on_idle` is called once, when the server was idle for `idle_exit_s`."""
        self._files = files
        self._registry = registry
        self._waking = waking
        self._admission = admission
        self._on_idle = on_idle
        self._has_idle_exit = idle_exit_s is not None
        self._observe_s = interval_for(evict_idle_s, OBSERVE_S_MAX)
        self._interval_s = min(self._observe_s, interval_for(idle_exit_s or INTERVAL_S_MAX * 4, INTERVAL_S_MAX))
        self._clock = clock

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        observed_at = self._clock.now()
        while True:
            self._waking.look()
            await asyncio.sleep(WAKING_S if self._waking.is_waking else self._interval_s)
            self._files.restore()
            now = self._clock.now()
            if now - observed_at >= self._observe_s:
                observed_at = now
                for workspace in self._registry.touched():
                    workspace.observe()
            if not self._has_idle_exit:
                continue
            if self._admission.observed(is_busy=self._registry.is_busy or self._waking.is_pending, now=now):
                self._on_idle()


async def ping_watchdog(notifier: Notifier, every_s: float) -> None:
    """Tell the service manager again and again that the loop runs, until cancelled."""
    while True:
        notifier.alive()
        await asyncio.sleep(every_s)
