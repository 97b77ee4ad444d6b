"""Import aiohttp without the certificates that it would load.

aiohttp makes TLS contexts of its own when it is imported, which takes 40 ms and a megabyte. They are never used: each
request over TLS gets the context that all clients of a worker share. So theirs are left empty: with them, every
certificate would be refused.
"""

import ssl

ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
try:
    import aiohttp as aiohttp
    from aiohttp.client_proto import ResponseHandler as ResponseHandler
finally:
    del ssl.SSLContext.set_default_verify_paths  # what it inherits is in force again
