"""Poll for a condition that no event announces; report the state when the timeout is reached."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.01


async def eventually(
    check: Callable[[], Any],
    *,
    timeout_s: float = 5.0,
    what: str = "",
    state: Callable[[], object] | None = None,
) -> Any:
    """Call `check`, plain or async, every 10 ms and return its first true value.

    Raises AssertionError with the whole `state` after `timeout_s` seconds. Where there is an event, wait for that
    instead.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            shown = state() if state is not None else value
            raise AssertionError(f"not within {timeout_s} s: {what or check}; the state is {shown!r}")
        await asyncio.sleep(POLL_S)
