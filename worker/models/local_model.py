"""Address the local model: HTTP over the Unix socket that the supervisor listens on.

The model's process is started by the supervisor on the first connection, and serves all workers.
"""

from msgspec.structs import replace

from protocol.api.provider import ProviderConfig

SCHEME = "unix://"
BASE_URL = "http://local-model/v1"
"""Only fills the Host header; the name is never resolved."""


def at_socket(provider: ProviderConfig) -> tuple[str, ProviderConfig]:
    """Return the socket path of a `unix://` provider, and the provider with a URL that an HTTP library accepts."""
    return provider.base_url.removeprefix(SCHEME), replace(provider, base_url=BASE_URL)
