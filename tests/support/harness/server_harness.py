"""Start a server with a scripted model, failpoints and clients for a test, and check all of it after the test.

The fixture `house` gives a test a running `ServerHarness`. After the test, the harness checks that the second workspace
was not disturbed, that the server stops in order, that no process is left, and that the history is legal.
"""

import asyncio
import contextlib
import json
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
    """One workspace with one session and one open event stream."""

    def __init__(self, house: "ServerHarness", workspace: dict[str, Any], session: str, watcher: StreamReader) -> None:
        self._house = house
        self.id: str = workspace["id"]
        self.path = Path(workspace["path"])
        self.data_dir = Path(workspace["data_dir"])
        self.session = session
        self.watcher = watcher
        self.client = watcher.client

    async def prompt(self, prompt: str, run_id: str | None = None) -> str:
        """Send a prompt that must be accepted; return its run id."""
        return await self.client.prompt(self.id, self.session, prompt, run_id)

    async def ended(self, run_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for the `run_complete` of a run and return its payload."""
        return await self.watcher.ended(run_id, timeout_s)

    async def messages(self) -> list[dict[str, Any]]:
        """Return the messages of the session, oldest first."""
        return await self.client.messages(self.id, self.session)

    async def last_assistant(self) -> dict[str, Any]:
        """Return the newest message of the assistant."""
        return [message for message in await self.messages() if message["role"] == "assistant"][-1]

    async def worker(self) -> Process:
        """Return the current worker process; the harness closes it."""
        return self._house.hold(await self._house.worker_pid(self.id))

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return a run as the API shows it."""
        row: dict[str, Any] = (await self.client.get(f"/v1/workspaces/{self.id}/runs/{run_id}")).expect(200).json()
        return row

    async def streaming(self, text: str = "one two") -> tuple[str, Exchange]:
        """Start a run that has streamed `text` and waits for the next token, which the test sends (moment M3)."""
        run_id = await self.prompt("tell me a story")
        call = await self._house.provider.next_call()
        await call.tokens(text)
        await self.watcher.text(self.session, text)
        await self.messages()  # a later read is answered only when the shown text is stored
        return run_id, call

    async def tool_running(self, command: str, pipe: Pipe) -> tuple[str, list[Process]]:
        """Start a run in which bash runs `command`, which writes the pids of its children into `pipe` (moment M4).

        Needs a workspace with `yolo`. Children that have already exited are left out.
        """
        run_id = await self.prompt("/tool bash " + json.dumps({"description": "a child", "command": command}))
        pids = (await pipe.line()).split()
        children = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                children.append(self._house.hold(int(pid)))
        return run_id, children

    async def works_with_new_stream(self) -> None:
        """Open a new stream, because the first one has ended, and check that a prompt is answered."""
        self.watcher = await self._house.watch(self.id, name="after", client=self.client)
        await self.works()

    async def works(self) -> None:
        """Check that a prompt is answered."""
        run_id = await self.prompt("/say still here" if self._house.is_scripted(self.path) else "are you there?")
        if not self._house.is_scripted(self.path):
            await (await self._house.provider.next_call()).reply("still here")
        end = await self.ended(run_id)
        assert end.get("text") == "still here", end
        assert "error" not in end, end


class ServerHarness:
    """Own the server and everything around it. Use as `async with` inside the event loop of the test."""

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
        self.expects_exit = 0  # exit code of the stop after the test
        self.open_runs_are_fine = False  # the test leaves accepted runs unfinished on purpose
        self.resets_are_fine = False  # the test requests events that are no longer available
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

    # --- create --------------------------------------------------------------------------------------------------

    def new_client(self) -> Client:
        """Create one more client of the API."""
        return Client(self.server.socket_path, self.client_log)

    async def watch(
        self, workspace: str, *, name: str, client: Client | None = None, ids: bool = True, deltas: bool = False
    ) -> StreamReader:
        """Open one more event stream; the harness closes it."""
        watcher = StreamReader(client or self.new_client(), workspace, name=name, ids=ids, deltas=deltas)
        await watcher.open()
        self._watchers.append(watcher)
        if ids:  # the initial state must not be mistaken later for a change
            await watcher.wait(lambda event: event.kind == "workspace_state", what="the initial state")
        return watcher

    def directory(self, name: str, model: str) -> Path:
        """Create a workspace directory. `model` is `script` (no network), `openai` or `anthropic` (the fake)."""
        path = self.root / name
        path.mkdir()
        if model == "script":
            self._scripted.add(path)
        else:
            (path / "bulkhead.json").write_text(json.dumps(self.provider.config(model)))
        return path

    def pipe(self) -> Pipe:
        """Create a named pipe that children write to and the test reads; the harness closes it."""
        pipe = Pipe(self.root / f"p{len(self._pipes)}")
        self._pipes.append(pipe)
        return pipe

    def is_scripted(self, path: Path) -> bool:
        """Return whether the built-in scripted model answers in this directory."""
        return path in self._scripted

    async def workspace(self, name: str = "w", *, model: str = "script", **options: object) -> WorkspaceFixture:
        """Create a workspace with a session and an open stream; `options` go into the request."""
        client = self.new_client()
        workspace = await client.create(self.directory(name, model), **options)
        session = await client.create_session(workspace["id"])
        watcher = await self.watch(workspace["id"], name=name, client=client)
        return WorkspaceFixture(self, workspace, session, watcher)

    def hold(self, pid: int) -> Process:
        """Open a process by pidfd; the harness closes it."""
        process = Process(pid)
        self._held.append(process)
        return process

    # --- inspect --------------------------------------------------------------------------------------------------

    async def worker(self, workspace: str) -> dict[str, Any]:
        """Return the row of a workspace in `GET /v1/workers`."""
        rows = (await self.new_client().get("/v1/workers")).expect(200).json()
        return next(dict(row) for row in rows if row["id"] == workspace)

    async def worker_pid(self, workspace: str) -> int:
        """Return the pid of the worker of a workspace, which must be running."""
        row = await self.worker(workspace)
        assert row["pid"], row
        return int(row["pid"])

    def stored(self, workspace: WorkspaceFixture) -> Stored:
        """Read the current content of the database file of a workspace."""
        return read_stored(workspace.id, workspace.data_dir)

    async def log_prompts(self, workspace: str) -> None:
        """Enter the prompts of a command into the client log, so that they are checked like all others."""
        for run in (await self.new_client().get(f"/v1/workspaces/{workspace}/runs")).expect(200).json():
            self.client_log.submitted(workspace, run["session_id"], run["id"])
            self.client_log.accepted(workspace, run["session_id"], run["id"])

    def leftovers(self) -> list[tuple[int, str]]:
        """Return pid and title of the processes with this harness's marker or directory, except the server itself."""
        pids = {*marked(HARNESS_MARKER, self.root.name), *mentioning(str(self.root))}
        for workspace in self.client_log.workspaces:
            pids.update(marked(WORKSPACE_MARKER, workspace))
        if self.server.is_running:
            pids.discard(self.server.pid)
        return [(pid, title(pid)) for pid in sorted(pids)]

    # --- start and stop -------------------------------------------------------------------------------------------

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
        """Start the server, and the run in the second workspace."""
        await self.server.restart()
        if self._has_neighbour and not self.neighbour.workspace:
            await self.neighbour.start()

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                await self._check()
        finally:
            await self._close()

    async def _check(self) -> None:
        self.failpoints.disarm()
        if self.server.is_running:
            if self._has_neighbour:
                await self.neighbour.check()
            for watcher in self._watchers:
                await watcher.close()
            await self.neighbour.close()
            code = await self.server.stop()
            assert code == self.expects_exit, f"the server exited with {code}"
        await eventually(
            lambda: not self.leftovers(), timeout_s=LEFTOVER_S, what="no process left", state=self.leftovers
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
        findings += [f"a provider would reject: {text}" for text in self.provider.violations]
        for path in self._logs():
            if API_KEY in path.read_text(errors="replace"):
                findings.append(f"the key of the model is in {path}")
        if API_KEY in self.server.log:
            findings.append("the key of the model is in the log of the server")
        assert findings == [], "\n".join(findings)

    async def _close(self) -> None:
        for watcher in self._watchers:
            watcher.resumes = False
            try:
                await watcher.close()
            except AssertionError:
                pass  # the test has failed already; its own error matters
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
        """Return the end of all logs, for the report of a failed test."""
        parts = [f"--- server\n{self.server.log[-12000:]}"]
        parts += [f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in self._logs()]
        return "\n".join(parts)


async def together(*requests: Any) -> list[Any]:
    """Run several requests concurrently; return their results in order."""
    return list(await asyncio.gather(*requests))
