"""Runs one coroutine of a test on a fresh loop in debug mode, bounded."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], timeout_s: float = 30.0) -> T:
    """The result of `work`; TimeoutError after `timeout_s` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded(), debug=True)
