"""Heartbeats follow each other closely while anything happens, and seldom in an idle worker."""

import asyncio

from protocol.base.clock import SystemClock
from protocol.limits import Limits
from worker.link.heartbeat import Heartbeats

SHORT_S, LONG_S = 0.01, 600.0
LIMITS = Limits(heartbeat_interval_s=SHORT_S, heartbeat_idle_interval_s=LONG_S)


class Recorder:
    """Heartbeats of a worker that is busy or not, as the test says."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.is_busy = False
        self.intervals: list[float] = []
        self._changed = asyncio.Event()
        self.heartbeats = Heartbeats(limits=limits, clock=SystemClock(), is_busy=lambda: self.is_busy, beat=self._note)

    def _note(self, loop_lag_s: float, interval_s: float) -> None:
        assert loop_lag_s >= 0
        self.intervals.append(interval_s)
        self._changed.set()

    async def until_idle(self) -> None:
        async with asyncio.timeout(10.0):
            while self.intervals[-1:] != [LONG_S]:
                self._changed.clear()
                await self._changed.wait()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10.0):
            while len(self.intervals) < count:
                self._changed.clear()
                await self._changed.wait()


async def test_an_idle_worker_announces_a_long_interval_after_some_short_ones() -> None:
    recorder = Recorder()
    recorder.heartbeats.start()
    await recorder.until_idle()
    assert recorder.intervals == [SHORT_S, SHORT_S, LONG_S]
    recorder.heartbeats.stop()


async def test_a_message_ends_the_long_interval_at_once() -> None:
    recorder = Recorder()
    recorder.heartbeats.start()
    await recorder.until_idle()
    recorder.intervals.clear()
    recorder.heartbeats.stir()
    await recorder.until_idle()  # within seconds, not after `LONG_S`
    assert recorder.intervals == [SHORT_S, SHORT_S, LONG_S]
    recorder.heartbeats.stop()


async def test_a_busy_worker_keeps_the_short_interval() -> None:
    recorder = Recorder()
    recorder.is_busy = True
    recorder.heartbeats.start()
    await recorder.until(10)
    assert set(recorder.intervals) == {SHORT_S}
    recorder.is_busy = False
    await recorder.until_idle()
    recorder.heartbeats.stop()
