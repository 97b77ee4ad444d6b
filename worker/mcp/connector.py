"""Connect to one MCP server.

That is: import the library, expand the settings, start the process or open the URL, and use the stored token.
"""

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
from worker.mcp.settings import McpTarget, expanded, start_timeout_s
from worker.processes.child import ChildProcess, ChildProcesses
from worker.processes.environment import tool_environment
from worker.toolkit.file_uris import uri_of

if TYPE_CHECKING:  # imports the library
    from worker.mcp.session import LiveSession

IMPORT_S = 60.0
OUTPUT_KEPT_BYTES = 2000
ENDED = "it was ended"
"""The reason when the worker itself ended the process: it ends all its children when it closes."""
MISSING = (
    "the Model Context Protocol is not installed: install bulkhead-agents[mcp] (pip install 'bulkhead-agents[mcp]')"
)


@dataclass(frozen=True)
class McpEnvironment:
    """What all servers of a worker share.

    `register_secret` keeps a text out of the logs. `save_token(server, token)` stores a token in the user's
    configuration; `read_token(server, url)` reads the stored one again.
    """

    workspace: Path
    children: ChildProcesses
    limits: Limits
    clock: Clock
    log: logging.Logger
    register_secret: Callable[[str], None]
    save_token: Callable[[str, OAuthToken], Awaitable[None]]
    read_token: Callable[[str, str], Awaitable[OAuthToken | None]]


