"""Limit the size of a provider's response: of one event, and of the whole response (L05).

The libraries buffer an event until its end arrives. A hook on our HTTP client counts the bytes before that, so an
endless event is cut off at a limit instead of filling the memory.
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
    """Counts the bytes since the end of the last event."""

    def __init__(self, event_max: int = EVENT_MAX_BYTES, answer_max: int = ANSWER_MAX_BYTES) -> None:
        self._event_max = event_max
        self._answer_max = answer_max
        self._event = 0
        self._answer = 0
        self._tail = b""

    def take(self, chunk: bytes) -> str:
        """Count a chunk. Return which limit is exceeded, "" for none."""
        self._answer += len(chunk)
        seen = self._tail + chunk
        end = max(seen.rfind(mark) + len(mark) if mark in seen else -1 for mark in _ENDS)
        self._event = len(seen) - end if end >= 0 else self._event + len(chunk)
        self._tail = seen[-3:]
        if self._event > self._event_max:
            return f"one event is longer than {self._event_max} bytes"
        return f"the answer is longer than {self._answer_max} bytes" if self._answer > self._answer_max else ""


async def bound(response: "httpx2.Response") -> None:
    """Apply the limits to a response; used as a hook of the HTTP client."""
    import httpx2

    stream = response.stream
    if isinstance(stream, httpx2.AsyncByteStream):
        response.stream = _measured(stream, response.headers.get("content-encoding", "identity"))


def _measured(stream: "httpx2.AsyncByteStream", encoding: str) -> "httpx2.AsyncByteStream":
    import httpx2

    class Measured(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            if encoding != "identity":
                # Not requested; a few compressed bytes can expand to very many.
                raise _garbage(f"it is compressed ({encoding[:50]}), which was not requested")
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
    """Return the options of an HTTP client that apply these limits."""
    return {"event_hooks": {"response": [bound]}, "headers": {"accept-encoding": "identity"}}
