"""Check after every test that a second workspace, whose run streams during the test, was not disturbed (P5)."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.clients.http_client import Client
from tests.support.clients.stream_reader import StreamReader
from tests.support.processes import Process

RATE_PER_S = 20
"""Slow enough to cost little CPU, fast enough that the run streams at every moment of a test."""


class Neighbour:
    """A second workspace that streams from `start` to `check`.

    Set `may_reconnect` if the test stops the supervisor: the stream may then be cut and resumed by id. Set `was_ended`
    if the test ends the service and this run with it: only the cancellation of the run is checked.
    """

    def __init__(self, client: Client, worker_pid: Callable[[str], Awaitable[int]], path: Path) -> None:
        self.may_reconnect = False
        self.was_ended = False
        self.workspace = ""
        self.process: Process | None = None
        self._client = client
        self._worker_pid = worker_pid
        self._path = path
        self._watcher: StreamReader | None = None
        self._session = self._run = ""

    async def start(self) -> None:
        """Create the workspace and start its run."""
        self._path.mkdir()
        self.workspace = (await self._client.create(self._path))["id"]
        self._session = await self._client.create_session(self.workspace, "neighbour")
        self._watcher = StreamReader(self._client, self.workspace, name="neighbour")
        self._watcher.resumes = True
        await self._watcher.open()
        self._run = await self._client.prompt(self.workspace, self._session, f"/tokens 1000000 {RATE_PER_S}")
        await self._watcher.text(self._session, "t1")
        self.process = Process(await self._worker_pid(self.workspace))

    async def check(self) -> None:
        """Check that process and connection are the same, the run still streams, and it ends when cancelled."""
        assert self._watcher is not None
        assert self.process is not None
        if self.was_ended:
            assert (await self._watcher.ended(self._run)).get("cancelled") is True
            return
        assert self.process.is_alive, "the worker of the second workspace died"
        pid = await self._worker_pid(self.workspace)
        assert pid == self.process.pid, f"the worker of the second workspace was replaced: {self.process.pid} -> {pid}"
        if not self.may_reconnect:
            assert self._watcher.ends == [], f"the stream of the second workspace ended: {self._watcher.ends}"
        skip = len(self._watcher.seen)
        await self._watcher.wait(lambda e: e.kind == "message", what="token in the second workspace", skip=skip)
        (await self._client.cancel(self.workspace, self._session)).expect(200)
        end = await self._watcher.ended(self._run)
        assert end.get("cancelled") is True, end
        bad = [e for e in self._watcher.seen if e.is_reset or (e.kind == "agent_event" and e.payload.get("error"))]
        bad += [e for e in self._watcher.seen if e.kind == "workspace_state" and e.payload["state"] not in _HEALTHY]
        assert bad == [], f"the second workspace was disturbed: {bad}"

    async def close(self) -> None:
        """Close the stream and the pidfd."""
        if self._watcher is not None:
            self._watcher.resumes = False
            await self._watcher.close()
        if self.process is not None:
            self.process.close()


_HEALTHY = ("starting", "ready")
