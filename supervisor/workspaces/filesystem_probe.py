"""Access directories of users with a deadline: they may be on a network share that does not respond.

Each access has a thread of its own. A thread that hangs cannot be ended; it blocks nothing else, not even the exit of
the supervisor. While it hangs, further accesses to its directory fail at once.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from protocol.errors import Unavailable

T = TypeVar("T")


class BoundedFilesystem:
    """`timeout_s` bounds one access."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._hanging: set[str] = set()

    async def run(self, path: str, work: Callable[[], T]) -> T:
        """Return the result of `work`, which accesses `path` and may block. Raises as `work` does, and Unavailable."""
        if path in self._hanging:
            raise self._unresponsive(path)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            self._hanging.discard(path)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def access() -> None:
            try:
                result, error = work(), None
            except BaseException as failure:
                result, error = None, failure
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=access, name="filesystem", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            self._hanging.add(path)
            raise self._unresponsive(path) from None

    def _unresponsive(self, path: str) -> Unavailable:
        return Unavailable(
            f"cannot access {path[:200]}: its file system does not respond within {self._timeout_s:g} s; is it on a "
            "network share that is not available?",
            retry_after_s=self._timeout_s,
        )
