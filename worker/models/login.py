"""Renew OAuth logins: decide when a token is due, request a new one, and read the response."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from worker.models.failures import failure

if TYPE_CHECKING:
    import httpx2

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


async def exchange(login: Mapping[str, Any], http: "httpx2.AsyncClient", now: Callable[[], float]) -> dict[str, Any]:
    """Request a new token and return the updated login. Raises ModelFailure (`auth`), and what the client raises.

    `now` returns the Unix time.
    """
    client = _client(login)
    form = {"grant_type": "refresh_token", "refresh_token": _text(login, "refresh_token")}
    basic: dict[str, Any] = {}
    if client.get("auth_style") == _BY_HEADER and _text(client, "client_secret"):
        basic["auth"] = (_text(client, "client_id"), _text(client, "client_secret"))
    else:
        form |= {name: _text(client, name) for name in ("client_id", "client_secret") if _text(client, name)}
    response = await http.post(
        _text(client, "token_url"),
        data=form,
        **basic,
        headers={"accept": "application/json"},
        follow_redirects=False,
    )
    try:
        fields = response.json() if len(response.content) <= ANSWER_MAX_BYTES else {}
    except ValueError:
        fields = {}
    token = fields.get("access_token") if isinstance(fields, dict) else None
    if response.status_code != 200 or not isinstance(token, str) or not token:
        reason = _text(fields, "error") if isinstance(fields, dict) else ""
        raise failure(
            "auth",
            f"the login could not be renewed ({reason[:100] or f'status {response.status_code}'}); log in again",
            status=response.status_code,
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
