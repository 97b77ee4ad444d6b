"""Wake the streams of one workspace when something has changed.

A stream that waits with a writer gets its text in one callback of the loop for all streams, without waking its task.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from protocol.base.clock import Clock


class Writer(Protocol):
    """A stream that sends text by itself while it waits."""

    def write(self) -> bool:
        """Send the text that is there. Return whether the stream must be woken for anything else."""
        ...


class StreamNotifier:
    """The streams that wait. `on_delivered` gets the seconds that one delivery to all writers took."""

    def __init__(self, *, clock: Clock, on_delivered: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_delivered = on_delivered
        self._waiters: set[asyncio.Future[bool]] = set()
        self._writers: dict[asyncio.Future[bool], Writer] = {}
        self._scheduled: asyncio.Handle | None = None

    async def changed(self, timeout_s: float, writer: Writer | None = None) -> bool:
        """Wait until there is more to do than what `writer` did. Return False after `timeout_s` seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(timeout_s, _set_result, waiter, False)
        if writer is None:
            self._waiters.add(waiter)
        else:
            self._writers[waiter] = writer
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)
            self._writers.pop(waiter, None)

    def wake(self) -> None:
        """Let every waiting stream check again: writers once in the next turn of the loop."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _set_result(waiter, True)
        if self._writers and self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = None
        began = self._clock.now()
        for waiter, writer in self._writers.items():
            if waiter.done():
                continue
            try:
                if writer.write():
                    waiter.set_result(True)
            except Exception as error:  # it ends this stream and no other
                waiter.set_exception(error)
        self._on_delivered(self._clock.now() - began)


def _set_result(waiter: "asyncio.Future[bool]", value: bool) -> None:
    if not waiter.done():
        waiter.set_result(value)
