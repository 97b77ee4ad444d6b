"""Manage the configured MCP servers of one workspace: offer their tools to turns, and publish their states to clients.

The servers connect when the worker starts, each in its own task, so that one that hangs delays nothing. They do not
keep the worker awake.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from protocol.api.mcp import McpEvent, McpInfo, McpPrompt, PendingLogin
from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.errors import NotFound
from protocol.events import Event, snapshot_event
from protocol.limits import Limits
from worker.config.edit import set_key
from worker.config.files import Object
from worker.config.load import WorkspaceConfig
from worker.config.sections import McpSettings, OAuthToken
from worker.mcp.capabilities import RemoteTool
from worker.mcp.connector import McpEnvironment
from worker.mcp.lifecycle import McpState
from worker.mcp.server import McpServer
from worker.mcp.settings import is_definition, is_enabled, settings_of, without_password
from worker.mcp.tools import ListResources, McpTool, ReadResource
from worker.processes.child import ChildProcesses
from worker.toolkit.extension import Extension
from worker.toolkit.tool import Tool

SERVERS_MAX = 64


class McpService(Extension):
    """All MCP servers of the workspace. For calls to one server, use `server(name)`."""

    def __init__(
        self,
        *,
        workspace: Path,
        children: ChildProcesses,
        publish_snapshot: Callable[[Event], None],
        save: Callable[[str, OAuthToken], Awaitable[None]],
        reload: Callable[[], Awaitable[object]],
        register_secret: Callable[[str], None],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """Make a service without servers; `configure` adds them.

        `publish_snapshot` sends an event that is not stored, `save` stores the token of a server in the user's
        configuration, `reload` reads the configuration again, and `register_secret` keeps a text out of the logs.
        There are nine parameters because all but `publish_snapshot` and `reload` go into the one `McpEnvironment`
        that the servers share.
        """
        self._publish_snapshot = publish_snapshot
        self._reload = reload
        self._limits = limits
        self._environment = McpEnvironment(
            workspace=workspace,
            children=children,
            limits=limits,
            clock=clock,
            log=log,
            register_secret=register_secret,
            save_token=save,
            read_token=self._read_token,
        )
        self._tasks = TaskOwner("mcp", log)
        self._env: dict[str, str] = {}
        self._servers: dict[str, McpServer] = {}
        self._stored_tokens: dict[str, OAuthToken | None] = {}
        self._resource_tools: Sequence[Tool] = (ListResources(self), ReadResource(self))

    # --- Extension --------------------------------------------------------------------------------------------------

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Keep the connected servers whose settings did not change; end, start or reconnect the others."""
        defined = {name: settings for name, settings in config.mcp.items() if is_definition(settings)}
        defined = dict(list(defined.items())[:SERVERS_MAX])
        is_same_env = dict(env) == self._env
        self._env = dict(env)
        self._stored_tokens = {name: settings.oauth_token for name, settings in config.mcp.items()}
        for name in [name for name in self._servers if name not in defined]:
            self._end(name)
        for name, settings in sorted(defined.items()):
            self._reconcile(name, settings, is_same_env=is_same_env)

    def _reconcile(self, name: str, settings: McpSettings, *, is_same_env: bool) -> None:
        current = self._servers.get(name)
        connection_settings = settings_of(settings)
        if current is not None and is_same_env and current.settings == connection_settings:
            if settings.oauth_token is not None and settings.oauth_token != current.token:
                current.token = settings.oauth_token
                if current.state is McpState.NEEDS_AUTH:
                    current.start()
            if current.state is McpState.ERROR:
                current.start()
            return
        if current is not None:
            self._end(name)
        self._servers[name] = server = McpServer(
            name, connection_settings, settings.oauth_token, self._env, self._environment, self._publish
        )
        if not settings.disabled:
            server.start()

    def _end(self, name: str) -> None:
        self._tasks.start(self._servers.pop(name).close(), f"close {name}")

    async def refresh(self) -> None:
        """Reconnect broken servers, so that the next turn has their tools. Bounded."""
        broken = [server for server in self._servers.values() if server.is_broken]
        for server in broken:
            server.start()
        await asyncio.gather(*(server.settled() for server in broken))

    def tools(self) -> Sequence[Tool]:
        """Return the tools of the connected servers, and two tools for resources if any server is configured."""
        if not self._servers:
            return ()
        tools: list[Tool] = [*self._resource_tools]
        for _, server in sorted(self._servers.items()):
            tools += [McpTool(server, tool) for tool in _enabled_tools(server)]
        return tools

    def notes(self) -> Sequence[str]:
        """Return the instructions that the connected servers give, for the system prompt."""
        return [
            f'<mcp_instructions server="{name}">\n{server.capabilities.instructions}\n</mcp_instructions>'
            for name, server in sorted(self._servers.items())
            if server.capabilities.instructions
        ]

    @property
    def busy(self) -> int:
        """Count the logins under way: the worker must be awake when the browser returns."""
        return sum(server.is_logging_in for server in self._servers.values())

    @property
    def connected(self) -> int:
        """Count the connected servers."""
        return sum(server.connected_at is not None for server in self._servers.values())

    async def settled(self) -> None:
        """Wait until no server is connecting. Bounded."""
        await asyncio.gather(*(server.settled() for server in self._servers.values()))

    async def close(self) -> None:
        """Disconnect all servers for good. Bounded."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        await self._tasks.close(self._limits.settle_s)

    # --- for operations and tools -----------------------------------------------------------------------------------

    def find(self, name: str) -> McpServer | None:
        """Return the server of that name, or None."""
        return self._servers.get(name)

    def server(self, name: str) -> McpServer:
        """Return the server of that name. Raises NotFound."""
        server = self._servers.get(name)
        if server is None:
            names = ", ".join(sorted(self._servers)) or "none"
            raise NotFound(f"cannot find MCP server {name[:200]!r}: this workspace has {names}")
        return server

    def infos(self) -> dict[str, McpInfo]:
        """Return all servers as the API shows them, by name."""
        return {
            name: McpInfo(
                name=name,
                state=server.state.value,
                connected_at=_stamp(server.connected_at) if server.connected_at is not None else UNSET,
                error=server.error,
                tool_count=len(_enabled_tools(server)),
                prompt_count=len(server.capabilities.prompts),
                resource_count=len(server.capabilities.resources),
            )
            for name, server in sorted(self._servers.items())
        }

    def prompts(self) -> list[McpPrompt]:
        """Return the prompts of all servers."""
        return [
            replace(prompt, id=f"{name}:{prompt.prompt_id}", client_id=name)
            for name, server in sorted(self._servers.items())
            for prompt in server.capabilities.prompts
        ]

    def pending(self) -> list[PendingLogin]:
        """Return the servers that require a login."""
        return [
            PendingLogin(name=name, url=without_password(server.settings.url))
            for name, server in sorted(self._servers.items())
            if server.state is McpState.NEEDS_AUTH
        ]

    async def _read_token(self, name: str, _url: str) -> OAuthToken | None:
        await self._reload()
        return self._stored_tokens.get(name)

    def _publish(self, server: McpServer, event_type: str) -> None:
        payload = McpEvent(
            type=event_type,  # type: ignore[arg-type]
            name=server.name,
            state=server.state.value,
            error=server.error,
            tool_count=len(_enabled_tools(server)),
            prompt_count=len(server.capabilities.prompts),
            resource_count=len(server.capabilities.resources),
        )
        # Not stored: only the current state matters, and clients can request it.
        self._publish_snapshot(snapshot_event(payload, key=f"mcp {event_type} {server.name}"))


def store_token(tree: Object, name: str, token: OAuthToken) -> None:
    """Set the token of a server in the content of a configuration file. Raises BadInput."""
    set_key(tree, ["mcp", name, "oauth_token"], msgspec.to_builtins(token))


def _enabled_tools(server: McpServer) -> Sequence[RemoteTool]:
    return [tool for tool in server.capabilities.tools if is_enabled(server.settings, tool.name)]


def _stamp(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
