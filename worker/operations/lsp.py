"""Operations on the language servers of the workspace."""

from collections.abc import Mapping

import msgspec

from protocol.api.services import StartLanguageServers
from protocol.errors import NotFound
from worker.lsp.service import LanguageServers
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse


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

    async def list(self, request: OperationRequest) -> OperationResponse:
        """Return all servers with their states, by name."""
        return OperationResponse(msgspec.json.encode(self._servers.infos()))

    async def diagnostics(self, request: OperationRequest) -> OperationResponse:
        """Return the diagnostics of one server by the URI of the file. Raises NotFound."""
        name = request.args.get("lsp", "")
        diagnostics = self._servers.found(name)
        if diagnostics is None:
            existing = ", ".join(self._servers.servers) or "none"
            raise NotFound(f"cannot find language server {name[:200]!r}: this workspace has {existing}")
        return OperationResponse(msgspec.json.encode(diagnostics))

    async def start(self, request: OperationRequest) -> OperationResponse:
        """Start the servers of a file; events report the result."""
        body = read(request.body, StartLanguageServers)
        await self._servers.start_for(body.path)
        return OperationResponse()

    async def stop(self, request: OperationRequest) -> OperationResponse:
        """Stop all servers. The next use starts them again."""
        await self._servers.stop_all()
        return OperationResponse()