class Connector:
    """Opens connections to one server.

    `redact` removes the server's secrets from a text; `stray_output` returns the first line of its output that was not
    a message.
    """

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        token: OAuthToken | None,
        env: Mapping[str, str],
        environment: McpEnvironment,
        *,
        on_changed: Callable[[What], None],
        tasks: TaskOwner,
    ) -> None:
        """Keep the settings; nothing connects yet. `on_changed` is called when the server reports a changed list."""
        self.name = name
        self.settings = settings
        self.token = token
        self.start_timeout_s = start_timeout_s(settings, environment.limits)
        self.redact: Callable[[str], str] = lambda text: text
        self.stray_output: Callable[[], str] = lambda: ""
        self._env = dict(env)
        self._environment = environment
        self._limits = environment.limits
        self._on_changed = on_changed
        self._tasks = tasks

    async def load(self) -> None:
        """Import the MCP library in a thread. Raises McpFailed when it is not installed, TimeoutError."""

        def job(_stop: object) -> None:
            for name in ("session", "http_transport", "oauth", "stdio_transport"):
                importlib.import_module(f"worker.mcp.{name}")

        try:
            await self._environment.children.threads.run(job, timeout_s=IMPORT_S)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
                raise
            raise McpFailed(MISSING) from None

    async def target(self) -> McpTarget:
        """Expand the settings and register their secrets. Raises BadInput."""
        base, settings = self._env, self.settings

        def job(_stop: object) -> McpTarget:
            return expanded(settings, base, shell_runner(self._environment.workspace, base))

        target = await self._environment.children.threads.run(job, timeout_s=self.start_timeout_s)
        for secret in target.secrets:
            self._environment.register_secret(secret)
        self.redact = target.redact
        return target

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["LiveSession"]:
        """Hold a session open during the block. Raises McpFailed, NeedsLogin, BadInput, OSError."""
        target = await self.target()
        connection = self._over_stdio(target) if target.kind == "stdio" else self._over_http(target)
        async with connection as session:
            yield session

    @contextlib.asynccontextmanager
    async def _over_stdio(self, target: McpTarget) -> AsyncIterator["LiveSession"]:
        from worker.mcp.session import stdio_streams
        from worker.mcp.stdio_transport import StdioTransport

        transport = StdioTransport(self._limits.mcp_message_max_bytes)
        self.stray_output = lambda: transport.stray_output
        child = await self._environment.children.start(
            target.argv,
            env={**tool_environment(self._env), **target.env},
            cwd=self._environment.workspace,
            head_bytes=OUTPUT_KEPT_BYTES,
            tail_bytes=OUTPUT_KEPT_BYTES,
            stdin=True,
            on_stdout=transport.feed,
            is_service=True,
        )
        watching = self._tasks.start(self._watch(child, transport.end), "exit")
        try:
            async with self._session(stdio_streams(transport, child.write)) as session:
                yield session
            raise McpFailed(await self._exit_reason(child, transport.problem))
        except McpFailed as error:
            if not error.is_lost:
                raise
            raise McpFailed(await self._exit_reason(child, transport.problem or str(error))) from None
        finally:
            watching.cancel()
            await child.end()

    def _session(
        self, streams: contextlib.AbstractAsyncContextManager[Any]
    ) -> contextlib.AbstractAsyncContextManager["LiveSession"]:
        from worker.mcp.session import open_session

        root = uri_of(self._environment.workspace)
        return open_session(streams, root=root, on_changed=self._on_changed, limits=self._limits)

    async def _watch(self, child: ChildProcess, end: Callable[[], None]) -> None:
        """End the transport after the process has ended; its descendants may keep the output pipe open."""
        await child.exited()
        await child.drained(self._limits.tool_pipe_grace_s)
        end()

    async def _exit_reason(self, child: ChildProcess, problem: str) -> str:
        """Say why the connection ended: `problem`, or how the process exited, with its last error lines."""
        if child.is_ending:
            return ENDED
        code = await child.exited_within(self._limits.tool_pipe_grace_s)
        if code is None:
            return problem or "it closed its output"
        reason = f"its process ended with code {code}" if code >= 0 else f"signal {-code} ended its process"
        last_lines = child.stderr.text().strip().splitlines()[-3:]
        return f"{reason}: {' '.join(last_lines)}" if last_lines else reason

    @contextlib.asynccontextmanager
    async def _over_http(self, target: McpTarget) -> AsyncIterator["LiveSession"]:
        from worker.mcp.http_transport import HttpTransport
        from worker.mcp.oauth import Bearer, token_for
        from worker.mcp.session import http_streams

        auth = None
        if self.settings.oauth:

            async def read_token() -> OAuthToken | None:
                return token_for(await self._environment.read_token(self.name, target.url), target.url)

            token = token_for(self.token, target.url)
            self._register_secrets(target, token)
            auth = Bearer(
                token,
                save=lambda new: self.save_token(target, new),
                read_stored=read_token,
                clock=self._environment.clock,
            )
        transport = HttpTransport(target, auth=auth, timeout_s=self.start_timeout_s, limits=self._limits)
        try:
            async with self._session(http_streams(transport, target.kind, self._limits)) as session:
                yield session
        except NeedsLogin:
            raise
        except McpFailed as error:
            if not transport.status:
                raise
            is_anonymous = transport.status == 401 and auth is None
            advice = "; set oauth for a login, or a header with a token" if is_anonymous else ""
            raise McpFailed(f"{error} (HTTP {transport.status}){advice}", is_lost=error.is_lost) from None

    def _register_secrets(self, target: McpTarget, token: OAuthToken | None) -> None:
        """Keep the secret parts of a token out of logs and error texts."""
        if token is not None:
            parts = tuple(
                part for part in (token.access_token, token.refresh_token, token.client.client_secret) if part
            )
            for part in parts:
                self._environment.register_secret(part)
            self.redact = replace(target, secrets=(*target.secrets, *parts)).redact

    async def save_token(self, target: McpTarget, token: OAuthToken) -> None:
        """Use a new token and store it. If it cannot be stored, log that and use it until the worker ends."""
        self._register_secrets(target, token)
        self.token = token
        try:
            await self._environment.save_token(self.name, token)
        except BulkheadError as error:
            self._environment.log.error("token not stored", extra=fields(server=self.name, reason=error.message))
