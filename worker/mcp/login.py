"""Log in at an MCP server with OAuth: the browser visits the server and is redirected to a local port with a code.

The MCP library discovers the server's URLs, registers the client, and exchanges the code for a token.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth.oauth2 import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata
from mcp.shared.auth import OAuthToken as LibraryToken
from pydantic import AnyUrl

from protocol.base.clock import Clock
from protocol.limits import Limits
from worker.config.sections import McpSettings, OAuthClient, OAuthToken
from worker.mcp.capabilities import McpFailed
from worker.mcp.http_transport import HttpTransport
from worker.mcp.oauth import renewed
from worker.mcp.session import library_errors
from worker.mcp.settings import McpTarget

PATH = "/callback"
REQUEST_MAX_BYTES = 16 * 1024
REQUEST_S = 5.0
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bulkhead", "version": "1"}},
}
_PAGE = (
    "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n"
    "Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
)


class _TokenStorage:
    """Storage for the library, in memory, for one login."""

    def __init__(self, client: OAuthClientInformationFull | None) -> None:
        self.client = client
        self.token: LibraryToken | None = None

    async def get_tokens(self) -> LibraryToken | None:
        return None

    async def set_tokens(self, tokens: LibraryToken) -> None:
        self.token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class _Callback:
    """Serves the redirect of the browser. Requests without the `state` of this login are rejected."""

    def __init__(self) -> None:
        self.state = ""
        self.result: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request."""
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text = self._respond(head)
                body = f"<!doctype html><title>Bulkhead</title><p>{text}</p>"
                writer.write(_PAGE.format(status=status, length=len(body.encode()), body=body).encode())
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _respond(self, head: bytes) -> tuple[str, str]:
        method, _, rest = head.decode("latin-1").partition(" ")
        parts = urlsplit(rest.partition(" ")[0])
        values = {name: given[0] for name, given in parse_qs(parts.query).items()}
        if method != "GET" or parts.path != PATH:
            return "404 Not Found", "This page does not exist."
        if not self.state or not hmac.compare_digest(values.get("state", "").encode(), self.state.encode()):
            return "400 Bad Request", "This request does not belong to the current login. Start the login again."
        if self.result.done():
            return "200 OK", "This login has already ended."
        if not values.get("code"):
            reason = "".join(char for char in values.get("error", "no code was sent") if char.isprintable())[:100]
            self.result.set_exception(McpFailed(f"the login was refused: {reason}"))
            return "200 OK", "The login was refused. You may close this page."
        self.result.set_result(
            AuthorizationCodeResult(code=values["code"], state=values.get("state"), iss=values.get("iss"))
        )
        return "200 OK", "You are logged in. You may close this page."


@contextlib.asynccontextmanager
async def _listening(callback: _Callback, port: int) -> AsyncIterator[int]:
    """Listen on the loopback interface for the browser's redirect; yields the port. Raises McpFailed."""
    try:
        server = await asyncio.start_server(callback.serve, "127.0.0.1", port, limit=REQUEST_MAX_BYTES)
    except OSError as error:
        raise McpFailed(f"port {port} of this machine cannot be used for the login: {error.strerror}") from None
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def log_in(
    settings: McpSettings, target: McpTarget, *, show_url: Callable[[str], None], limits: Limits, clock: Clock
) -> OAuthToken | None:
    """Return a token from an interactive login, or None when the server requires none.

    `show_url` receives the URL for the user's browser. Waits for the user: the caller sets the time limit. Raises
    McpFailed.
    """
    callback = _Callback()

    async def redirect(url: str) -> None:
        callback.state = parse_qs(urlsplit(url).query).get("state", [""])[0]
        show_url(url)

    async def wait() -> AuthorizationCodeResult:
        return await callback.result

    with library_errors():
        async with _listening(callback, settings.oauth_callback_port) as port:
            redirect_uris = [AnyUrl(f"http://127.0.0.1:{port}{PATH}")]
            client = None
            if target.client_id:
                client = OAuthClientInformationFull(
                    client_id=target.client_id,
                    client_secret=target.client_secret or None,
                    redirect_uris=redirect_uris,
                    token_endpoint_auth_method="client_secret_post" if target.client_secret else "none",
                )
            storage = _TokenStorage(client)
            metadata = OAuthClientMetadata(client_name="Bulkhead", redirect_uris=redirect_uris)
            provider = OAuthClientProvider(target.url, metadata, storage, redirect, wait)
            transport = HttpTransport(target, auth=provider, timeout_s=limits.mcp_start_oauth_s, limits=limits)
            async with transport.client(httpx2.Timeout(limits.mcp_start_oauth_s)) as http:
                await _send_request(http, target)
        if storage.token is None:
            return None
        return _token(storage, provider, target.url, clock)


async def _send_request(http: httpx2.AsyncClient, target: McpTarget) -> None:
    """Send any request: the server rejects it, and the library starts the login."""
    headers = {"Accept": "application/json, text/event-stream"}
    if target.kind == "sse":
        request = http.build_request("GET", target.url, headers=headers)
    else:
        request = http.build_request("POST", target.url, json=_INITIALIZE, headers=headers)
    response = await http.send(request, stream=True)
    await response.aclose()
    if response.status_code == 401:
        raise McpFailed("the login succeeded, but the server rejects the new token")


def _token(storage: _TokenStorage, provider: OAuthClientProvider, url: str, clock: Clock) -> OAuthToken:
    metadata = provider.context.oauth_metadata
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    client, token = storage.client, storage.token
    assert client is not None, "the library registers a client before it requests a token"
    assert token is not None
    token_url = str(metadata.token_endpoint) if metadata is not None and metadata.token_endpoint else f"{origin}/token"
    auth_url = str(metadata.authorization_endpoint) if metadata is not None else f"{origin}/authorize"
    empty = OAuthToken(
        resource=url,
        client=OAuthClient(
            client_id=client.client_id,
            client_secret=client.client_secret or "",
            auth_url=auth_url,
            token_url=token_url,
            auth_style=2 if client.token_endpoint_auth_method == "client_secret_basic" else 1,
        ),
    )
    return renewed(empty, token.access_token, token.refresh_token or "", token.expires_in, clock.wall())
