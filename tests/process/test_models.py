"""Models in a whole service: another one in the middle of a session, keys that are renewed, local servers."""

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


def write(house: ServerHarness, workspace: WorkspaceFixture, change: Any) -> None:
    """Change the project's configuration file."""
    path = workspace.path / "bulkhead.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


async def choose(workspace: WorkspaceFixture, provider: str) -> None:
    wish = {"scope": 1, "model_type": "large", "model": {"provider": provider, "model": MODEL}}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/model", wish)).expect(200)


async def reload(workspace: WorkspaceFixture) -> None:
    """Any change of the configuration makes the worker read its files again."""
    wish = {"scope": 1, "key": "options.debug_lsp", "value": True}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", wish)).expect(200)


@pytest.mark.parametrize(("old", "new"), [("anthropic", "responses"), ("responses", "anthropic")])
async def test_another_model_in_the_middle_of_a_session(house: ServerHarness, old: str, new: str) -> None:
    workspace = await house.workspace(model=old, yolo=True)

    def both(tree: Any) -> None:
        tree["providers"]["loop"]["models"][0].update(PRICES, can_reason=True)
        other = house.provider.config(new)["providers"]["loop"]
        other["models"][0].update(PRICES, can_reason=True)
        tree["providers"]["other"] = {**other, "id": "other"}

    write(house, workspace, both)
    await reload(workspace)
    run = await workspace.prompt("begin")
    first = await house.provider.next_call()
    assert first.dialect == old
    first.usage = (100, 10, 60, 0)
    await first.thinking("rs_1", ["private thought"], "old-signature")
    await first.tool_call("c1", "ls", {})
    await first.finish()
    second = await house.provider.next_call()
    assert "old-signature" in json.dumps(second.messages), "its own thinking was not given back"
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


