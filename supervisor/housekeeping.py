"""Look after a running server: its files, idle workers, whether it is still needed, and the manager's watchdog."""

import asyncio
import logging
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.base.logs import fields
from supervisor.admission import Admission
from supervisor.http.listener_set import ListenerSet
from supervisor.runtime import RuntimeDir, RuntimeRefused, RuntimeTaken
from supervisor.systemd import Notifier
from supervisor.workspaces.registry import Registry

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
        runtime: RuntimeDir,
        listeners: ListenerSet,
        registry: Registry,
        admission: Admission,
        on_idle: Callable[[], None],
        evict_idle_s: float,
        idle_exit_s: float | None,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`on_idle` is called once, when the server was idle for `idle_exit_s`.

        There are nine parameters because each periodic check looks after another part of the server.
        """
        self._runtime = runtime
        self._listeners = listeners
        self._registry = registry
        self._admission = admission
        self._on_idle = on_idle
        self._has_idle_exit = idle_exit_s is not None
        self._observe_s = interval_for(evict_idle_s, OBSERVE_S_MAX)
        self._interval_s = min(self._observe_s, interval_for(idle_exit_s or INTERVAL_S_MAX * 4, INTERVAL_S_MAX))
        self._clock = clock
        self._log = log
        self._runtime_problem = ""

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        observed_at = self._clock.now()
        while True:
            await asyncio.sleep(self._interval_s)
            self._check_runtime_dir()
            self._listeners.restore()
            now = self._clock.now()
            if now - observed_at >= self._observe_s:
                observed_at = now
                for workspace in self._registry.touched():
                    workspace.observe()
            if self._has_idle_exit and self._admission.observed(is_busy=self._registry.is_busy, now=now):
                self._on_idle()

    def _check_runtime_dir(self) -> None:
        """Make the runtime directory again when it was removed, as programs that clean up temporary files do."""
        try:
            if self._runtime.restore():
                self._log.error("runtime directory vanished, made again", extra=fields(path=self._runtime.path))
                self._runtime_problem = ""
        except (RuntimeRefused, RuntimeTaken, OSError) as error:
            if str(error) != self._runtime_problem:  # it is tried in every round
                self._runtime_problem = str(error)
                self._log.error("cannot make the runtime directory again", extra=fields(reason=error))


async def ping_watchdog(notifier: Notifier, every_s: float) -> None:
    """Tell the service manager again and again that the loop runs, until cancelled."""
    while True:
        notifier.alive()
        await asyncio.sleep(every_s)
