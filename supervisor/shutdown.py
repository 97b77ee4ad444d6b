"""Decide that the server exits, and end its parts in order."""

import asyncio
import logging
from collections.abc import Awaitable
from enum import Enum
from typing import Any

from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits
from supervisor.admission import Admission
from supervisor.http.listener_set import ListenerSet
from supervisor.launch.launcher import Launcher
from supervisor.local_model.process import LocalModel
from supervisor.routing.router import Router
from supervisor.systemd import Notifier
from supervisor.workspaces.registry import Registry

EXTEND_EVERY_S = 1.0


class ExitMode(Enum):
    """How a server exits."""

    SHUT_DOWN = "shut down"  # the workers end too; what had not begun stays accepted
    SHUT_DOWN_CANCELLING = "shut down, cancel what waits"
    DETACH = "detach"  # the workers stay for the next supervisor


class ExitDecision:
    """Whether and how the server exits. The first request decides."""

    def __init__(
        self,
        *,
        admission: Admission,
        listeners: ListenerSet,
        notifier: Notifier,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        """Needs a running loop."""
        self._admission = admission
        self._listeners = listeners
        self._notifier = notifier
        self._limits = limits
        self._log = log
        self.made: asyncio.Future[ExitMode] = asyncio.get_running_loop().create_future()

    def request(self, mode: ExitMode, reason: str) -> None:
        """Begin to exit; a repetition is only logged."""
        if self.made.done():
            self._log.info("already leaving", extra=fields(reason=reason))
            return
        self._log.info("leaving", extra=fields(how=mode.value, reason=reason))
        self._admission.stopped()
        self._notifier.stopping()
        self.made.set_result(mode)

    def request_by_client(self) -> None:
        """Shut down a moment later, so that the answer reaches the client.

        The socket files go at once: the client waits two seconds for that, and a hung worker may take longer to end.
        """
        self._listeners.remove_files()
        loop = asyncio.get_running_loop()
        loop.call_later(self._limits.control_grace_s, self.request, ExitMode.SHUT_DOWN, "asked by a client")


class ShutdownSequence:
    """Ends the parts of a server in order, each within its budget."""

    def __init__(
        self,
        *,
        registry: Registry,
        listeners: ListenerSet,
        local_model: LocalModel,
        launcher: Launcher,
        router: Router,
        notifier: Notifier,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self._registry = registry
        self._listeners = listeners
        self._local_model = local_model
        self._launcher = launcher
        self._router = router
        self._notifier = notifier
        self._limits = limits
        self._log = log

    async def run(self, mode: ExitMode) -> None:
        """End the workers or let them go, then streams, listeners, local model, zygote, router and registry."""
        tasks = TaskOwner("shutdown", self._log)
        tasks.start(self._extend(), "extend")
        try:
            await self._end_parts(mode)
        finally:
            await tasks.close()

    async def _end_parts(self, mode: ExitMode) -> None:
        limits = self._limits
        is_end = mode is not ExitMode.DETACH
        cancels = mode is ExitMode.SHUT_DOWN_CANCELLING
        workers_s = limits.drain_s + limits.flush_s + limits.exit_s + 2 * limits.kill_deadline_s + 1.0
        ends = [
            workspace.close("server shuts down", cancel_queued=cancels) if is_end else workspace.detach_all()
            for workspace in self._registry.touched()
        ]
        await self._within(workers_s, "workers", *ends)
        await self._listeners.close()
        await self._within(3 * limits.kill_deadline_s, "local model", self._local_model.close(end=is_end))
        await self._within(limits.kill_deadline_s, "launcher", self._launcher.close(end_zygote=is_end))
        await self._within(limits.exit_s, "router", self._router.close())
        await self._within(limits.exit_s, "registry", self._registry.close())

    async def _within(self, timeout_s: float, part: str, *works: Awaitable[Any]) -> None:
        """Wait for all of `works`, at most `timeout_s` seconds. A failure of one does not end the others."""
        try:
            async with asyncio.timeout(timeout_s):
                for result in await asyncio.gather(*works, return_exceptions=True):
                    if isinstance(result, BaseException):
                        self._log.error("cannot end in order", exc_info=result, extra=fields(part=part))
        except TimeoutError:
            self._log.error("does not end in time", extra=fields(part=part, within_s=timeout_s))

    async def _extend(self) -> None:
        """Ask the service manager for more time, again and again, until cancelled."""
        while True:
            self._notifier.extend(EXTEND_EVERY_S * 3)
            await asyncio.sleep(EXTEND_EVERY_S)
