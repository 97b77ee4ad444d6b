"""Logins: when a token is renewed, what is asked, and that a 401 is answered with one other try."""

import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qs

import pytest

from protocol.api.provider import Model
from tests.unit.agent.agent_harness import user
from worker.models.client import Finished, ModelClient, ModelEvent, ModelFailure, ModelRequest, TextDelta
from worker.models.failures import failure
from worker.models.key_renewal import RenewingModel
from worker.models.login import can_renew, exchange, is_due

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
        (LOGIN, 9_639, False),  # a tenth of its life
        (LOGIN, 9_640, True),
        ({"expires_at": 10_000, "expires_in": 60}, 9_969, False),  # half a minute
        ({"expires_at": 10_000, "expires_in": 60}, 9_970, True),
        ({"expires_at": 10_000}, 10_001, True),
    ],
)
def test_a_token_is_due_a_little_before_its_end(login: Any, now: float | int, due: bool) -> None:
    assert is_due(login, now) is due


def test_a_login_that_does_not_say_where_cannot_be_renewed() -> None:
    assert can_renew(LOGIN)
    assert not can_renew(None)
    assert not can_renew({**LOGIN, "client": None})
    assert not can_renew({**LOGIN, "refresh_token": ""})


def answering(status: int, body: object, seen: list[Any] | None = None) -> Any:
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        if seen is not None:
            seen.append(request)
        return httpx2.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))


async def test_the_new_token_keeps_what_the_answer_does_not_say() -> None:
    seen: list[Any] = []
    async with answering(200, {"access_token": "new", "expires_in": 60}, seen) as http:
        login = await exchange(LOGIN, http, lambda: 500.0)
    assert login == {**LOGIN, "access_token": "new", "expires_in": 60, "expires_at": 560}
    assert parse_qs(seen[0].content.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["old-refresh-token"],
        "client_id": ["me"],
        "client_secret": ["hidden-secret"],
    }
    by_header = {**LOGIN, "client": {**LOGIN["client"], "auth_style": 2}}
    async with answering(200, {"access_token": "new", "refresh_token": "next"}, seen) as http:
        login = await exchange(by_header, http, lambda: 500.0)
    assert (login["refresh_token"], login["expires_at"]) == ("next", 0)
    assert seen[1].headers["authorization"].startswith("Basic ")
    assert b"hidden-secret" not in seen[1].content


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, {"error": "invalid_grant old-refresh-token"}), (200, {}), (200, b"<html>"), (200, []), (500, b"")],
)
async def test_a_refused_renewal_says_to_log_in_again_and_no_secret(
    status: int, body: bytes | dict[str, Any] | list[Any]
) -> None:
    async with answering(status, body) as http:
        with pytest.raises(ModelFailure) as caught:
            await exchange(LOGIN, http, lambda: 0.0)
    assert "log in again" in caught.value.message
    assert "old-refresh-token" not in caught.value.message
    assert caught.value.category == "auth"


class Scripted:
    """A client that plays what it is given."""

    model = Model(id="m")
    provider_id = "p"
    is_flat_rate = False

    def __init__(self, *events: ModelEvent | ModelFailure) -> None:
        self.events = events
        self.asked = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.asked += 1
        for event in self.events:
            if isinstance(event, ModelFailure):
                raise event
            yield event


REFUSED = failure("auth", "no", status=401)
DONE = Finished("end_turn")


async def collect(client: ModelClient) -> list[ModelEvent]:
    return [event async for event in client.stream(REQUEST)]


async def test_a_401_is_answered_with_the_newer_key_once_and_then_stays_with_it() -> None:
    old, newer = Scripted(REFUSED), Scripted(TextDelta("ok"), DONE)
    renewals: list[int] = []

    async def renew() -> ModelClient | None:
        renewals.append(1)
        return newer

    client = RenewingModel(old, renew)
    assert await collect(client) == [TextDelta("ok"), DONE]
    assert await collect(client) == [TextDelta("ok"), DONE]
    assert (old.asked, newer.asked, len(renewals)) == (1, 2, 1)
    newer.events = (failure("auth", "still no", status=401),)
    with pytest.raises(ModelFailure, match="still no"):
        await collect(RenewingModel(Scripted(REFUSED), renew))
    assert len(renewals) == 2, "a second refusal is the end"


@pytest.mark.parametrize(
    ("error", "renewals"),
    [
        (REFUSED, 1),  # nothing newer
        (failure("auth", "no", status=403), 0),
        (failure("auth", "no", status=401, in_stream=True), 0),
        (failure("server", "no", status=500), 0),
    ],
)
async def test_the_first_failure_stands_when_there_is_no_newer_key(error: Any, renewals: int) -> None:
    asked: list[int] = []

    async def renew() -> None:
        asked.append(1)

    with pytest.raises(ModelFailure) as caught:
        await collect(RenewingModel(Scripted(error), renew))
    assert caught.value is error
    assert len(asked) == renewals
