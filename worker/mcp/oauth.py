"""Send access tokens to MCP servers, renew them in time, and never send one to another URL.

A token whose renewal is rejected requires a new login (`login.py`); a temporary error of the token endpoint does not.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from urllib.parse import quote

import httpx2
import msgspec
from msgspec.structs import replace

from protocol.base.clock import Clock
from worker.config.sections import OAuthToken
from worker.mcp.capabilities import McpFailed, NeedsLogin

MARGIN_S = 30.0
"""Renew a token that expires within this time before using it."""
_IN_HEADER = 2


class _TokenResponse(msgspec.Struct, frozen=True):
    """The successful response of a token endpoint (RFC 6749)."""

    access_token: str
    expires_in: float | None = None
    refresh_token: str = ""


def token_for(token: OAuthToken | None, url: str) -> OAuthToken | None:
    """Return the token if it was issued for this URL: a server of the same name elsewhere must not receive it."""
    return token if token is not None and token.access_token and token.resource == url else None


class Bearer(httpx2.Auth):
    """Adds the token to requests. `save` stores a renewed token; `read_stored` reads the currently stored one."""

    def __init__(
        self,
        token: OAuthToken | None,
        *,
        save: Callable[[OAuthToken], Awaitable[None]],
        read_stored: Callable[[], Awaitable[OAuthToken | None]],
        clock: Clock,
    ) -> None:
        self._token = token
        self._save = save
        self._read_stored = read_stored
        self._clock = clock
        self._lock = asyncio.Lock()

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send one request, renewing the token before it or after a 401. Raises NeedsLogin, McpFailed."""
        async with self._lock:
            token = self._token
            if token is not None and self._expires_soon(token) and token.refresh_token:
                await self._finish_renewal(token, (yield _renewal(token)))
        used = self._token
        response = yield _with_token(request, used)
        if response.status_code != 401:
            return
        async with self._lock:
            token = self._token
            if token is not None and token is used and token.refresh_token:
                await self._finish_renewal(token, (yield _renewal(token)))
        if self._token is not None and self._token is not used:
            response = yield _with_token(request, self._token)
            if response.status_code != 401:
                return
        raise NeedsLogin("it requires a login")

    def _expires_soon(self, token: OAuthToken) -> bool:
        return token.expires_at > 0 and token.expires_at - MARGIN_S <= self._clock.wall()

    async def _finish_renewal(self, old: OAuthToken, response: httpx2.Response) -> None:
        """Use the response to a renewal request. Raises NeedsLogin, McpFailed."""
        body = await response.aread()
        if response.status_code == 200:
            try:
                answer = msgspec.json.decode(body, type=_TokenResponse)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise McpFailed("its token cannot be renewed: the response contains no token") from None
            self._token = renewed(old, answer.access_token, answer.refresh_token, answer.expires_in, self._clock.wall())
            await self._save(self._token)
            return
        if response.status_code not in (400, 401, 403):
            raise McpFailed(f"its token cannot be renewed: HTTP {response.status_code}")
        # Another workspace with the same server may have renewed the token first, which makes the old one invalid.
        newer = await self._read_stored()
        self._token = newer if newer is not None and newer.access_token != old.access_token else None
        if self._token is None:
            raise NeedsLogin("its token cannot be renewed; log in again")


def renewed(old: OAuthToken, access: str, refresh: str, expires_in: float | None, now: float) -> OAuthToken:
    """Return `old` with a new access token, issued at Unix time `now`. An empty `refresh` keeps the old one."""
    lifetime = int(expires_in) if expires_in is not None and 0 < expires_in < 2**31 else 0
    return replace(
        old,
        access_token=access,
        refresh_token=refresh or old.refresh_token,
        expires_in=lifetime,
        expires_at=int(now) + lifetime if lifetime else 0,
    )


def _with_token(request: httpx2.Request, token: OAuthToken | None) -> httpx2.Request:
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token.access_token}"
    return request


def _renewal(token: OAuthToken) -> httpx2.Request:
    client = token.client
    data = {"grant_type": "refresh_token", "refresh_token": token.refresh_token, "resource": token.resource}
    headers = {"Accept": "application/json"}
    if client.auth_style == _IN_HEADER and client.client_secret:
        pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        data["client_id"] = client.client_id
        if client.client_secret:
            data["client_secret"] = client.client_secret
    try:
        return httpx2.Request("POST", client.token_url, data=data, headers=headers)
    except (httpx2.InvalidURL, ValueError):
        raise NeedsLogin(
            "its token cannot be renewed: the URL of its token endpoint is not valid; log in again"
        ) from None
