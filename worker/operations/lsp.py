"""The language servers of the workspace as clients see and steer them (http-api 2.8, 3.11)."""

from collections.abc import Mapping

import msgspec

from protocol.api.services import PathWish
from protocol.errors import NotFound
from worker.lsp.service import LanguageServers
from worker.operations.decode import read
from worker.operations.table import Handler, Request, Response


class LspOperations:
    """The handlers of `lsp.…`."""

    def __init__(self, servers: LanguageServers) -> None:
        self._servers = servers

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "lsp.list": self.list,
            "lsp.diagnostics": self.diagnostics,
            "lsp.start": self.start,
            "lsp.stop": self.stop,
        }

    async def list(self, request: Request) -> Response:
        """All servers with their states, by name."""
        return Response(msgspec.json.encode(self._servers.infos()))

    async def diagnostics(self, request: Request) -> Response:
        """What one server says is wrong, by the URI of the file. Raises NotFound."""
        name = request.args.get("lsp", "")
        found = self._servers.found(name)
        if found is None:
            known = ", ".join(self._servers.servers) or "none"
            raise NotFound(f"cannot find language server {name[:200]!r}: this workspace has {known}")
        return Response(msgspec.json.encode(found))

    async def start(self, request: Request) -> Response:
        """Start the servers of a file; how that goes is told by events."""
        wish = read(request.body, PathWish)
        await self._servers.start_for(wish.path)
        return Response()

    async def stop(self, request: Request) -> Response:
        """End all. The next use starts them again."""
        await self._servers.stop_all()
        return Response()
