"""Read a ZeroMQ socket from an asyncio loop.

ZeroMQ's descriptor is edge-triggered: it signals once that something changed, and a send may swallow that signal. So
the socket is read until it is empty after every signal and, once per turn of the loop, after every send (`wake`).

This file does not import zmq: both sides of the protocol use it, and protocol imports no heavy library. The owner of
the socket passes `receive`, which returns None when the socket is empty.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Message = TypeVar("Message")

TURN_MAX = 64
"""Messages handled before other callbacks of the loop get their turn."""


class ZmqPump(Generic[Message]):
    """Hands every message of one socket to `handle`, in order, at most `TURN_MAX` per turn of the loop."""

    def __init__(
        self,
        *,
        receive: Callable[[], Message | None],
        handle: Callable[[Message], None],
        before_turn: Callable[[], None] | None = None,
    ) -> None:
        """`receive` does not block. `handle` may stop the pump. `before_turn` is called before each turn of reading:
        the same signal says that the socket takes messages again."""
        self._receive = receive
        self._handle = handle
        self._before_turn = before_turn
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not started, or stopped
        self._descriptor = -1
        self._is_scheduled = False

    def start(self, descriptor: int) -> None:
        """Read whenever `descriptor`, the socket's ZMQ_FD, signals, and once without: a new socket never signals."""
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._loop.add_reader(descriptor, self.run)
        self.wake()

    def stop(self) -> None:
        """Read no more. Call it before the socket is closed. May be called again."""
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None

    def wake(self) -> None:
        """Read in the next turn of the loop. Call it after every send."""
        if self._loop is not None and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._scheduled)

    def run(self) -> None:
        """Read now, one turn. Raises what `handle` raises; the messages after that one are read in the next turn."""
        if self._loop is not None and self._before_turn is not None:
            self._before_turn()
        for _ in range(TURN_MAX):
            if self._loop is None:
                return
            message = self._receive()
            if message is None:
                return
            try:
                self._handle(message)
            except BaseException:
                self.wake()
                raise
        self.wake()

    def _scheduled(self) -> None:
        self._is_scheduled = False
        self.run()
