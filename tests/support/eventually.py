"""Polling with a bound, for facts that announce themselves by no event; prints the state when the bound is reached."""

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
    """The first true value that `check`, plain or async, gives, asked every 10 ms.

    AssertionError with the whole `state` after `timeout_s` seconds. For facts without an event only; where there is
    one, wait for it.
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
