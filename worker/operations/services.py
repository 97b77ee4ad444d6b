"""MCP servers: none are run yet, and that is what these say.

Lists and maps are empty, a wish for all of them is granted at once, and whoever names a single one is told that it is
not there. Bodies are read all the same, so that a client's mistake shows today.
"""

from collections.abc import Mapping

from protocol.errors import BadInput, NotFound
from protocol.shapes.services import PromptWish, ResourceWish, ServerName
from worker.operations.reading import read
from worker.operations.table import Handler, Request, Response


class ServiceOperations:
    """The handlers of `mcp.…`."""

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "mcp.states": self.empty_map,
            "mcp.prompts": self.empty_list,
            "mcp.get_prompt": self.get_prompt,
            "mcp.read_resource": self.read_resource,
            "mcp.refresh_tools": self.refresh,
            "mcp.refresh_prompts": self.refresh,
            "mcp.refresh_resources": self.refresh,
            "mcp.pending_auth": self.empty_list,
            "mcp.auth_url": self.auth_url,
            "mcp.auth": self.auth,
        }

    async def empty_map(self, request: Request) -> Response:
        """No server of this kind."""
        return Response(b"{}")

    async def empty_list(self, request: Request) -> Response:
        """Nothing of this kind."""
        return Response(b"[]")

    async def get_prompt(self, request: Request) -> Response:
        """Raises NotFound."""
        raise _missing("MCP server", read(request.body, PromptWish).client_id)

    async def read_resource(self, request: Request) -> Response:
        """Raises NotFound."""
        raise _missing("MCP server", read(request.body, ResourceWish).name)

    async def refresh(self, request: Request) -> Response:
        """No MCP server has anything new."""
        read(request.body, ServerName)
        return Response()

    async def auth_url(self, request: Request) -> Response:
        """No login runs, so there is no address to open."""
        if not request.args.get("name"):
            raise BadInput("cannot tell the address of a login: the query must name an MCP server: ?name=…")
        return Response(b"{}")

    async def auth(self, request: Request) -> Response:
        """Raises NotFound."""
        raise _missing("MCP server", read(request.body, ServerName).name)


def _missing(kind: str, name: str) -> NotFound:
    return NotFound(f"cannot find {kind} {name[:200]!r}: this workspace runs none")
