"""A login at an MCP server: the user's browser goes to the server, and comes back to a port of ours with a code.

The library knows how the addresses are found, how a client is registered, and how the code becomes a token.
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
from worker.mcp.http_transport import HttpLine
from worker.mcp.oauth import renewed
from worker.mcp.session import foreign_errors
from worker.mcp.settings import Target

PATH = "/callback"
REQUEST_MAX_BYTES = 16 * 1024
REQUEST_S = 5.0
_HELLO = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bulkhead", "version": "1"}},
}
_PAGE = (
    "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n"
    "Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
)


class _Memory:
    """What the library wants to keep; it lives as long as the login."""

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
    """Waits for the browser. Whoever does not know the state of this login is sent away."""

    def __init__(self) -> None:
        self.state = ""
        self.answer: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text = self._take(head)
                body = f"<!doctype html><title>Bulkhead</title><p>{text}</p>"
                writer.write(_PAGE.format(status=status, length=len(body.encode()), body=body).encode())
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _take(self, head: bytes) -> tuple[str, str]:
        method, _, rest = head.decode("latin-1").partition(" ")
        parts = urlsplit(rest.partition(" ")[0])
        values = {name: found[0] for name, found in parse_qs(parts.query).items()}
        if method != "GET" or parts.path != PATH:
            return "404 Not Found", "There is nothing here."
        if not self.state or not hmac.compare_digest(values.get("state", "").encode(), self.state.encode()):
            return "400 Bad Request", "This is not the login that was asked for."
        if self.answer.done():
            return "200 OK", "This login has ended already."
        if not values.get("code"):
            reason = "".join(char for char in values.get("error", "no code came") if char.isprintable())[:100]
            self.answer.set_exception(McpFailed(f"the login was refused: {reason}"))
            return "200 OK", "The login was refused. You may close this page."
        self.answer.set_result(
            AuthorizationCodeResult(code=values["code"], state=values.get("state"), iss=values.get("iss"))
        )
        return "200 OK", "You are logged in. You may close this page."


@contextlib.asynccontextmanager
async def _listening(callback: _Callback, port: int) -> AsyncIterator[int]:
    """The port, on this machine only, where the browser comes back to. Raises McpFailed."""
    try:
        server = await asyncio.start_server(callback.serve, "127.0.0.1", port, limit=REQUEST_MAX_BYTES)
    except OSError as error:
        raise McpFailed(f"port {port} of this machine cannot be used for the login: {error.strerror}") from None
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def log_in(
    settings: McpSettings, target: Target, *, show: Callable[[str], None], limits: Limits, clock: Clock
) -> OAuthToken | None:
    """A token, from somebody who logs in; `show` gets the address for the browser. None when the server wants none.

    Waits for people: the caller bounds it. Raises McpFailed.
    """
    callback = _Callback()

    async def redirect(url: str) -> None:
        callback.state = parse_qs(urlsplit(url).query).get("state", [""])[0]
        show(url)

    async def wait() -> AuthorizationCodeResult:
        return await callback.answer

    with foreign_errors():
        async with _listening(callback, settings.oauth_callback_port) as port:
            home = [AnyUrl(f"http://127.0.0.1:{port}{PATH}")]
            client = None
            if target.client_id:
                client = OAuthClientInformationFull(
                    client_id=target.client_id,
                    client_secret=target.client_secret or None,
                    redirect_uris=home,
                    token_endpoint_auth_method="client_secret_post" if target.client_secret else "none",
                )
            memory = _Memory(client)
            metadata = OAuthClientMetadata(client_name="Bulkhead", redirect_uris=home)
            provider = OAuthClientProvider(target.url, metadata, memory, redirect, wait)
            line = HttpLine(target, auth=provider, connect_s=limits.mcp_start_oauth_s, limits=limits)
            async with line.client(httpx2.Timeout(limits.mcp_start_oauth_s)) as http:
                await _ask(http, target)
        if memory.token is None:
            return None
        return _token(memory, provider, target.url, clock)


async def _ask(http: httpx2.AsyncClient, target: Target) -> None:
    """Any request will do: the server refuses it, and the library goes from there."""
    headers = {"Accept": "application/json, text/event-stream"}
    if target.kind == "sse":
        request = http.build_request("GET", target.url, headers=headers)
    else:
        request = http.build_request("POST", target.url, json=_HELLO, headers=headers)
    response = await http.send(request, stream=True)
    await response.aclose()
    if response.status_code == 401:
        raise McpFailed("the login has succeeded, but the server does not take its token")


def _token(memory: _Memory, provider: OAuthClientProvider, url: str, clock: Clock) -> OAuthToken:
    known = provider.context.oauth_metadata
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    client, got = memory.client, memory.token
    assert client is not None, "who has a token has been somebody"
    assert got is not None
    token_url = str(known.token_endpoint) if known is not None and known.token_endpoint else f"{origin}/token"
    auth_url = str(known.authorization_endpoint) if known is not None else f"{origin}/authorize"
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
    return renewed(empty, got.access_token, got.refresh_token or "", got.expires_in, clock.wall())
