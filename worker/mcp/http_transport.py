"""Make the HTTP client for MCP servers on the network, with its headers, its token and its size limit.

Imports the HTTP library, so only the modules that connect import this.
"""

from collections.abc import AsyncIterator

import httpx2

from protocol.limits import Limits
from worker.mcp.capabilities import McpFailed
from worker.mcp.settings import McpTarget
from worker.web.tls import shared_tls

GOODBYE_S = 2.0
"""Timeout of the DELETE that ends a session: a server that hangs must not delay the close."""
CONNECTIONS_MAX = 16


class _Bounded(httpx2.AsyncByteStream):
    """A response body that raises McpFailed beyond `max_bytes`."""

    def __init__(self, inner: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._inner = inner
        self._max = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for piece in self._inner:
            count += len(piece)
            if count > self._max:
                raise McpFailed(f"it sent a response of more than {self._max} bytes", is_lost=True)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


class HttpTransport:
    """Connection parameters of one server. `status` is the last HTTP error status of a POST, 0 for none."""

    def __init__(self, target: McpTarget, *, auth: httpx2.Auth | None, timeout_s: float, limits: Limits) -> None:
        self.url = target.url
        self.timeout_s = timeout_s
        self.status = 0
        self._headers = dict(target.headers)
        self._auth = auth
        self._limits = limits

    def client(self, timeout: httpx2.Timeout | None = None) -> httpx2.AsyncClient:
        """Return a client for one connection; the caller closes it."""
        return httpx2.AsyncClient(
            headers=self._headers,
            auth=self._auth,
            verify=shared_tls(),
            timeout=timeout or httpx2.Timeout(self.timeout_s, read=self._limits.tool_max_s),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=2),
            event_hooks={"request": [self._on_request], "response": [self._on_response]},
        )

    async def _on_request(self, request: httpx2.Request) -> None:
        if request.method == "DELETE":
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), GOODBYE_S)

    async def _on_response(self, response: httpx2.Response) -> None:
        if response.status_code >= 400 and response.request.method == "POST":
            self.status = response.status_code
        is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        if not is_stream and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(response.stream, self._limits.mcp_message_max_bytes)
