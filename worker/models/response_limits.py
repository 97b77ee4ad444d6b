"""Bounds on what a provider may send: one event, and one whole answer (L05).

The libraries collect an event until its end comes. A hook on our HTTP client watches the bytes before they see them,
so an event without an end stops at a bound instead of filling the memory.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from worker.models.failures import failure

if TYPE_CHECKING:
    import httpx2

EVENT_MAX_BYTES = 8 * 1024 * 1024
ANSWER_MAX_BYTES = 256 * 1024 * 1024
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventMeter:
    """Counts the bytes since the last end of an event. Pure."""

    def __init__(self, event_max: int = EVENT_MAX_BYTES, answer_max: int = ANSWER_MAX_BYTES) -> None:
        self._event_max = event_max
        self._answer_max = answer_max
        self._event = 0
        self._answer = 0
        self._tail = b""

    def take(self, chunk: bytes) -> str:
        """What is too long with these bytes, "" for nothing."""
        self._answer += len(chunk)
        seen = self._tail + chunk
        end = max(seen.rfind(mark) + len(mark) if mark in seen else -1 for mark in _ENDS)
        self._event = len(seen) - end if end >= 0 else self._event + len(chunk)
        self._tail = seen[-3:]
        if self._event > self._event_max:
            return f"one event is longer than {self._event_max} bytes"
        return f"the answer is longer than {self._answer_max} bytes" if self._answer > self._answer_max else ""


async def bound(response: "httpx2.Response") -> None:
    """The hook: everything that is read of this response is measured."""
    import httpx2

    stream = response.stream
    if isinstance(stream, httpx2.AsyncByteStream):
        response.stream = _measured(stream, response.headers.get("content-encoding", "identity"))


def _measured(stream: "httpx2.AsyncByteStream", encoding: str) -> "httpx2.AsyncByteStream":
    import httpx2

    class Measured(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            if encoding != "identity":
                # Not asked for; a few bytes of it can become very many.
                raise _garbage(f"it came compressed ({encoding[:50]}) although that was not asked for")
            meter = EventMeter()
            async for chunk in stream:
                problem = meter.take(chunk)
                if problem:
                    raise _garbage(problem)
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Measured()


def _garbage(problem: str) -> Exception:
    return failure("garbage", f"cannot read the model's answer: {problem}", in_stream=True)


def client_options() -> dict[str, Any]:
    """What an HTTP client needs for these bounds to hold."""
    return {"event_hooks": {"response": [bound]}, "headers": {"accept-encoding": "identity"}}
