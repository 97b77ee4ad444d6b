"""Test stored logins: when a token is renewed, what the renewal sends, and that a 401 is retried once."""

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from protocol.api.provider import Model
from tests.unit.agent.agent_harness import user
from worker.models.client import Finished, ModelClient, ModelEvent, ModelFailure, ModelRequest, TextDelta
from worker.models.failures import failure
from worker.models.key_renewal import RenewingModel
from worker.models.login import can_renew, exchange, is_due

if TYPE_CHECKING:
    import httpx2

LOGIN: dict[str, Any] = {
    "access_token": "old-access-token",
    "refresh_token": "old-refresh-token",
    "expires_in": 3600,
    "expires_at": 10_000,
    "client": {"client_id": "me", "client_secret": "hidden-secret", "token_url": "http://auth/token"},
}
REQUEST = ModelRequest("", [user("hi")])


@pytest.mark.parametrize(
    ("login", "now", "due"),
    [
        (None, 1e9, False),
        ({}, 1e9, False),
        (LOGIN, 9_639, False),  # due when a tenth of its lifetime is left
        (LOGIN, 9_640, True),
        ({"expires_at": 10_000, "expires_in": 60}, 9_969, False),  # due when half a minute is left
        ({"expires_at": 10_000, "expires_in": 60}, 9_970, True),
        ({"expires_at": 10_000}, 10_001, True),
    ],
)
def test_a_token_is_due_for_renewal_shortly_before_it_expires(
    login: dict[str, Any] | None, now: float, due: bool
) -> None:
    assert is_due(login, now) is due


def test_a_login_without_a_token_url_or_a_refresh_token_cannot_be_renewed() -> None:
    assert can_renew(LOGIN)
    assert not can_renew(None)
    assert not can_renew({**LOGIN, "client": None})
    assert not can_renew({**LOGIN, "refresh_token": ""})


def http_client(status: int, body: object, requests: list["httpx2.Request"] | None = None) -> "httpx2.AsyncClient":
    """Return an HTTP client that answers every request in this way and adds it to `seen`."""
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        if requests is not None:
            requests.append(request)
        return httpx2.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))


async def test_a_renewed_login_keeps_the_fields_that_the_response_leaves_out() -> None:
    requests: list[httpx2.Request] = []
    async with http_client(200, {"access_token": "new", "expires_in": 60}, requests) as http:
        login = await exchange(LOGIN, http, lambda: 500.0)
    assert login == {**LOGIN, "access_token": "new", "expires_in": 60, "expires_at": 560}
    assert parse_qs(requests[0].content.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["old-refresh-token"],
        "client_id": ["me"],
        "client_secret": ["hidden-secret"],
    }
    by_header = {**LOGIN, "client": {**LOGIN["client"], "auth_style": 2}}
    async with http_client(200, {"access_token": "new", "refresh_token": "next"}, requests) as http:
        login = await exchange(by_header, http, lambda: 500.0)
    assert (login["refresh_token"], login["expires_at"]) == ("next", 0)
    assert requests[1].headers["authorization"].startswith("Basic ")
    assert b"hidden-secret" not in requests[1].content


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, {"error": "invalid_grant old-refresh-token"}), (200, {}), (200, b"<html>"), (200, []), (500, b"")],
)
async def test_a_failed_renewal_asks_for_a_new_login_and_names_no_secret(
    status: int, body: bytes | dict[str, Any] | list[Any]
) -> None:
    async with http_client(status, body) as http:
        with pytest.raises(ModelFailure) as caught:
            await exchange(LOGIN, http, lambda: 0.0)
    assert "log in again" in caught.value.message
    assert "old-refresh-token" not in caught.value.message
    assert caught.value.category == "auth"


class EventClient:
    """Stream the given events; raise those that are failures."""

    model = Model(id="m")
    provider_id = "p"
    is_flat_rate = False

    def __init__(self, *events: ModelEvent | ModelFailure) -> None:
        self.events = events
        self.requests = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.requests += 1
        for event in self.events:
            if isinstance(event, ModelFailure):
                raise event
            yield event


REFUSED = failure("auth", "no", status=401)
DONE = Finished("end_turn")


async def collect(client: ModelClient) -> list[ModelEvent]:
    return [event async for event in client.stream(REQUEST)]


async def test_a_401_is_retried_once_with_the_renewed_key_which_is_used_from_then_on() -> None:
    old, newer = EventClient(REFUSED), EventClient(TextDelta("ok"), DONE)
    renewals: list[int] = []

    async def renew() -> ModelClient | None:
        renewals.append(1)
        return newer

    client = RenewingModel(old, renew)
    assert await collect(client) == [TextDelta("ok"), DONE]
    assert await collect(client) == [TextDelta("ok"), DONE]
    assert (old.requests, newer.requests, len(renewals)) == (1, 2, 1)
    newer.events = (failure("auth", "still no", status=401),)
    with pytest.raises(ModelFailure, match="still no"):
        await collect(RenewingModel(EventClient(REFUSED), renew))
    assert len(renewals) == 2, "the renewed key is refused too, so there is no other renewal"


@pytest.mark.parametrize(
    ("error", "renewals"),
    [
        (REFUSED, 1),  # there is no newer key
        (failure("auth", "no", status=403), 0),
        (failure("auth", "no", status=401, in_stream=True), 0),
        (failure("server", "no", status=500), 0),
    ],
)
async def test_a_failure_is_reported_unchanged_when_no_renewed_key_can_help(error: ModelFailure, renewals: int) -> None:
    calls: list[int] = []

    async def renew() -> None:
        calls.append(1)

    with pytest.raises(ModelFailure) as caught:
        await collect(RenewingModel(EventClient(error), renew))
    assert caught.value is error
    assert len(calls) == renewals
