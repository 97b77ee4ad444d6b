"""The timer of a state machine fires once, at the time that was set last, or never."""

import asyncio

from protocol.base.clock import SystemClock
from protocol.base.timer import Timer


async def test_a_timer_fires_once_at_the_time_that_was_set_last() -> None:
    clock, fired, again = SystemClock(), 0, asyncio.Event()

    def fire() -> None:
        nonlocal fired
        fired += 1
        if fired == 2:
            again.set()
        else:
            timer.set(clock.now() - 1)  # in the past: fires at once

    timer = Timer(clock, fire)
    timer.set(clock.now() + 3600)
    timer.set(clock.now())
    async with asyncio.timeout(5):
        await again.wait()
    assert fired == 2


async def test_a_cancelled_or_unset_timer_does_not_fire() -> None:
    fired: list[str] = []
    clock, later = SystemClock(), asyncio.Event()
    cancelled, unset = Timer(clock, lambda: fired.append("cancelled")), Timer(clock, lambda: fired.append("unset"))
    cancelled.set(clock.now())
    unset.set(clock.now())
    cancelled.cancel()
    cancelled.cancel()
    unset.set(None)
    Timer(clock, later.set).set(clock.now() + 0.001)  # due after both
    async with asyncio.timeout(5):
        await later.wait()
    assert fired == []
