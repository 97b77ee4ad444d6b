"""Connect to the local model: HTTP over the Unix socket that the supervisor listens on.

The model's process is started by the supervisor on the first connection, and serves all workers.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.api.provider import ProviderConfig
from worker.models.failures import failure

if TYPE_CHECKING:
    import httpx2

SCHEME = "unix://"
BASE_URL = "http://local-model/v1"
"""Only fills the Host header; the name is never resolved."""


def at_socket(provider: ProviderConfig) -> tuple[str, ProviderConfig]:
    """Return the socket path of a `unix://` provider, and the provider with a URL that an HTTP library accepts."""
    return provider.base_url.removeprefix(SCHEME), replace(provider, base_url=BASE_URL)


def socket_transport(path: str) -> "httpx2.AsyncBaseTransport":
    """Return a transport for a Unix socket. Its requests raise ModelFailure with advice when nothing listens there."""
    import httpx2

    class SocketTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            try:
                return await super().handle_async_request(request)
            except httpx2.ConnectError as error:
                raise failure(
                    "network",
                    f"cannot reach the model of this machine at {path}: {error}; the supervisor listens there while "
                    "it runs and the model is installed (`make local-model`)",
                ) from error

    return SocketTransport(uds=path, retries=0)
