"""Asks the file system about directories of users, which may be on a share that does not answer any more.

Each question has a thread of its own and a deadline. A thread that hangs cannot be ended: so it holds up nothing else,
not even our end, and as long as it hangs nothing more is asked about its directory.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from protocol.errors import Unavailable

T = TypeVar("T")


class BoundedFilesystem:
    """`timeout_s` is what one question may take."""

    def __init__(self, *, timeout_s: float) -> None:
        self._within_s = timeout_s
        self._hanging: set[str] = set()

    async def ask(self, path: str, work: Callable[[], T]) -> T:
        """What `work` says, which looks at `path` and may block. Raises what it raises, and Unavailable."""
        if path in self._hanging:
            raise self._silent(path)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._hanging.discard(path)
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def look() -> None:
            try:
                result, error = work(), None
            except BaseException as failure:
                result, error = None, failure
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=look, name="disk", daemon=True).start()
        try:
            async with asyncio.timeout(self._within_s):
                return await answer
        except TimeoutError:
            self._hanging.add(path)
            raise self._silent(path) from None

    def _silent(self, path: str) -> Unavailable:
        return Unavailable(
            f"cannot look at {path[:200]}: its file system does not answer within {self._within_s:g} s; is it a share "
            "that is gone?",
            retry_after_s=self._within_s,
        )
