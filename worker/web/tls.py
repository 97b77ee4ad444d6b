"""Share one TLS context in a worker: loading the certificates takes tens of milliseconds and a megabyte."""

from functools import cache
from ssl import SSLContext, create_default_context


@cache
def shared_tls() -> SSLContext:
    """Return the context for all clients. It is created in the zygote, so that its memory is shared too."""
    return create_default_context()
