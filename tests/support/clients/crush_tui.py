"""Repeat the requests of the interactive Crush client.

Each user action is a method. A task follows the event stream: it reconnects after each end, creates a removed workspace
again, and sends the requests that the client sends after an event.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.support.checks.history import Seen
from tests.support.clients.crush import OWN, Crush, Subscription, SubscriptionRejected, word
from tests.support.clients.crush_commands import is_configured
from tests.support.clients.http_client import ConnectionLost

BACK_OFF_S, BACK_OFF_MAX_S = 0.25, 10.0


class Tui:
    """One interactive client. Use as `async with`: on entry it sends all requests of the start."""

    def __init__(self, crush: Crush, path: Path, *, env: list[str] | None = None, **options: Any) -> None:
        self.crush = crush
        self.workspace: dict[str, Any] = {}
        self.session: dict[str, Any] = {}
        self.messages: list[dict[str, Any]] = []
        self.seen: list[Seen] = []  # from all streams
        self.opened = 0  # number of streams so far
        self.recoveries = 0
        self.reloads = 0  # how often the session was reloaded after a reconnect
        self.stream: Subscription | None = None
        self.busy_at_finish: list[bool] = []  # `is_busy` as read after each `agent_finished`
        self._options = {"path": str(path), "env": env or ["PATH=/bin"]} | options
        self._changed = asyncio.Event()
        self._requests: asyncio.Queue[Coroutine[Any, Any, object]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def base(self) -> str:
        return f"/v1/workspaces/{word(self.workspace['id'])}"

    @property
    def base_of_session(self) -> str:
        return f"{self.base}/sessions/{word(self.session['id'])}"

    # --- start and stop -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Tui":
        crush = self.crush
        assert await crush.start() != OWN
        self.workspace = await crush.create(self._options)
        configured = is_configured(self.workspace)
        if configured:
            await crush.ok("POST", f"{self.base}/agent/init", {"interactive": True})
        await crush.ok("GET", f"{self.base}/permissions/skip")
        if (await crush.ok("GET", f"{self.base}/agent"))["is_ready"]:
            await crush.ok("GET", f"{self.base}/agent")
        if configured:
            await crush.ok("GET", f"{self.base}/project/needs-init")
        await asyncio.gather(
            self._subscribe(),
            crush.ok("GET", f"{self.base}/skills"),
            crush.ok("GET", f"{self.base}/messages/user"),
            self._read_language_servers(),
            self._probe(3),
            self._read_mcp(),
        )
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow(), name="tui"), loop.create_task(self._work(), name="tui calls")]
        for task in self._tasks:
            task.add_done_callback(lambda _task: self._changed.set())
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        follow, work = self._tasks
        if failed is None:
            await self.settled()
        for task in (follow, work):
            task.cancel()
        results = await asyncio.gather(follow, work, return_exceptions=True)
        while not self._requests.empty():
            self._requests.get_nowait().close()
        if failed is not None:
            return
        for result in results:
            if isinstance(result, Exception):
                raise result
        assert self.stream is not None
        await self.stream.close()
        await self.crush.retire(self.workspace["id"])

    async def settled(self) -> None:
        """Wait until all requests caused by events have been answered."""
        async with asyncio.timeout(15.0):
            join = asyncio.ensure_future(self._requests.join())
            await asyncio.wait({join, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            join.cancel()
        self._check()

    async def wait(self, matches: Callable[[Seen], bool], *, what: str, timeout_s: float = 15.0, skip: int = 0) -> Seen:
        """Wait for the first matching event after the first `skip` events and return it."""
        await self.until(lambda: any(map(matches, self.seen[skip:])), what=what, timeout_s=timeout_s)
        return next(event for event in self.seen[skip:] if matches(event))

    async def until(self, check: Callable[[], bool], *, what: str, timeout_s: float = 15.0) -> None:
        """Wait until `check` holds; it is called after each event and each new stream."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._changed.clear()
                    if check():
                        return
                    self._check()
                    await self._changed.wait()
        except TimeoutError:
            events = "\n".join(f"{event.kind} {event.change} {str(event.payload)[:160]}" for event in self.seen[-40:])
            calls = "\n".join(map(str, self.crush.calls[-40:]))
            raise AssertionError(f"no {what} within {timeout_s} s:\n{events}\n{calls}") from None

    def _check(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if self.stream is not None:
            self.stream.check()

    # --- user actions ---------------------------------------------------------------------------------------------

    async def ask(self, prompt: str, attachments: list[dict[str, Any]] | None = None) -> None:
        """Send a prompt, in a new session if there is none, and load what the client then shows."""
        crush = self.crush
        assert (await crush.ok("GET", f"{self.base}/agent"))["is_ready"]
        if not self.session:
            self.session = await crush.ok("POST", f"{self.base}/sessions", {"title": "New Session"})
            assert self.session["id"]
        body: dict[str, Any] = {"session_id": self.session["id"], "prompt": prompt}
        paths = [attachment["file_path"] for attachment in attachments or ()]
        if attachments:
            body["attachments"] = attachments
        crush.client_log.submitted(self.workspace["id"], self.session["id"], "")
        await asyncio.gather(
            self._submit(body),
            self.load(),
            self.show_session(self.session["id"]),
            *(self._note_read(path) for path in paths),
        )

    async def _submit(self, body: dict[str, Any]) -> None:
        await self.crush.ok("POST", f"{self.base}/agent", body)
        await self._probe(3)
        await self._read_queue()

    async def load(self) -> None:
        """Read everything that the client shows of the session."""
        crush = self.crush
        self.session = await crush.ok("GET", self.base_of_session)
        files = await crush.ok("GET", f"{self.base_of_session}/history")
        await crush.ok("GET", f"{self.base_of_session}/filetracker/files")
        self.messages = await crush.ok("GET", f"{self.base_of_session}/messages")
        for message in self.messages:
            for part in message["parts"]:
                if part["type"] == "tool_call" and part["data"]["name"] in ("agent", "agentic_fetch"):
                    child = f"{message['id']}$${part['data']['id']}"
                    await crush.ok("GET", f"{self.base}/sessions/{word(child)}/messages")
        for path in sorted({file["path"] for file in files}):
            await crush.ok("POST", f"{self.base}/lsps/start", {"path": path})
        await crush.ok("GET", f"{self.base_of_session}/messages/user")
        await self._read_queue()

    async def show_session(self, session: str) -> int:
        """Announce which session is shown; return the status, which the client ignores."""
        path = f"{self.base}/current-session?client_id={self.crush.client_id}"
        return (await self.crush.call("POST", path, {"session_id": session})).status

    async def cancel(self) -> None:
        """Cancel, as the client does on pressing Esc twice."""
        await self.crush.ok("POST", f"{self.base}/agent/sessions/{word(self.session['id'])}/cancel")

    async def clear(self) -> None:
        """Clear the queue, as the client does on pressing Esc while prompts are queued."""
        await self.crush.ok("POST", f"{self.base}/agent/sessions/{word(self.session['id'])}/prompts/clear")

    async def queued(self) -> list[str]:
        """Read the queued prompts as the status line does."""
        return await self._read_queue()

    async def rename(self, title: str) -> dict[str, Any]:
        """Change the title; return the session in the response."""
        self.session = await self.crush.ok("PUT", self.base_of_session, self.session | {"title": title})
        return self.session

    async def delete(self, session: str) -> bool:
        """Delete a session from the list of sessions; return False if it is busy."""
        await self.crush.ok("GET", f"{self.base}/sessions")
        is_agent_busy = (await self.crush.ok("GET", f"{self.base}/agent"))["is_busy"]
        if (await self.crush.ok("GET", f"{self.base}/agent/sessions/{word(session)}"))["is_busy"] and is_agent_busy:
            return False
        await self.crush.ok("DELETE", f"{self.base}/sessions/{word(session)}")
        return True

    async def start_new_session(self) -> None:
        """Switch to a new session, which is created with its first prompt."""
        self.session, self.messages = {}, []
        await self.crush.ok("POST", f"{self.base}/lsps/stop")
        await self.show_session("")
        await self.crush.ok("GET", f"{self.base}/messages/user")

    async def shell(self, command: str) -> dict[str, Any]:
        """Run a command, as the client does for `!command`."""
        body = {"session_id": self.session["id"], "command": command, "term_width": 80}
        path = f"{self.base}/agent/sessions/{word(self.session['id'])}/shell"
        return dict(await self.crush.ok("POST", path, body))

    async def last_read(self, path: str) -> str:
        """Return when the session has read a file, as the client asks for `@file`."""
        query = f"session_id={word(self.session['id'])}&path={word(path)}"
        return str(await self.crush.ok("GET", f"{self.base}/filetracker/lastread?{query}"))

    async def configure(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change the configuration and read the workspace again."""
        await self.crush.ok("POST", f"{self.base}/config/{route}", body)
        self.workspace = await self.crush.ok("GET", self.base)
        return self.workspace

    # --- requests after events ------------------------------------------------------------------------------------

    async def _probe(self, times: int) -> None:
        for _ in range(times):
            await self.crush.ok("GET", f"{self.base}/agent")
        await self.crush.ok("GET", f"{self.base}/permissions/skip")

    async def _read_queue(self) -> list[str]:
        await self.crush.ok("GET", f"{self.base}/agent")
        path = f"{self.base}/agent/sessions/{word(self.session['id'])}/prompts/list"
        return list(await self.crush.ok("GET", path))

    async def _read_language_servers(self) -> None:
        for name in await self.crush.ok("GET", f"{self.base}/lsps"):
            await self.crush.call("GET", f"{self.base}/lsps/{word(name)}/diagnostics")

    async def _read_mcp(self) -> None:
        await self.crush.ok("GET", f"{self.base}/mcp/states")
        await self.crush.ok("GET", f"{self.base}/mcp/pending-auth")

    async def _note_read(self, path: str) -> None:
        await self.crush.ok("POST", f"{self.base}/filetracker/read", {"session_id": self.session["id"], "path": path})
        await self.crush.ok("POST", f"{self.base}/lsps/start", {"path": path})

    def _on_event(self, event: Seen) -> None:
        self.seen.append(event)
        self._changed.set()
        shown = self.session.get("id", "")
        match event.kind:
            case "config_changed":
                self._requests.put_nowait(self._refresh())
            case "lsp_event":
                self._requests.put_nowait(self._read_language_servers())
            case "mcp_event":
                self._requests.put_nowait(self._mcp_changed(event.payload))
            case "agent_event" if event.payload["type"] in ("agent_finished", "error"):
                self._requests.put_nowait(self._finished(event.payload.get("session_id", "")))
            case "message" if event.change == "created" and event.payload["session_id"] == shown:
                self._requests.put_nowait(self._update_status())
            case "session" if event.change == "deleted" and event.payload["id"] == shown:
                self.session, self.messages = {}, []

    async def _refresh(self) -> None:
        self.workspace = await self.crush.ok("GET", self.base)

    async def _mcp_changed(self, payload: dict[str, Any]) -> None:
        kind, is_list_change, _ = payload["type"].partition("_list_changed")
        if is_list_change:
            await self.crush.ok("POST", f"{self.base}/mcp/refresh-{kind}", {"name": payload["name"]})
            return
        await self.crush.call("POST", f"{self.base}/agent/update")
        await self._read_mcp()
        await self.crush.ok("GET", f"{self.base}/mcp/prompts")

    async def _finished(self, session: str) -> None:
        if session:
            answer = await self.crush.call("GET", f"{self.base}/agent/sessions/{word(session)}")
            if answer.status == 200:
                self.busy_at_finish.append(answer.json()["is_busy"])
        await self._update_status()

    async def _update_status(self) -> None:
        await self._probe(4)
        if self.session:
            await self._read_queue()

    async def _work(self) -> None:
        while True:
            request = await self._requests.get()
            with contextlib.suppress(ConnectionLost):  # the stream ends, too; everything is reloaded after it
                await request
            self._requests.task_done()

    # --- the stream -----------------------------------------------------------------------------------------------

    async def _subscribe(self) -> None:
        self.stream = await self.crush.subscribe(self.workspace["id"], self._on_event)
        self.opened += 1

    async def _follow(self) -> None:
        while True:
            assert self.stream is not None
            await self.stream.has_ended.wait()
            await self._reconnect()
            if self.session:
                with contextlib.suppress(ConnectionLost):  # the server is gone again; the stream ends, too
                    await self.show_session(self.session["id"])
                    await self.load()
                    self.reloads += 1
            self._changed.set()

    async def _reconnect(self) -> None:
        pause_s = BACK_OFF_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._subscribe()
                return
            except SubscriptionRejected as rejected:
                if rejected.status == 404:
                    with contextlib.suppress(ConnectionLost):
                        await self._recover()
            except ConnectionLost:
                pass
            pause_s = min(pause_s * 2, BACK_OFF_MAX_S)

    async def _recover(self) -> None:
        """Create a removed workspace again from the copy of the client."""
        fields = ("path", "data_dir", "debug", "yolo", "channels", "env")
        self.workspace = await self.crush.create({key: self.workspace[key] for key in fields if key in self.workspace})
        self.recoveries += 1
        if is_configured(self.workspace):
            await self.crush.ok("POST", f"{self.base}/agent/init", {"interactive": True})
