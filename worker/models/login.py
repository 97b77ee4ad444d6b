"""Renew OAuth logins: decide when a token is due, request a new one, and read the response."""

import base64
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec

from worker.models.failures import failure
from worker.models.transport.provider_http import ProviderHttp
from worker.models.wires.wire import WireRequest

MARGIN_S = 30.0
ANSWER_MAX_BYTES = 64 * 1024
_BY_HEADER = 2


def is_due(login: Mapping[str, Any] | None, now: float) -> bool:
    """Return whether the token has expired or nearly so: a tenth of its lifetime or 30 s remain, whichever is longer.

    Times are Unix seconds. A login without an expiry is not due.
    """
    if login is None:
        return False
    expires_at = _number(login, "expires_at")
    return expires_at > 0 and now >= expires_at - max(_number(login, "expires_in") / 10, MARGIN_S)


def can_renew(login: Mapping[str, Any] | None) -> bool:
    """Return whether the login has a refresh token and a token URL."""
    return login is not None and bool(_text(login, "refresh_token")) and bool(_text(_client(login), "token_url"))


async def exchange(login: Mapping[str, Any], http: ProviderHttp, now: Callable[[], float]) -> dict[str, Any]:
    """Request a new token and return the updated login. Raises ModelFailure (`auth`) and TransportError.

    `now` returns the Unix time. The caller bounds the time.
    """
    client = _client(login)
    form = {"grant_type": "refresh_token", "refresh_token": _text(login, "refresh_token")}
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if client.get("auth_style") == _BY_HEADER and _text(client, "client_secret"):
        # Both are encoded before they are joined (RFC 6749, section 2.3.1).
        pair = f"{quote_plus(_text(client, 'client_id'))}:{quote_plus(_text(client, 'client_secret'))}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        form |= {name: _text(client, name) for name in ("client_id", "client_secret") if _text(client, name)}
    response = await http.open(WireRequest(_text(client, "token_url"), headers, urlencode(form).encode()))
    body = b""
    try:
        while len(body) <= ANSWER_MAX_BYTES and (part := await response.read()):
            body += part
    finally:
        response.abort()
    try:
        fields = msgspec.json.decode(body) if len(body) <= ANSWER_MAX_BYTES else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = {}
    token = fields.get("access_token") if isinstance(fields, dict) else None
    if response.status != 200 or not isinstance(token, str) or not token:
        reason = _text(fields, "error") if isinstance(fields, dict) else ""
        raise failure(
            "auth",
            f"the login could not be renewed ({reason[:100] or f'status {response.status}'}); log in again",
            status=response.status,
            secrets=secrets_of(login),
        )
    lifetime_s = int(_number(fields, "expires_in"))
    return {
        **login,
        "access_token": token,
        "refresh_token": _text(fields, "refresh_token") or _text(login, "refresh_token"),
        "expires_in": lifetime_s,
        "expires_at": int(now()) + lifetime_s if lifetime_s else 0,
    }


def secrets_of(login: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a login that must not be shown or logged."""
    values = (_text(login, "access_token"), _text(login, "refresh_token"), _text(_client(login), "client_secret"))
    return tuple(text for text in values if text)


def _client(login: Mapping[str, Any]) -> Mapping[str, Any]:
    client = login.get("client")
    return client if isinstance(client, dict) else {}


def _text(tree: Mapping[str, Any], name: str) -> str:
    value = tree.get(name)
    return value if isinstance(value, str) else ""


def _number(tree: Mapping[str, Any], name: str) -> float:
    value = tree.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
