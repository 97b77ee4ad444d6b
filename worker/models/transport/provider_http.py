"""Send requests to providers over HTTP/1.1, and read their responses as they arrive.

Connections are kept for the next step of a turn and closed when they were idle for a while. A kept connection that the
provider has closed in the meantime is replaced once, if nothing of a response had arrived. Nothing else is retried, and
redirects are followed only within the same origin: a key must not reach another host.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from protocol.version import BULKHEAD_VERSION
from worker.models.transport.response import ProviderResponse, TransportError
from worker.models.wires.wire import WireRequest

if TYPE_CHECKING:
    from worker.models.transport.connections import Connections, Reply

REDIRECTS_MAX = 3
REPLACED_MAX = 3
"""How many kept connections may turn out to be closed, one after the other, before a request fails."""
CLOSE_S = 2.0
_REDIRECTS = frozenset({301, 302, 307, 308})


class ProviderHttp:
    """The connections to the providers of one configuration."""

    def __init__(self, connect_s: float) -> None:
        """`connect_s`: how long connecting may take, in seconds."""
        self._connect_s = connect_s
        self._connections: dict[str, Connections] = {}

    async def open(self, request: WireRequest, socket: str = "") -> ProviderResponse:
        """Send a request and return its response when the headers have arrived. A cancel closes the connection at once.

        `socket` is the path of a Unix socket to connect to instead of the host. Raises TransportError.
        """
        url = request.url
        if not _is_http(url):
            raise TransportError("bad_request", "cannot use the provider's base_url: it is no HTTP address")
        connections = self._of(socket)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": f"bulkhead/{BULKHEAD_VERSION}",
        }
        given = {name.lower() for name in request.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in given} | request.headers
        for _ in range(REDIRECTS_MAX + 1):
            response = await self._send(connections, url, headers, request.body, "" if socket else proxy_of(url))
            if response.status not in _REDIRECTS:
                _check_encoding(response)
                return response
            response.abort()
            target = urljoin(url, response.headers.get("Location", ""))
            if not _is_http(target) or _origin(target) != _origin(url):
                raise TransportError(
                    "not_found",
                    f"the provider redirects to {target[:200]!r}, another host than the configured "
                    "one; set base_url to its address",
                )
            url = target
        raise TransportError("not_found", f"the provider redirected more than {REDIRECTS_MAX} times; check base_url")

    async def close(self) -> None:
        """Close all connections."""
        closing, self._connections = list(self._connections.values()), {}
        for connections in closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await connections.close()

    async def _send(
        self, connections: "Connections", url: str, headers: dict[str, str], body: bytes, proxy: str
    ) -> "Reply":
        for _ in range(REPLACED_MAX):
            try:
                return await connections.post(url, headers, body, proxy)
            except connections.Replaced:
                continue  # the next kept connection, or a new one
        raise TransportError("network", "the provider closed the connection before it answered")

    def _of(self, socket: str) -> "Connections":
        from worker.models.transport.connections import Connections

        connections = self._connections.get(socket)
        if connections is None:
            connections = self._connections[socket] = Connections(self._connect_s, socket)
        return connections


def proxy_of(url: str) -> str:
    """Return the proxy that the environment names for an address, "" for none.

    The variables are `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`. Raises TransportError for a proxy that
    does not speak HTTP.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2], proxies):
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_http(proxy):
        scheme = proxy.partition(":")[0][:20]
        raise TransportError(
            "bad_request", f"cannot use the proxy that the environment names ({scheme}://…): use an http or https proxy"
        )
    return proxy


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _check_encoding(response: "Reply") -> None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        response.abort()
        # Not requested; a few compressed bytes can expand to very many.
        raise TransportError(
            "garbage", f"cannot read the model's answer: it is compressed ({encoding[:50]}), which was not requested"
        )
