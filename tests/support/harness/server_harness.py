"""Everything a story needs: server, scripted model, failpoints, clients, the bystander; and the checks after it.

A test asks for the fixture `house` and finds all of it running; when its story is told, the house is judged: the
bystander noticed nothing, the server ends in order, nothing is left alive, and the history is legal.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xprocess import XProcess

from tests.support.checks.history import ClientLog, Stored, read_stored
from tests.support.checks.history_checks import check_history
from tests.support.checks.neighbour import Neighbour
from tests.support.clients.http_client import Client
from tests.support.clients.stream_reader import StreamReader
from tests.support.eventually import eventually
from tests.support.fakes.notify_socket import Notify
from tests.support.fakes.scripted_provider import API_KEY, Exchange, Provider
from tests.support.harness.failpoints import Failpoints
from tests.support.harness.server import Server, SharedZygote
from tests.support.processes import HARNESS_MARKER, WORKSPACE_MARKER, Pipe, Process, marked, mentioning, title

LEFTOVER_S = 3.0


class WorkspaceFixture:
    """One workspace with one session and one watcher: where a story happens."""

    def __init__(self, house: "ServerHarness", workspace: dict[str, Any], session: str, watcher: StreamReader) -> None:
        self._house = house
        self.id: str = workspace["id"]
        self.path = Path(workspace["path"])
        self.data_dir = Path(workspace["data_dir"])
        self.session = session
        self.watcher = watcher
        self.client = watcher.client

    async def prompt(self, prompt: str, run_id: str | None = None) -> str:
        """Send a prompt that has to be accepted; the run id."""
        return await self.client.prompt(self.id, self.session, prompt, run_id)

    async def ended(self, run_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """The `run_complete` of a run."""
        return await self.watcher.ended(run_id, timeout_s)

    async def messages(self) -> list[dict[str, Any]]:
        """The session's messages, oldest first."""
        return await self.client.messages(self.id, self.session)

    async def last_assistant(self) -> dict[str, Any]:
        """The newest message of the assistant."""
        return [message for message in await self.messages() if message["role"] == "assistant"][-1]

    async def worker(self) -> Process:
        """The process of this workspace now; closed with the house."""
        return self._house.hold(await self._house.worker_pid(self.id))

    async def run(self, run_id: str) -> dict[str, Any]:
        """A run as the API shows it."""
        found: dict[str, Any] = (await self.client.get(f"/v1/workspaces/{self.id}/runs/{run_id}")).expect(200).json()
        return found

    async def streaming(self, text: str = "one two") -> tuple[str, Exchange]:
        """M3: a run that has streamed `text` and waits for the model's next token, which the test holds."""
        run_id = await self.prompt("tell me a story")
        call = await self._house.provider.next_call()
        await call.tokens(text)
        await self.watcher.text(self.session, text)
        await self.messages()  # what was shown is stored when a read that came later is answered
        return run_id, call

    async def tool_running(self, command: str, pipe: Pipe) -> tuple[str, list[Process]]:
        """M4: a run whose bash runs `command`, which writes the pids of its children into `pipe`. Wants `yolo`.

        Those that are gone already, because the command was over at once, are left out."""
        run_id = await self.prompt("/tool bash " + json.dumps({"description": "a child", "command": command}))
        pids = (await pipe.line()).split()
        held = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                held.append(self._house.hold(int(pid)))
        return run_id, held

    async def works_with_new_stream(self) -> None:
        """The same without a stream: open one first, for the story's own has ended."""
        self.watcher = await self._house.watch(self.id, name="after", client=self.client)
        await self.works()

    async def works(self) -> None:
        """Healthy: a prompt is answered."""
        run_id = await self.prompt("/say still here" if self._house.is_scripted(self.path) else "are you there?")
        if not self._house.is_scripted(self.path):
            await (await self._house.provider.next_call()).reply("still here")
        end = await self.ended(run_id)
        assert end.get("text") == "still here", end
        assert "error" not in end, end


