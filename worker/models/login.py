"""Logins by OAuth: when a token is to be renewed, what is asked for a new one, and what is made of the answer."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from worker.models.failures import failure

if TYPE_CHECKING:
    import httpx2

MARGIN_S = 30.0
ANSWER_MAX_BYTES = 64 * 1024
_BY_HEADER = 2


def is_due(login: Mapping[str, Any] | None, now: float) -> bool:
    """Is the token of this login over, or nearly: within a tenth of its life or half a minute? Times are Unix seconds.

    A login that does not say when it ends is not due.
    """
    if login is None:
        return False
    expires_at = _number(login, "expires_at")
    return expires_at > 0 and now >= expires_at - max(_number(login, "expires_in") / 10, MARGIN_S)


def can_renew(login: Mapping[str, Any] | None) -> bool:
    """Does this login say where, and with what, a new token is had?"""
    return login is not None and bool(_text(login, "refresh_token")) and bool(_text(_client(login), "token_url"))


async def exchange(login: Mapping[str, Any], http: "httpx2.AsyncClient", now: Callable[[], float]) -> dict[str, Any]:
    """Ask for a new token; the login that results. Raises ModelFailure (`auth`), and what the client raises.

    `now` gives the Unix time.
    """
    client = _client(login)
    form = {"grant_type": "refresh_token", "refresh_token": _text(login, "refresh_token")}
    basic: dict[str, Any] = {}
    if client.get("auth_style") == _BY_HEADER and _text(client, "client_secret"):
        basic["auth"] = (_text(client, "client_id"), _text(client, "client_secret"))
    else:
        form |= {name: _text(client, name) for name in ("client_id", "client_secret") if _text(client, name)}
    answer = await http.post(
        _text(client, "token_url"),
        data=form,
        **basic,
        headers={"accept": "application/json"},
        follow_redirects=False,
    )
    try:
        said = answer.json() if len(answer.content) <= ANSWER_MAX_BYTES else {}
    except ValueError:
        said = {}
    token = said.get("access_token") if isinstance(said, dict) else None
    if answer.status_code != 200 or not isinstance(token, str) or not token:
        why = _text(said, "error") if isinstance(said, dict) else ""
        raise failure(
            "auth",
            f"the login could not be renewed ({why[:100] or f'status {answer.status_code}'}); log in again",
            status=answer.status_code,
            secrets=secrets_of(login),
        )
    lasts_s = int(_number(said, "expires_in"))
    return {
        **login,
        "access_token": token,
        "refresh_token": _text(said, "refresh_token") or _text(login, "refresh_token"),
        "expires_in": lasts_s,
        "expires_at": int(now()) + lasts_s if lasts_s else 0,
    }


def secrets_of(login: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a login nobody may see."""
    found = (_text(login, "access_token"), _text(login, "refresh_token"), _text(_client(login), "client_secret"))
    return tuple(text for text in found if text)


def _client(login: Mapping[str, Any]) -> Mapping[str, Any]:
    client = login.get("client")
    return client if isinstance(client, dict) else {}


def _text(tree: Mapping[str, Any], name: str) -> str:
    value = tree.get(name)
    return value if isinstance(value, str) else ""


def _number(tree: Mapping[str, Any], name: str) -> float:
    value = tree.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
