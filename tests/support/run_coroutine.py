"""Run one coroutine of a test on a fresh event loop in debug mode, with a timeout."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], timeout_s: float = 30.0) -> T:
    """Return the result of `work`. Raises TimeoutError after `timeout_s` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded(), debug=True)
