"""The alarm of a state machine: it rings once, at the time that was set last, or not at all."""

import asyncio

from protocol.base.clock import SystemClock
from protocol.base.timer import Timer


async def test_it_rings_once_at_the_time_that_was_set_last() -> None:
    clock, rang, again = SystemClock(), 0, asyncio.Event()

    def ring() -> None:
        nonlocal rang
        rang += 1
        if rang == 2:
            again.set()
        else:
            alarm.set(clock.now() - 1)  # over already: at once

    alarm = Timer(clock, ring)
    alarm.set(clock.now() + 3600)
    alarm.set(clock.now())
    async with asyncio.timeout(5):
        await again.wait()
    assert rang == 2


async def test_cancelled_it_does_not_ring() -> None:
    rang: list[str] = []
    clock, later = SystemClock(), asyncio.Event()
    alarm, silenced = Timer(clock, lambda: rang.append("cancelled")), Timer(clock, lambda: rang.append("unset"))
    alarm.set(clock.now())
    silenced.set(clock.now())
    alarm.cancel()
    alarm.cancel()
    silenced.set(None)
    Timer(clock, later.set).set(clock.now() + 0.001)  # due after both
    async with asyncio.timeout(5):
        await later.wait()
    assert rang == []
