"""Test models in a whole service: changing the model within a session, renewal of keys and tokens, and costs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.support.clients.http_client import texts
from tests.support.fakes.scripted_provider import MODEL
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

PRICES = {"cost_per_1m_in": 1000.0, "cost_per_1m_out": 2000.0, "cost_per_1m_out_cached": 100.0}


def change_file(house: ServerHarness, workspace: WorkspaceFixture, change: Any) -> None:
    """Change the project's configuration file."""
    path = workspace.path / "bulkhead.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


async def choose(workspace: WorkspaceFixture, provider: str) -> None:
    body = {"scope": 1, "model_type": "large", "model": {"provider": provider, "model": MODEL}}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/model", body)).expect(200)


async def reload(workspace: WorkspaceFixture) -> None:
    """Make the worker read its configuration files again, by an unrelated change."""
    body = {"scope": 1, "key": "options.debug_lsp", "value": True}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", body)).expect(200)


@pytest.mark.parametrize(("old", "new"), [("anthropic", "responses"), ("responses", "anthropic")])
async def test_the_model_can_be_changed_within_a_session(house: ServerHarness, old: str, new: str) -> None:
    workspace = await house.workspace(model=old, yolo=True)

    def add_second_provider(tree: Any) -> None:
        tree["providers"]["loop"]["models"][0].update(PRICES, can_reason=True)
        other = house.provider.config(new)["providers"]["loop"]
        other["models"][0].update(PRICES, can_reason=True)
        tree["providers"]["other"] = {**other, "id": "other"}

    change_file(house, workspace, add_second_provider)
    await reload(workspace)
    run = await workspace.prompt("begin")
    first = await house.provider.next_call()
    assert first.dialect == old
    first.usage = (100, 10, 60, 0)
    await first.thinking("rs_1", ["private thought"], "old-signature")
    await first.tool_call("c1", "ls", {})
    await first.finish()
    second = await house.provider.next_call()
    assert "old-signature" in json.dumps(second.messages), "the thinking of the same model was not sent back"
    second.usage = (200, 20, 0, 0)
    await second.reply("half way")
    await workspace.ended(run)
    cost = (40 * 1000 + 60 * 100 + 10 * 2000 + 200 * 1000 + 20 * 2000) / 1e6
    assert (await workspace.client.session(workspace.id, workspace.session))["cost"] == pytest.approx(cost)
    await choose(workspace, "other")
    run = await workspace.prompt("go on")
    third = await house.provider.next_call()
    assert third.dialect == new
    sent = json.dumps(third.body)
    assert "private thought" not in sent
    assert "old-signature" not in sent
    assert "half way" in sent
    third.usage = (300, 30, 0, 0)
    await third.reply("done")
    assert (await workspace.ended(run))["text"] == "done"
    cost += (300 * 1000 + 30 * 2000) / 1e6
    assert (await workspace.client.session(workspace.id, workspace.session))["cost"] == pytest.approx(cost)
    assert (await workspace.last_assistant())["provider"] == "other"


async def test_W_20_the_cost_until_a_cancel_is_counted(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic")
    change_file(house, workspace, lambda tree: tree["providers"]["loop"]["models"][0].update(PRICES))
    await reload(workspace)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    call.usage = (100, 10, 60, 0)
    await call.tokens("half of it")
    await workspace.watcher.text(workspace.session, "half of it")
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run))["cancelled"] is True
    session = await workspace.client.session(workspace.id, workspace.session)
    assert (session["prompt_tokens"], session["completion_tokens"]) == (100, 3)
    assert session["cost"] == pytest.approx((40 * 1000 + 60 * 100 + 3 * 2000) / 1e6)


