"""How one MCP server is reached: the library, its settings expanded, its process or its address, its token."""

import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.limits import Limits
from worker.config.expand import shell_runner
from worker.config.sections import McpSettings, OAuthToken
from worker.mcp.capabilities import McpFailed, NeedsLogin, What
from worker.mcp.settings import ServerTarget, expanded, start_s
from worker.processes.child import ChildProcess, ChildProcesses
from worker.processes.environment import tool_environment
from worker.toolkit.file_uris import uri_of

if TYPE_CHECKING:  # imports the library
    from worker.mcp.session import LiveSession

IMPORT_S = 60.0
NOTE_BYTES = 2000
ENDED = "it was ended"
"""The reason when it was our doing: the worker ends all its children when it closes."""
MISSING = (
    "the Model Context Protocol is not installed: install bulkhead-agents[mcp] (pip install 'bulkhead-agents[mcp]')"
)


@dataclass(frozen=True)
class McpEnvironment:
    """What all servers of a worker share. `register_secret` keeps a text out of the logs."""

    workspace: Path
    children: ChildProcesses
    limits: Limits
    clock: Clock
    log: logging.Logger
    register_secret: Callable[[str], None]
    save: Callable[[str, OAuthToken], Awaitable[None]]
    reread: Callable[[str, str], Awaitable[OAuthToken | None]]


class Connector:
    """The way to one server. `clean` takes its secrets out of a text; `note` is what it wrote that was no message."""

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        token: OAuthToken | None,
        env: Mapping[str, str],
        around: McpEnvironment,
        *,
        on_changed: Callable[[What], None],
        tasks: TaskOwner,
    ) -> None:
        """`on_changed` is called when the server says that one of its lists has changed."""
        self.name = name
        self.settings = settings
        self.token = token
        self.start_s = start_s(settings, around.limits)
        self.clean: Callable[[str], str] = lambda text: text
        self.note: Callable[[], str] = lambda: ""
        self._env = dict(env)
        self._around = around
        self._limits = around.limits
        self._on_changed = on_changed
        self._tasks = tasks

    async def load(self) -> None:
        """Import the library, in a thread. Raises McpFailed, TimeoutError."""

        def job(_stop: object) -> None:
            for name in ("session", "http_transport", "oauth", "stdio_transport"):
                importlib.import_module(f"worker.mcp.{name}")

        try:
            await self._around.children.threads.run(job, timeout_s=IMPORT_S)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
                raise
            raise McpFailed(MISSING) from None

    async def target(self) -> ServerTarget:
        """The settings, expanded. Raises BadInput."""
        base, settings = self._env, self.settings

        def job(_stop: object) -> ServerTarget:
            return expanded(settings, base, shell_runner(self._around.workspace, base))

        target = await self._around.children.threads.run(job, timeout_s=self.start_s)
        for secret in target.secrets:
            self._around.register_secret(secret)
        self.clean = target.clean
        return target

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["LiveSession"]:
        """A session for as long as the block lasts. Raises McpFailed, NeedsLogin, BadInput, OSError."""
        target = await self.target()
        way = self._by_pipes(target) if target.kind == "stdio" else self._by_network(target)
        async with way as session:
            yield session

    @contextlib.asynccontextmanager
    async def _by_pipes(self, target: ServerTarget) -> AsyncIterator["LiveSession"]:
        from worker.mcp.session import over_pipes
        from worker.mcp.stdio_transport import StdioTransport

        lines = StdioTransport(self._limits.mcp_message_max_bytes)
        self.note = lambda: lines.note
        child = await self._around.children.start(
            target.argv,
            env={**tool_environment(self._env), **target.env},
            cwd=self._around.workspace,
            head_bytes=NOTE_BYTES,
            tail_bytes=NOTE_BYTES,
            stdin=True,
            on_stdout=lines.feed,
            is_service=True,
        )
        watching = self._tasks.start(self._watch(child, lines.end), "exit")
        try:
            async with self._session(over_pipes(lines, child.write)) as session:
                yield session
            raise McpFailed(await self._last_words(child, lines.problem))
        except McpFailed as error:
            if not error.is_lost:
                raise
            raise McpFailed(await self._last_words(child, lines.problem or str(error))) from None
        finally:
            watching.cancel()
            await child.end()

    def _session(
        self, streams: contextlib.AbstractAsyncContextManager[Any]
    ) -> contextlib.AbstractAsyncContextManager["LiveSession"]:
        from worker.mcp.session import open_session

        root = uri_of(self._around.workspace)
        return open_session(streams, root=root, on_changed=self._on_changed, limits=self._limits)

    async def _watch(self, child: ChildProcess, end: Callable[[], None]) -> None:
        """The process has ended, but somebody else may still hold its output."""
        await child.exited()
        await child.drained(self._limits.tool_pipe_grace_s)
        end()

    async def _last_words(self, child: ChildProcess, problem: str) -> str:
        """Why a child is not there any more."""
        if child.is_ending:
            return ENDED
        code = await child.exited_within(self._limits.tool_pipe_grace_s)
        if code is None:
            return problem or "it closed its output"
        reason = f"its process ended with code {code}" if code >= 0 else f"signal {-code} ended its process"
        note = child.stderr.text().strip().splitlines()[-3:]
        return f"{reason}: {' '.join(note)}" if note else reason

    @contextlib.asynccontextmanager
    async def _by_network(self, target: ServerTarget) -> AsyncIterator["LiveSession"]:
        from worker.mcp.http_transport import HttpTransport
        from worker.mcp.oauth import Bearer, token_for
        from worker.mcp.session import over_network

        auth = None
        if self.settings.oauth:

            async def reread() -> OAuthToken | None:
                return token_for(await self._around.reread(self.name, target.url), target.url)

            token = token_for(self.token, target.url)
            self._hide(target, token)
            auth = Bearer(token, save=lambda new: self.save(target, new), reread=reread, clock=self._around.clock)
        line = HttpTransport(target, auth=auth, connect_s=self.start_s, limits=self._limits)
        try:
            async with self._session(over_network(line, target.kind, self._limits)) as session:
                yield session
        except NeedsLogin:
            raise
        except McpFailed as error:
            if not line.status:
                raise
            more = "; set oauth for a login, or a header with a token" if line.status == 401 and auth is None else ""
            raise McpFailed(f"{error} (HTTP {line.status}){more}", is_lost=error.is_lost) from None

    def _hide(self, target: ServerTarget, token: OAuthToken | None) -> None:
        """Keep the parts of a token out of logs and errors."""
        if token is not None:
            parts = tuple(
                part for part in (token.access_token, token.refresh_token, token.client.client_secret) if part
            )
            for part in parts:
                self._around.register_secret(part)
            self.clean = replace(target, secrets=(*target.secrets, *parts)).clean

    async def save(self, target: ServerTarget, token: OAuthToken) -> None:
        """Keep a new token; one that cannot be stored is used all the same."""
        self._hide(target, token)
        self.token = token
        try:
            await self._around.save(self.name, token)
        except BulkheadError as error:
            self._around.log.error("token not stored", extra=fields(server=self.name, reason=error.message))
