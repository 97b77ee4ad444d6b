"""Control failpoints from a test: a process that reaches an armed one waits until the test releases it."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from protocol.base.failpoints import POINTS


@dataclass(eq=False)
class Hit:
    """A process that has reached an armed failpoint."""

    point: str
    pid: int
    workspace: str
    _writer: asyncio.StreamWriter = field(repr=False)

    def release(self, action: str = "continue") -> None:
        """Let it continue, or apply `action` (`kill`, `stop`, `exit0`, `segv`, `spin`, `raise`, `error:<errno>`)."""
        if not self._writer.is_closing():
            self._writer.write(action.encode() + b"\n")
            self._writer.close()


@dataclass(eq=False)
class _Armed:
    point: str
    action: str | None  # None: hold until the test releases it
    workspace: str | None
    times: int
    skip: int


class Failpoints:
    """Serve the control socket. Points that are not armed are counted and continue at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[tuple[str, str], int] = {}
        self._server: asyncio.Server | None = None
        self._armed: list[_Armed] = []
        self._hits: list[Hit] = []
        self._waiting: list[Hit] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> "Failpoints":
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disarm()
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    def arm(
        self, point: str, action: str | None = None, *, workspace: str | None = None, times: int = 1, skip: int = 0
    ) -> None:
        """Apply `action` to the next `times` processes that reach `point`, after the first `skip`; None holds them.

        `workspace` limits this to one workspace, so that the second workspace is never stopped.
        """
        assert point in POINTS, point
        self._armed.append(_Armed(point, action, workspace, times, skip))

    async def reached(self, point: str, *, workspace: str | None = None, timeout_s: float = 10.0) -> Hit:
        """Wait for a process that was held or acted upon at `point`. Raises AssertionError with the points reached."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for hit in self._hits:
                        if hit.point == point and workspace in (None, hit.workspace):
                            self._hits.remove(hit)
                            return hit
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{point} was not reached within {timeout_s} s; counted: {self.counts}") from None

    def disarm(self) -> None:
        """Disarm all points and release the processes that are held."""
        self._armed.clear()
        for hit in self._waiting:
            hit.release()
        self._waiting.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            report = json.loads(await reader.readline())
            hit = Hit(report["point"], report["pid"], report["workspace"], writer)
            key = (hit.point, hit.workspace)
            self.counts[key] = self.counts.get(key, 0) + 1
            armed = self._match(hit)
            if armed is None:
                hit.release()
                return
            self._hits.append(hit)
            self._changed.set()
            if armed.action is None:
                self._waiting.append(hit)
            else:
                hit.release(armed.action)

    def _match(self, hit: Hit) -> _Armed | None:
        for armed in self._armed:
            if armed.point == hit.point and armed.workspace in (None, hit.workspace):
                if armed.skip > 0:
                    armed.skip -= 1
                    return None
                armed.times -= 1
                if armed.times == 0:
                    self._armed.remove(armed)
                return armed
        return None
