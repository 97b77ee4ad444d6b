"""Operations on the MCP servers of the workspace."""

from collections.abc import Mapping

import msgspec

from protocol.api.mcp import LoginAddress, PromptText
from protocol.api.services import GetMcpPrompt, ReadMcpResource, ServerName
from protocol.errors import BadInput, Upstream
from worker.mcp.capabilities import McpFailed, What
from worker.mcp.service import McpService
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse


class McpOperations:
    """The handlers of `mcp.…`, except those for Docker's entry in the configuration."""

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

    async def states(self, request: OperationRequest) -> OperationResponse:
        """Return all servers with their states, by name."""
        return OperationResponse(msgspec.json.encode(self._servers.infos()))

    async def prompts(self, request: OperationRequest) -> OperationResponse:
        """Return the prompts of all connected servers."""
        return OperationResponse(msgspec.json.encode(self._servers.prompts()))

    async def get_prompt(self, request: OperationRequest) -> OperationResponse:
        """Return the text of a prompt. Raises NotFound, Upstream."""
        body = read(request.body, GetMcpPrompt)
        server = self._servers.server(body.client_id)
        try:
            text = await server.ask(lambda session: session.prompt(body.prompt_id, body.args or {}))
        except McpFailed as error:
            raise _failed(f"get prompt {body.prompt_id[:200]!r} of {server.name}", error) from None
        return OperationResponse(msgspec.json.encode(PromptText(prompt=text)))

    async def read_resource(self, request: OperationRequest) -> OperationResponse:
        """Return the parts of a resource. Raises NotFound, Upstream."""
        body = read(request.body, ReadMcpResource)
        server = self._servers.server(body.name)
        try:
            parts = await server.ask(lambda session: session.read(body.uri))
        except McpFailed as error:
            raise _failed(f"read {body.uri[:200]!r} of {server.name}", error) from None
        return OperationResponse(msgspec.json.encode(parts))

    async def refresh_tools(self, request: OperationRequest) -> OperationResponse:
        """Ask a server for its tools again; do nothing when it does not exist or is not connected."""
        return await self._refresh(read(request.body, ServerName), "tools")

    async def refresh_prompts(self, request: OperationRequest) -> OperationResponse:
        """Ask a server for its prompts again, as `refresh_tools`."""
        return await self._refresh(read(request.body, ServerName), "prompts")

    async def refresh_resources(self, request: OperationRequest) -> OperationResponse:
        """Ask a server for its resources again, as `refresh_tools`."""
        return await self._refresh(read(request.body, ServerName), "resources")

    async def _refresh(self, body: ServerName, what: What) -> OperationResponse:
        # Sends no event: clients call this because they got one.
        server = self._servers.find(body.name)
        if server is not None:
            await server.refresh(what)
        return OperationResponse()

    async def pending_auth(self, request: OperationRequest) -> OperationResponse:
        """Return the servers that wait for a login, by name."""
        return OperationResponse(msgspec.json.encode(self._servers.pending()))

    async def auth_url(self, request: OperationRequest) -> OperationResponse:
        """Return the address where the user continues the login of a server, "" while no login runs."""
        name = request.args.get("name")
        if not name:
            raise BadInput("cannot tell the address of a login: the query must name an MCP server: ?name=…")
        server = self._servers.find(name)
        return OperationResponse(
            msgspec.json.encode(LoginAddress(auth_url=server.login_url if server is not None else ""))
        )

    async def auth(self, request: OperationRequest) -> OperationResponse:
        """Wait until the user has logged in. A cancel ends the login. Raises NotFound, Conflict, Upstream."""
        server = self._servers.server(read(request.body, ServerName).name)
        try:
            await server.log_in()
        except McpFailed as error:
            raise _failed(f"log in at {server.name}", error) from None
        return OperationResponse(b"{}")


def _failed(what: str, error: McpFailed) -> Upstream:
    return Upstream(f"cannot {what}: {error}", code="mcp_failed")
