"""Keep aiohttp's connections to one kind of target: hosts, or a Unix socket.

aiohttp's own retries, redirects, cookies, decompression and timeouts are off, apart from
the time to connect. A cancelled request aborts its socket: aiohttp would first send what is still in the buffer.
"""

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from worker.models.transport.http_library import ResponseHandler, aiohttp
from worker.models.transport.response import TransportError
from worker.web.tls import shared_tls

IDLE_S = 30.0
"""How long a connection is kept without a request."""
LINGER_S = 1.0
"""How long the end of a body may be awaited after its last event."""
BUFFER_BYTES = 64 * 1024
PIECE_BYTES = 256 * 1024
"""A larger body is sent in pieces."""


@dataclass(slots=True)
class _Attempt:
    """The connection that a request got."""

    transport: asyncio.Transport | None = None
    was_kept: bool = False

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()


_ATTEMPT: ContextVar[_Attempt] = ContextVar("attempt")


class _NotesConnections:
    """Mixed into a connector: tells the request which connection it got."""

    _served: WeakSet[ResponseHandler]

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)  # type: ignore[misc]
        attempt = _ATTEMPT.get(None)
        protocol = connection.protocol
        if attempt is not None and protocol is not None:
            attempt.transport = protocol.transport
            attempt.was_kept = protocol in self._served
            self._served.add(protocol)
        return connection


class _HostConnector(_NotesConnections, aiohttp.TCPConnector):
    pass


class _SocketConnector(_NotesConnections, aiohttp.UnixConnector):
    pass


class Connections:
    """Sends POST requests over kept connections."""

    class Replaced(Exception):
        """A kept connection was closed by the provider before anything of a response arrived."""

    def __init__(self, connect_s: float, socket: str) -> None:
        """Needs a running loop. `socket` is the path of a Unix socket, "" for hosts."""
        self._socket = socket
        connector: _HostConnector | _SocketConnector
        if socket:
            connector = _SocketConnector(socket, limit=0, keepalive_timeout=IDLE_S)
        else:
            connector = _HostConnector(limit=0, keepalive_timeout=IDLE_S)
        connector._served = WeakSet()
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s),
        )
        self._lingering: set[Reply] = set()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, proxy: str) -> "Reply":
        """Send one request; return its response when the headers have arrived. Raises TransportError and Replaced."""
        uses_tls = url.startswith("https:") or proxy.startswith("https:")
        attempt = _Attempt()
        token = _ATTEMPT.set(attempt)
        try:
            response = await self._session.post(
                url,
                headers=headers,
                data=body if len(body) <= PIECE_BYTES else BytesIO(body),  # sent in pieces: others get their turn
                proxy=proxy or None,
                ssl=shared_tls() if uses_tls else True,
                allow_redirects=False,
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            attempt.abort()
            if attempt.was_kept and not isinstance(error, aiohttp.ClientConnectorError):
                raise self.Replaced from None
            raise self._unreachable(url, error) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise TransportError("bad_request", "cannot use the provider's base_url: it is no HTTP address") from None
        except aiohttp.ClientHttpProxyError as error:
            attempt.abort()
            raise TransportError(
                "network", f"the proxy refused the connection to {_host(url)}: {error.status} {error.message[:200]}"
            ) from None
        except aiohttp.ClientResponseError as error:
            attempt.abort()
            raise TransportError("garbage", f"cannot read the provider's response: {error.message[:200]}") from None
        except TimeoutError as error:
            attempt.abort()
            raise self._unreachable(url, error) from None
        except (aiohttp.ClientError, OSError) as error:
            attempt.abort()
            raise self._unreachable(url, error) from None
        except ValueError:
            raise TransportError(
                "bad_request", "cannot send the request: the key or a configured header contains a line break"
            ) from None
        except BaseException:
            attempt.abort()
            raise
        finally:
            _ATTEMPT.reset(token)
        return Reply(response, attempt, self._lingering)

    async def close(self) -> None:
        """Close all connections."""
        for reply in list(self._lingering):
            reply.cut()
        await self._session.close()

    def _unreachable(self, url: str, error: Exception) -> TransportError:
        if self._socket:
            return TransportError(
                "network",
                f"cannot reach the model of this machine at {self._socket}: {_reason(error)}; the supervisor listens "
                "there while it runs and the model is installed (`make local-model`)",
            )
        return TransportError("network", f"cannot reach the provider at {_host(url)}: {_reason(error)}")


class Reply:
    """One response; see `ProviderResponse`."""

    def __init__(self, response: aiohttp.ClientResponse, attempt: _Attempt, lingering: "set[Reply]") -> None:
        """`lingering` holds the replies whose end is still awaited."""
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._content = response.content
        self._attempt = attempt
        self._lingering = lingering
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def read(self) -> bytes:
        """Return what has arrived; see `ProviderResponse`."""
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError("network", f"the connection broke in the answer: {_reason(error)}") from None

    def interrupt(self, error: Exception) -> None:
        """Make the pending `read` raise; see `ProviderResponse`."""
        self._content.set_exception(error)
        self.abort()

    def release(self) -> None:
        """Give the connection back; see `ProviderResponse`."""
        if self._is_over:
            return
        self._is_over = True
        if self._content.is_eof() or self._content.exception() is not None:
            self._response.release()
            return
        self._lingering.add(self)
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.cut)
        self._content.on_eof(self._end_lingering)

    def abort(self) -> None:
        """Close the connection at once; see `ProviderResponse`."""
        if not self._is_over:
            self._is_over = True
            self.cut()

    def cut(self) -> None:
        """Close the connection, also if its end is awaited."""
        self._end_lingering()
        self._response.close()
        self._attempt.abort()

    def _end_lingering(self) -> None:
        self._lingering.discard(self)
        if self._timer is not None:
            self._timer.cancel()


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2][:200]


def _reason(error: Exception) -> str:
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__)[:300]