class ServerHarness:
    """Use as `async with` inside the test's loop; the fixture `house` does."""

    def __init__(
        self,
        xprocess: XProcess,
        root: Path,
        *,
        zygote: SharedZygote | None,
        limits: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        start: bool = True,
        neighbour: bool = True,
        tcp: bool = False,
    ) -> None:
        self.root = root
        self.client_log = ClientLog()
        self.provider = Provider()
        self.failpoints = Failpoints(root / "f")
        self.notify = Notify(root / "n")
        self.expects_exit = 0  # of the last stop, at the end
        self.open_runs_are_fine = False  # the test leaves accepted runs unfinished on purpose
        self.resets_are_fine = False  # the test asks for events that cannot be had
        if tcp:
            arguments += ("--host", f"unix://{root / 'r' / 'bulkhead.sock'}", "--host", "tcp://127.0.0.1:0")
        extra = {"BULKHEAD_FAILPOINTS": str(self.failpoints.path), "NOTIFY_SOCKET": str(self.notify.path)}
        self.server = Server(
            xprocess, root, limits=limits or {}, env=extra | dict(env or {}), zygote=zygote, arguments=arguments
        )
        self.neighbour = Neighbour(self.new_client(), self.worker_pid, root / "by")
        self._starts = start
        self._has_neighbour = neighbour
        self._watchers: list[StreamReader] = []
        self._held: list[Process] = []
        self._pipes: list[Pipe] = []
        self._scripted: set[Path] = set()

    # --- making things --------------------------------------------------------------------------------------------

    def new_client(self) -> Client:
        """One more program that uses the API."""
        return Client(self.server.socket_path, self.client_log)

    async def watch(self, workspace: str, *, name: str, client: Client | None = None, ids: bool = True) -> StreamReader:
        """One more event stream, closed with the house."""
        watcher = StreamReader(client or self.new_client(), workspace, name=name, ids=ids)
        await watcher.open()
        self._watchers.append(watcher)
        if ids:  # what is so at the beginning must not be taken later for something new
            await watcher.wait(lambda event: event.kind == "workspace_state", what="the state at the beginning")
        return watcher

    def directory(self, name: str, model: str) -> Path:
        """A fresh workspace directory. `model` is `script` (no network), `openai` or `anthropic` (the provider)."""
        path = self.root / name
        path.mkdir()
        if model == "script":
            self._scripted.add(path)
        else:
            (path / "bulkhead.json").write_text(json.dumps(self.provider.config(model)))
        return path

    def pipe(self) -> Pipe:
        """A named pipe that children write to and the test reads; closed with the house."""
        pipe = Pipe(self.root / f"p{len(self._pipes)}")
        self._pipes.append(pipe)
        return pipe

    def is_scripted(self, path: Path) -> bool:
        """Does the built-in scripted model answer there?"""
        return path in self._scripted

    async def workspace(self, name: str = "w", *, model: str = "script", **wish: object) -> WorkspaceFixture:
        """A workspace, a session, an open stream."""
        client = self.new_client()
        workspace = await client.create(self.directory(name, model), **wish)
        session = await client.create_session(workspace["id"])
        watcher = await self.watch(workspace["id"], name=name, client=client)
        return WorkspaceFixture(self, workspace, session, watcher)

    def hold(self, pid: int) -> Process:
        """A process by pidfd, given back with the house."""
        process = Process(pid)
        self._held.append(process)
        return process

    # --- looking --------------------------------------------------------------------------------------------------

    async def worker(self, workspace: str) -> dict[str, Any]:
        """The row of `GET /v1/workers`."""
        rows = (await self.new_client().get("/v1/workers")).expect(200).json()
        return next(dict(row) for row in rows if row["id"] == workspace)

    async def worker_pid(self, workspace: str) -> int:
        """The pid of a workspace's worker, which must be there."""
        row = await self.worker(workspace)
        assert row["pid"], row
        return int(row["pid"])

    def stored(self, workspace: WorkspaceFixture) -> Stored:
        """What the file of a room holds now."""
        return read_stored(workspace.id, workspace.data_dir)

    def leftovers(self) -> list[tuple[int, str]]:
        """Processes that carry this house's marker or name one of its directories, the server itself excepted."""
        pids = {*marked(HARNESS_MARKER, self.root.name), *mentioning(str(self.root))}
        for workspace in self.client_log.workspaces:
            pids.update(marked(WORKSPACE_MARKER, workspace))
        if self.server.is_running:
            pids.discard(self.server.pid)
        return [(pid, title(pid)) for pid in sorted(pids)]

    # --- beginning and end ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> "ServerHarness":
        await self.provider.__aenter__()
        await self.failpoints.__aenter__()
        if self._starts:
            try:
                await self.start()
            except BaseException:
                await self._close()
                raise
        return self

    async def start(self) -> None:
        """Start the server, and the bystander with it."""
        await self.server.restart()
        if self._has_neighbour and not self.neighbour.workspace:
            await self.neighbour.start()

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                await self._judge()
        finally:
            await self._close()

    async def _judge(self) -> None:
        self.failpoints.disarm()
        if self.server.is_running:
            if self._has_neighbour:
                await self.neighbour.check()
            for watcher in self._watchers:
                await watcher.close()
            await self.neighbour.close()
            code = await self.server.stop()
            assert code == self.expects_exit, f"the server ended with {code}"
        await eventually(
            lambda: not self.leftovers(), timeout_s=LEFTOVER_S, what="nothing left alive", state=self.leftovers
        )
        for watcher in self._watchers:
            await watcher.close()
        files = [read_stored(workspace, path) for workspace, path in self.client_log.workspaces.items()]
        findings = check_history(self.client_log, files)
        if not self.open_runs_are_fine:
            open_runs = [(file, run) for file in files for run in file.runs if run.state != "ended"]
            findings += [f"{file.workspace}: run {run.id} is still {run.state}" for file, run in open_runs]
        if not self.resets_are_fine:
            reset = [stream.name for stream in self.client_log.streams if any(event.is_reset for event in stream.seen)]
            findings += [f"{name} was reset" for name in reset]
        findings += [f"a provider would refuse: {text}" for text in self.provider.violations]
        for path in self._logs():
            if API_KEY in path.read_text(errors="replace"):
                findings.append(f"the model's key stands in {path}")
        if API_KEY in self.server.log:
            findings.append("the model's key stands in the server's log")
        assert findings == [], "\n".join(findings)

    async def _close(self) -> None:
        for watcher in self._watchers:
            watcher.resumes = False
            try:
                await watcher.close()
            except AssertionError:
                pass  # a story that failed already; its own error matters
        await self.neighbour.close()
        await self.failpoints.__aexit__()
        await self.provider.__aexit__()
        self.server.close()
        self.notify.close()
        for pid, _ in self.leftovers():
            try:
                process = Process(pid)
            except ProcessLookupError:
                continue
            await process.kill()
            process.close()
        for process in self._held:
            process.close()
        for pipe in self._pipes:
            pipe.close()

    def _logs(self) -> list[Path]:
        return sorted((self.server.runtime_dir / "workers").glob("*.log"))

    def logs(self) -> str:
        """The logs, for a failed test."""
        parts = [f"--- server\n{self.server.log[-12000:]}"]
        parts += [f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in self._logs()]
        return "\n".join(parts)

    def remove(self) -> None:
        """Remove the directory; after the story was printed if one was asked for."""
        shutil.rmtree(self.root, ignore_errors=True)


async def together(*works: Any) -> list[Any]:
    """Run several requests at once; their results in order."""
    return list(await asyncio.gather(*works))
