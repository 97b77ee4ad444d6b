"""The MCP servers of one workspace: those of its configuration, told to clients, offered to turns.

They are connected when the worker starts, each by itself: one that hangs holds up nobody. They do not keep the worker
awake.
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
from worker.config.load import Config
from worker.config.sections import McpSettings, OAuthToken
from worker.mcp.connector import McpEnvironment
from worker.mcp.lifecycle import McpState
from worker.mcp.server import McpServer
from worker.mcp.settings import is_meant, offers, settings_of, without_password
from worker.mcp.tools import ListResources, McpTool, ReadResource
from worker.processes.child import ChildProcesses
from worker.toolkit.extension import Extension
from worker.toolkit.tool import Tool

SERVERS_MAX = 64


class McpService(Extension):
    """All MCP servers. What is asked of one of them goes to `server(name)`."""

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
        """Take what the service needs from the worker.

        `publish_snapshot` sends an event that is not stored, `save` stores the token of a server in the user's
        configuration, `reload` reads that again, and `register_secret` keeps a text out of the logs.
        """
        self._publish_snapshot = publish_snapshot
        self._reload = reload
        self._limits = limits
        self._around = McpEnvironment(
            workspace=workspace,
            children=children,
            limits=limits,
            clock=clock,
            log=log,
            register_secret=register_secret,
            save=save,
            reread=self._reread,
        )
        self._tasks = TaskOwner("mcp", log)
        self._env: dict[str, str] = {}
        self._servers: dict[str, McpServer] = {}
        self._stored: dict[str, OAuthToken | None] = {}
        self._resource_tools: Sequence[Tool] = (ListResources(self), ReadResource(self))

    # --- Service ----------------------------------------------------------------------------------------------------

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Servers whose settings are as before go on, if they are well; the others are ended or connected anew."""
        wanted = {name: settings for name, settings in config.mcp.items() if is_meant(settings)}
        wanted = dict(list(wanted.items())[:SERVERS_MAX])
        is_same_env = dict(env) == self._env
        self._env = dict(env)
        self._stored = {name: settings.oauth_token for name, settings in config.mcp.items()}
        for name in [name for name in self._servers if name not in wanted]:
            self._end(name)
        for name, settings in sorted(wanted.items()):
            self._reconcile(name, settings, is_same_env=is_same_env)

    def _reconcile(self, name: str, settings: McpSettings, *, is_same_env: bool) -> None:
        known = self._servers.get(name)
        plain = settings_of(settings)
        if known is not None and is_same_env and known.settings == plain:
            if settings.oauth_token is not None and settings.oauth_token != known.token:
                known.token = settings.oauth_token
                if known.state is McpState.NEEDS_AUTH:
                    known.start()
            if known.state is McpState.ERROR:
                known.start()
            return
        if known is not None:
            self._end(name)
        self._servers[name] = made = McpServer(name, plain, settings.oauth_token, self._env, self._around, self._tell)
        if not settings.disabled:
            made.start()

    def _end(self, name: str) -> None:
        self._tasks.start(self._servers.pop(name).close(), f"close {name}")

    async def refresh(self) -> None:
        """Connect those again that broke: a turn that does not know their tools could not call them back."""
        broken = [server for server in self._servers.values() if server.is_broken]
        for server in broken:
            server.start()
        await asyncio.gather(*(server.settled() for server in broken))

    def tools(self) -> Sequence[Tool]:
        """Those of the connected servers, and two for resources if there is any server."""
        if not self._servers:
            return ()
        found: list[Tool] = [*self._resource_tools]
        for _, server in sorted(self._servers.items()):
            found += [McpTool(server, offer) for offer in server.offer.tools if offers(server.settings, offer.name)]
        return found

    def notes(self) -> Sequence[str]:
        """What the connected servers say about themselves."""
        return [
            f'<mcp_instructions server="{name}">\n{server.offer.instructions}\n</mcp_instructions>'
            for name, server in sorted(self._servers.items())
            if server.offer.instructions
        ]

    @property
    def busy(self) -> int:
        """Only logins: who is on the way back from a browser must find the worker awake."""
        return sum(server.is_logging_in for server in self._servers.values())

    async def settled(self) -> None:
        """Wait until each is connected, or is not going to be."""
        await asyncio.gather(*(server.settled() for server in self._servers.values()))

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        await self._tasks.close(self._limits.settle_s)

    # --- for operations and tools -----------------------------------------------------------------------------------

    def find(self, name: str) -> McpServer | None:
        """The server of that name, None when there is none."""
        return self._servers.get(name)

    def server(self, name: str) -> McpServer:
        """The same. Raises NotFound."""
        found = self._servers.get(name)
        if found is None:
            known = ", ".join(sorted(self._servers)) or "none"
            raise NotFound(f"cannot find MCP server {name[:200]!r}: this workspace has {known}")
        return found

    def infos(self) -> dict[str, McpInfo]:
        """All servers as clients see them."""
        return {
            name: McpInfo(
                name=name,
                state=server.state.value,
                connected_at=_stamp(server.connected_at) if server.connected_at is not None else UNSET,
                error=server.error,
                tool_count=_tool_count(server),
                prompt_count=len(server.offer.prompts),
                resource_count=len(server.offer.resources),
            )
            for name, server in sorted(self._servers.items())
        }

    def prompts(self) -> list[McpPrompt]:
        """The prompts of all servers."""
        return [
            replace(prompt, id=f"{name}:{prompt.prompt_id}", client_id=name)
            for name, server in sorted(self._servers.items())
            for prompt in server.offer.prompts
        ]

    def pending(self) -> list[PendingLogin]:
        """The servers that wait for somebody to log in."""
        return [
            PendingLogin(name=name, url=without_password(server.settings.url))
            for name, server in sorted(self._servers.items())
            if server.state is McpState.NEEDS_AUTH
        ]

    async def _reread(self, name: str, _url: str) -> OAuthToken | None:
        await self._reload()
        return self._stored.get(name)

    def _tell(self, server: McpServer, what: str) -> None:
        payload = McpEvent(
            type=what,  # type: ignore[arg-type]
            name=server.name,
            state=server.state.value,
            error=server.error,
            tool_count=_tool_count(server),
            prompt_count=len(server.offer.prompts),
            resource_count=len(server.offer.resources),
        )
        # Not stored: what counts is the present state, and that can be asked for.
        self._publish_snapshot(snapshot_event(payload, key=f"mcp {what} {server.name}"))


def store_token(tree: Object, name: str, token: OAuthToken) -> None:
    """Put the token of a server into the object of a configuration file. Raises BadInput."""
    set_key(tree, ["mcp", name, "oauth_token"], msgspec.to_builtins(token))


def _tool_count(server: McpServer) -> int:
    return sum(offers(server.settings, offer.name) for offer in server.offer.tools)


def _stamp(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