async def test_a_key_command_is_run_again_after_a_401(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    (workspace.path / "key").write_text("first-key-0123456789")
    change_file(house, workspace, lambda tree: tree["providers"]["loop"].update(api_key="$(cat key)"))
    await reload(workspace)
    run = await workspace.prompt("hello?")
    call = await house.provider.next_call()
    assert call.headers["authorization"] == "Bearer first-key-0123456789"
    (workspace.path / "key").write_text("second-key-0123456789")
    await call.refuse(401)
    call = await house.provider.next_call()
    assert call.headers["authorization"] == "Bearer second-key-0123456789"
    await call.refuse(401)
    ended = await workspace.ended(run)
    assert "set providers.loop.api_key" in ended["error"]
    assert len(house.provider.exchanges) == 2, "the model was called again with the same key"
    assert "key-0123456789" not in house.logs()


class TokenEndpoint:
    """A token endpoint that answers when the test allows it."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, list[str]]] = []
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.token = "renewed-access-token-1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.requests.append(parse_qs((await reader.readexactly(length)).decode()))
        self.arrived.set()
        await self.may_answer.wait()
        body = json.dumps({"access_token": self.token, "refresh_token": "next-refresh-token", "expires_in": 3600})
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def token_endpoint() -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    async with server:
        yield endpoint


async def log_in(workspace: WorkspaceFixture, url: str, *, expires_at: float) -> None:
    token = {
        "access_token": "expired-access-token",
        "refresh_token": "first-refresh-token",
        "expires_in": 3600,
        "expires_at": int(expires_at),
        "client": {"client_id": "me", "token_url": url},
    }
    body = {"scope": 1, "provider_id": "loop", "kind": "oauth", "api_key": token}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/provider-key", body)).expect(200)


def stored_login(workspace: WorkspaceFixture) -> dict[str, Any]:
    provider: dict[str, Any] = json.loads((Path(workspace.data_dir) / "bulkhead.json").read_text())["providers"]["loop"]
    return provider


async def test_an_expired_token_is_renewed_before_the_run(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic")
    async with token_endpoint() as endpoint:
        await log_in(workspace, endpoint.url, expires_at=time.time() - 5)
        run = await workspace.prompt("hello?")
        call = await house.provider.next_call()
        assert call.headers["authorization"] == "Bearer renewed-access-token-1"
        await call.reply("hello")
        assert (await workspace.ended(run))["text"] == "hello"
        assert endpoint.requests == [
            {"grant_type": ["refresh_token"], "refresh_token": ["first-refresh-token"], "client_id": ["me"]}
        ]
        stored = stored_login(workspace)
        assert (stored["api_key"], stored["oauth"]["refresh_token"]) == ("renewed-access-token-1", "next-refresh-token")
        assert stored["oauth"]["expires_at"] > time.time() + 3000
        await workspace.works()
        assert len(endpoint.requests) == 1
    assert "access-token" not in house.logs()


async def test_a_refused_token_is_renewed_once_for_two_sessions(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    other = await workspace.client.create_session(workspace.id, "another")
    async with token_endpoint() as endpoint:
        await log_in(workspace, endpoint.url, expires_at=time.time() + 9000)
        endpoint.may_answer.clear()
        runs = [await workspace.prompt("one"), await workspace.client.prompt(workspace.id, other, "two")]
        for _ in runs:
            await (await house.provider.next_call()).refuse(401)
        await endpoint.arrived.wait()
        endpoint.may_answer.set()
        for _ in runs:
            call = await house.provider.next_call()
            assert call.headers["authorization"] == "Bearer renewed-access-token-1"
            await call.reply("in")
        for run in runs:
            assert (await workspace.ended(run))["text"] == "in"
        assert len(endpoint.requests) == 1
        refreshed = await workspace.client.post(
            f"/v1/workspaces/{workspace.id}/config/refresh-oauth", {"scope": 1, "provider_id": "loop"}
        )
        assert refreshed.status == 400, "a renewal that returns the same token is an error"
        endpoint.token = "renewed-access-token-2"
        refreshed = await workspace.client.post(
            f"/v1/workspaces/{workspace.id}/config/refresh-oauth", {"scope": 1, "provider_id": "loop"}
        )
        refreshed.expect(200)
        assert stored_login(workspace)["api_key"] == "renewed-access-token-2"


async def test_a_long_turn_may_renew_its_token_several_times(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses", yolo=True)
    async with token_endpoint() as endpoint:
        await log_in(workspace, endpoint.url, expires_at=time.time() + 9000)
        run = await workspace.prompt("take your time")
        for number in (1, 2, 3):
            endpoint.token = f"renewed-access-token-{number}"
            await (await house.provider.next_call()).refuse(401)
            call = await house.provider.next_call()
            assert call.headers["authorization"] == f"Bearer renewed-access-token-{number}"
            if number < 3:
                await call.tool_call(f"c{number}", "ls", {})
                await call.finish()
            else:
                await call.reply("done")
        assert (await workspace.ended(run))["text"] == "done"
        assert len(endpoint.requests) == 3


async def test_a_cancel_does_not_wait_for_a_token_renewal(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    async with token_endpoint() as endpoint:
        await log_in(workspace, endpoint.url, expires_at=time.time() + 9000)
        endpoint.may_answer.clear()
        run = await workspace.prompt("hello?")
        await (await house.provider.next_call()).refuse(401)
        await endpoint.arrived.wait()
        (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
        ended = await workspace.ended(run, timeout_s=5.0)
        assert ended["cancelled"] is True
        assert "error" not in ended
        endpoint.may_answer.set()
        run = await workspace.prompt("and now?")
        call = await house.provider.next_call()
        if call.headers["authorization"] != "Bearer renewed-access-token-1":  # the renewal has not finished yet
            await call.refuse(401)
            call = await house.provider.next_call()
        assert call.headers["authorization"] == "Bearer renewed-access-token-1"
        await call.reply("yes")
        assert (await workspace.ended(run))["text"] == "yes"
        assert len(endpoint.requests) == 1, "the token was requested twice"


async def test_an_unknown_provider_type_is_reported_with_the_known_types(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    change_file(house, workspace, lambda tree: tree["providers"]["loop"].update(type="smoke-signals"))
    await reload(workspace)
    ended = await workspace.ended(await workspace.prompt("hello?"))
    assert "smoke-signals" in ended["error"]
    for type_ in ("anthropic", "openai", "ollama", "google", "bedrock"):
        assert type_ in ended["error"]
    assert texts(await workspace.last_assistant()) == ""
