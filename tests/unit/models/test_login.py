"""Test stored logins: when a token is renewed, what the renewal sends, and that a 401 is retried once."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import pytest

from protocol.api.provider import Model
from tests.unit.agent.agent_harness import user
from worker.models.client import Finished, ModelClient, ModelEvent, ModelFailure, ModelRequest, TextDelta
from worker.models.failures import failure
from worker.models.key_renewal import RenewingModel
from worker.models.login import can_renew, exchange, is_due
from worker.models.transport.provider_http import ProviderHttp

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


@dataclass
class TokenEndpoint:
    """Serves on loopback, answers every request in the same way, and keeps head and body of each."""

    status: int
    body: bytes
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        self.requests.append((head, await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.body)) + self.body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def token_endpoint(status: int, body: object) -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    server = await asyncio.start_server(endpoint.answer, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    async with server:
        yield endpoint


async def renewed(endpoint: TokenEndpoint, login: dict[str, Any], now: float = 0.0) -> dict[str, Any]:
    """Renew a login at this endpoint."""
    http = ProviderHttp(5.0)
    try:
        return await exchange({**login, "client": {**login["client"], "token_url": endpoint.url}}, http, lambda: now)
    finally:
        await http.close()


async def test_a_renewed_login_keeps_the_fields_that_the_response_leaves_out() -> None:
    async with token_endpoint(200, {"access_token": "new", "expires_in": 60}) as endpoint:
        login = await renewed(endpoint, LOGIN, 500.0)
        client = {**LOGIN["client"], "token_url": endpoint.url}
    assert login == {**LOGIN, "client": client, "access_token": "new", "expires_in": 60, "expires_at": 560}
    assert parse_qs(endpoint.requests[0][1].decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["old-refresh-token"],
        "client_id": ["me"],
        "client_secret": ["hidden-secret"],
    }
    by_header = {**LOGIN, "client": {**LOGIN["client"], "auth_style": 2}}
    async with token_endpoint(200, {"access_token": "new", "refresh_token": "next"}) as endpoint:
        login = await renewed(endpoint, by_header, 500.0)
    assert (login["refresh_token"], login["expires_at"]) == ("next", 0)
    head, body = endpoint.requests[0]
    pair = base64.b64encode(b"me:hidden-secret").decode()
    assert f"Authorization: Basic {pair}" in head
    assert b"hidden-secret" not in body


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "invalid_grant old-refresh-token"}),
        (200, {}),
        (200, b"<html>"),
        (200, []),
        (200, b'{"access_token": "' + b"x" * 70_000 + b'"}'),
        (500, b""),
    ],
)
async def test_a_failed_renewal_asks_for_a_new_login_and_names_no_secret(status: int, body: object) -> None:
    async with token_endpoint(status, body) as endpoint:
        with pytest.raises(ModelFailure) as caught:
            await renewed(endpoint, LOGIN)
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
