"""The way to the model of this machine: HTTP over the Unix socket that the supervisor listens on.

Nothing runs there until somebody connects; then the supervisor starts the one process that serves all workers.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.api.provider import ProviderConfig
from worker.models.failures import failure

if TYPE_CHECKING:
    import httpx2

SCHEME = "unix://"
BASE_URL = "http://local-model/v1"
"""A name for headers; nobody looks it up."""


def at_socket(provider: ProviderConfig) -> tuple[str, ProviderConfig]:
    """The socket that a provider's `unix://` URL names, and the provider as a library for HTTP takes it."""
    return provider.base_url.removeprefix(SCHEME), replace(provider, base_url=BASE_URL)


def socket_transport(path: str) -> "httpx2.AsyncBaseTransport":
    """Connects to a Unix socket. Raises ModelFailure, with what would help, when nobody listens there."""
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
