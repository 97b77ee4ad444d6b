"""The neighbour that must not notice: a second workspace whose run streams, checked after every test (P5)."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.clients.http_client import Client
from tests.support.clients.stream_reader import StreamReader
from tests.support.processes import Process

RATE_PER_S = 20
"""Slow enough to cost nothing, fast enough that the run streams at every moment of a test."""


class Neighbour:
    """Streams from `start` to `check`. With `may_reconnect` its stream may be cut and resumed by id (S rows).

    With `was_ended` only its end is checked."""

    def __init__(self, client: Client, worker_pid: Callable[[str], Awaitable[int]], path: Path) -> None:
        self.may_reconnect = False
        self.was_ended = False  # the story ends the whole service, and this run with it
        self.workspace = ""
        self.process: Process | None = None
        self._client = client
        self._worker_pid = worker_pid
        self._path = path
        self._watcher: StreamReader | None = None
        self._session = self._run = ""

    async def start(self) -> None:
        """Healthy before: the run streams."""
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
        """Healthy after: the same process, the same connection, still streaming, and its run ends when it is told."""
        assert self._watcher is not None
        assert self.process is not None
        if self.was_ended:
            assert (await self._watcher.ended(self._run)).get("cancelled") is True
            return
        assert self.process.is_alive, "the bystander's worker died"
        pid = await self._worker_pid(self.workspace)
        assert pid == self.process.pid, f"the bystander's worker was replaced: {self.process.pid} -> {pid}"
        if not self.may_reconnect:
            assert self._watcher.ends == [], f"the bystander's stream ended: {self._watcher.ends}"
        skip = len(self._watcher.seen)
        await self._watcher.wait(lambda e: e.kind == "message", what="token of the bystander", skip=skip)
        (await self._client.cancel(self.workspace, self._session)).expect(200)
        end = await self._watcher.ended(self._run)
        assert end.get("cancelled") is True, end
        bad = [e for e in self._watcher.seen if e.is_reset or (e.kind == "agent_event" and e.payload.get("error"))]
        bad += [e for e in self._watcher.seen if e.kind == "workspace_state" and e.payload["state"] not in _HEALTHY]
        assert bad == [], f"the bystander noticed: {bad}"

    async def close(self) -> None:
        """Leave."""
        if self._watcher is not None:
            self._watcher.resumes = False
            await self._watcher.close()
        if self.process is not None:
            self.process.close()


_HEALTHY = ("starting", "ready")
