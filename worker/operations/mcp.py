"""The MCP servers of the workspace as clients see and steer them (http-api 2.10, 3.11)."""

from collections.abc import Mapping

import msgspec

from protocol.api.mcp import LoginAddress, PromptText
from protocol.api.services import PromptWish, ResourceWish, ServerName
from protocol.errors import BadInput, Upstream
from worker.mcp.capabilities import McpFailed, What
from worker.mcp.service import McpService
from worker.operations.decode import read
from worker.operations.table import Handler, Request, Response


class McpOperations:
    """The handlers of `mcp.…`, but for Docker's entry in the configuration."""

    def __init__(self, servers: McpService) -> None:
        self._servers = servers

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "mcp.states": self.states,
            "mcp.prompts": self.prompts,
            "mcp.get_prompt": self.get_prompt,
            "mcp.read_resource": self.read_resource,
            "mcp.refresh_tools": self.refresh_tools,
            "mcp.refresh_prompts": self.refresh_prompts,
            "mcp.refresh_resources": self.refresh_resources,
            "mcp.pending_auth": self.pending_auth,
            "mcp.auth_url": self.auth_url,
            "mcp.auth": self.auth,
        }

    async def states(self, request: Request) -> Response:
        """All servers with their states, by name."""
        return Response(msgspec.json.encode(self._servers.infos()))

    async def prompts(self, request: Request) -> Response:
        """The prompts of all connected servers."""
        return Response(msgspec.json.encode(self._servers.prompts()))

    async def get_prompt(self, request: Request) -> Response:
        """The text of a prompt. Raises NotFound, Upstream."""
        wish = read(request.body, PromptWish)
        server = self._servers.server(wish.client_id)
        try:
            text = await server.ask(lambda session: session.prompt(wish.prompt_id, wish.args or {}))
        except McpFailed as error:
            raise _failed(f"get prompt {wish.prompt_id[:200]!r} of {server.name}", error) from None
        return Response(msgspec.json.encode(PromptText(prompt=text)))

    async def read_resource(self, request: Request) -> Response:
        """The parts of a resource. Raises NotFound, Upstream."""
        wish = read(request.body, ResourceWish)
        server = self._servers.server(wish.name)
        try:
            parts = await server.ask(lambda session: session.read(wish.uri))
        except McpFailed as error:
            raise _failed(f"read {wish.uri[:200]!r} of {server.name}", error) from None
        return Response(msgspec.json.encode(parts))

    async def refresh_tools(self, request: Request) -> Response:
        """Ask a server for its tools again; nothing happens when it is not there or not connected."""
        return await self._refresh(read(request.body, ServerName), "tools")

    async def refresh_prompts(self, request: Request) -> Response:
        """The same for its prompts."""
        return await self._refresh(read(request.body, ServerName), "prompts")

    async def refresh_resources(self, request: Request) -> Response:
        """The same for its resources."""
        return await self._refresh(read(request.body, ServerName), "resources")

    async def _refresh(self, wish: ServerName, what: What) -> Response:
        # No event tells of it: clients ask for this because of one.
        server = self._servers.find(wish.name)
        if server is not None:
            await server.refresh(what)
        return Response()

    async def pending_auth(self, request: Request) -> Response:
        """The servers that wait for a login, by name."""
        return Response(msgspec.json.encode(self._servers.pending()))

    async def auth_url(self, request: Request) -> Response:
        """Where the login of a server goes on; nothing while none runs."""
        name = request.args.get("name")
        if not name:
            raise BadInput("cannot tell the address of a login: the query must name an MCP server: ?name=…")
        server = self._servers.find(name)
        return Response(msgspec.json.encode(LoginAddress(auth_url=server.login_url if server is not None else "")))

    async def auth(self, request: Request) -> Response:
        """Wait until somebody has logged in. A cancel ends the login. Raises NotFound, Conflict, Upstream."""
        server = self._servers.server(read(request.body, ServerName).name)
        try:
            await server.log_in()
        except McpFailed as error:
            raise _failed(f"log in at {server.name}", error) from None
        return Response(b"{}")


def _failed(what: str, error: McpFailed) -> Upstream:
    return Upstream(f"cannot {what}: {error}", code="mcp_failed")