async def test_W_20_what_was_paid_before_a_cancel_is_told(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic")
    write(house, workspace, lambda tree: tree["providers"]["loop"]["models"][0].update(PRICES))
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


async def test_a_command_is_asked_for_a_newer_key_after_a_401(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    (workspace.path / "key").write_text("first-key-0123456789")
    write(house, workspace, lambda tree: tree["providers"]["loop"].update(api_key="$(cat key)"))
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
    assert len(house.provider.exchanges) == 2, "asked once more with the same key"
    assert "key-0123456789" not in house.logs()


class Authority:
    """Gives tokens; the test decides when."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, list[str]]] = []
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.token = "renewed-access-token-1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.asked.append(parse_qs((await reader.readexactly(length)).decode()))
        self.arrived.set()
        await self.may_answer.wait()
        body = json.dumps({"access_token": self.token, "refresh_token": "next-refresh-token", "expires_in": 3600})
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def authority() -> AsyncIterator[Authority]:
    made = Authority()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    async with server:
        yield made


async def log_in(workspace: WorkspaceFixture, url: str, *, expires_at: float) -> None:
    token = {
        "access_token": "expired-access-token",
        "refresh_token": "first-refresh-token",
        "expires_in": 3600,
        "expires_at": int(expires_at),
        "client": {"client_id": "me", "token_url": url},
    }
    wish = {"scope": 1, "provider_id": "loop", "kind": "oauth", "api_key": token}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/provider-key", wish)).expect(200)


def stored_login(workspace: WorkspaceFixture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(workspace.data_dir) / "bulkhead.json").read_text())["providers"]["loop"]
    return found


async def test_a_token_that_is_over_is_renewed_before_the_run(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic")
    async with authority() as giver:
        await log_in(workspace, giver.url, expires_at=time.time() - 5)
        run = await workspace.prompt("hello?")
        call = await house.provider.next_call()
        assert call.headers["authorization"] == "Bearer renewed-access-token-1"
        await call.reply("hello")
        assert (await workspace.ended(run))["text"] == "hello"
        assert giver.asked == [
            {"grant_type": ["refresh_token"], "refresh_token": ["first-refresh-token"], "client_id": ["me"]}
        ]
        kept = stored_login(workspace)
        assert (kept["api_key"], kept["oauth"]["refresh_token"]) == ("renewed-access-token-1", "next-refresh-token")
        assert kept["oauth"]["expires_at"] > time.time() + 3000
        await workspace.works()
        assert len(giver.asked) == 1
    assert "access-token" not in house.logs()


async def test_a_refused_token_is_renewed_once_and_two_sessions_share_that(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    other = await workspace.client.create_session(workspace.id, "another")
    async with authority() as giver:
        await log_in(workspace, giver.url, expires_at=time.time() + 9000)
        giver.may_answer.clear()
        runs = [await workspace.prompt("one"), await workspace.client.prompt(workspace.id, other, "two")]
        for _ in runs:
            await (await house.provider.next_call()).refuse(401)
        await giver.arrived.wait()
        giver.may_answer.set()
        for _ in runs:
            call = await house.provider.next_call()
            assert call.headers["authorization"] == "Bearer renewed-access-token-1"
            await call.reply("in")
        for run in runs:
            assert (await workspace.ended(run))["text"] == "in"
        assert len(giver.asked) == 1
        refreshed = await workspace.client.post(
            f"/v1/workspaces/{workspace.id}/config/refresh-oauth", {"scope": 1, "provider_id": "loop"}
        )
        assert refreshed.status == 400, "the same token again is none"
        giver.token = "renewed-access-token-2"
        refreshed = await workspace.client.post(
            f"/v1/workspaces/{workspace.id}/config/refresh-oauth", {"scope": 1, "provider_id": "loop"}
        )
        refreshed.expect(200)
        assert stored_login(workspace)["api_key"] == "renewed-access-token-2"


async def test_a_long_turn_outlives_more_than_one_token(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses", yolo=True)
    async with authority() as giver:
        await log_in(workspace, giver.url, expires_at=time.time() + 9000)
        run = await workspace.prompt("take your time")
        for number in (1, 2, 3):
            giver.token = f"renewed-access-token-{number}"
            await (await house.provider.next_call()).refuse(401)
            call = await house.provider.next_call()
            assert call.headers["authorization"] == f"Bearer renewed-access-token-{number}"
            if number < 3:
                await call.tool_call(f"c{number}", "ls", {})
                await call.finish()
            else:
                await call.reply("done")
        assert (await workspace.ended(run))["text"] == "done"
        assert len(giver.asked) == 3


async def test_a_cancel_wins_over_the_wait_for_a_token(house: ServerHarness) -> None:
    workspace = await house.workspace(model="responses")
    async with authority() as giver:
        await log_in(workspace, giver.url, expires_at=time.time() + 9000)
        giver.may_answer.clear()
        run = await workspace.prompt("hello?")
        await (await house.provider.next_call()).refuse(401)
        await giver.arrived.wait()
        (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
        ended = await workspace.ended(run, timeout_s=5.0)
        assert ended["cancelled"] is True
        assert "error" not in ended
        giver.may_answer.set()
        run = await workspace.prompt("and now?")
        call = await house.provider.next_call()
        if call.headers["authorization"] != "Bearer renewed-access-token-1":  # the renewal is not over yet
            await call.refuse(401)
            call = await house.provider.next_call()
        assert call.headers["authorization"] == "Bearer renewed-access-token-1"
        await call.reply("yes")
        assert (await workspace.ended(run))["text"] == "yes"
        assert len(giver.asked) == 1, "what was begun was begun again"


async def test_a_type_that_nobody_knows_is_said_with_those_that_are_known(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    write(house, workspace, lambda tree: tree["providers"]["loop"].update(type="smoke-signals"))
    await reload(workspace)
    ended = await workspace.ended(await workspace.prompt("hello?"))
    assert "smoke-signals" in ended["error"]
    for known in ("anthropic", "openai", "ollama", "google", "bedrock"):
        assert known in ended["error"]
    assert texts(await workspace.last_assistant()) == ""
