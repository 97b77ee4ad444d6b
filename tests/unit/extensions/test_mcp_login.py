"""Logins at MCP servers: a browser, a code, a token that is stored, renewed, and given to nobody else."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from msgspec.structs import replace

from protocol.api.config import GLOBAL
from protocol.base.clock import SystemClock
from protocol.errors import Conflict
from protocol.limits import Limits
from tests.support.checks import api_shapes
from tests.support.eventually import eventually
from tests.support.fakes.mcp_http_server import McpHttpServer
from tests.unit.extensions.test_mcp_service import Place, place
from worker.config.edit import edit_file, file_of
from worker.config.load import load_config
from worker.config.sections import McpSettings, OAuthClient, OAuthToken
from worker.mcp.capabilities import McpFailed
from worker.mcp.lifecycle import McpState
from worker.mcp.service import store_token

HARD = Limits(mcp_login_s=0.5)


@contextlib.asynccontextmanager
async def guarded(
    tmp_path: Path, *, limits: Limits | None = None, token: OAuthToken | None = None, oauth: bool = True
) -> AsyncIterator[tuple[McpHttpServer, Place]]:
    remote = McpHttpServer()
    try:
        if token is not None:
            remote.access.add("access-old")
            client = replace(token.client, token_url=f"{remote.origin}/token", client_id="c")
            token = replace(token, resource=token.resource or remote.url, client=client)
        settings = McpSettings(url=remote.url, oauth=oauth, oauth_token=token)
        async with place(tmp_path, {"odd": settings}, limits=limits or Limits()) as found:
            yield remote, found
    finally:
        await remote.close()


async def log_in(remote: McpHttpServer, found: Place) -> None:
    """What a person does."""
    task = asyncio.ensure_future(found.server.log_in())
    await eventually(lambda: found.server.login_url or task.done(), what="an address")
    if task.done():
        await task
    async with httpx2.AsyncClient() as browser:
        home = remote.visit(found.server.login_url)
        wrong = await browser.get(home.replace("state=", "state=x"))
        assert wrong.status_code == 400, "who does not know the state is not of this login"
        assert found.servers.busy == 1
        answer = await browser.get(home)
        assert answer.status_code == 200
    await task


async def test_a_login_gives_a_token_that_is_stored_and_used(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (remote, found):
        assert found.server.state is McpState.NEEDS_AUTH
        assert found.servers.infos()["odd"].state == "needs auth"
        assert [(one.name, one.url) for one in found.servers.pending()] == [("odd", remote.url)]
        assert remote.clients == {}, "nobody is registered before somebody asks for a login"
        refused = await found.bench.call("list_mcp_resources", mcp_name="odd")
        assert "no such tool" in refused.content
        await log_in(remote, found)
        assert found.states() == ["starting", "needs auth", "starting", "connected"]
        assert found.servers.pending() == []
        assert found.server.login_url == ""
        assert found.servers.busy == 0
        ((name, token),) = found.saved
        assert (name, token.resource, token.client.client_id) == ("odd", remote.url, "client-0")
        assert token.client.token_url == f"{remote.origin}/token"
        assert {token.access_token, token.refresh_token} <= found.secrets
        assert (await found.call("whoami")).content == "somebody"
        assert repr(token.access_token) not in repr(found.events)


async def test_a_stored_token_is_used_and_renewed_when_it_is_old_or_refused(tmp_path: Path) -> None:
    old = OAuthToken(access_token="access-old", refresh_token="renewal-old", expires_at=1)
    async with guarded(tmp_path, token=old) as (remote, found):
        assert remote.seen == ["refresh_token"]
        assert found.server.state is McpState.NEEDS_AUTH, "the server of tokens knows nothing of it"
        remote.renewals.add("renewal-old")
        found.server.start()
        await found.servers.settled()
        assert found.server.state is McpState.CONNECTED
        assert [name for name, _ in found.saved] == ["odd"]
        remote.access.clear()  # revoked before its time
        assert (await found.call("whoami")).content == "somebody"
        assert len(found.saved) == 2
        assert remote.seen == ["refresh_token"] * 3


async def test_a_bad_day_of_the_server_of_tokens_is_an_error_and_no_new_login(tmp_path: Path) -> None:
    old = OAuthToken(access_token="access-old", refresh_token="renewal-old", expires_at=1)
    async with guarded(tmp_path, token=old) as (remote, found):
        remote.renewal_status = 503
        found.server.start()
        await found.servers.settled()
        assert found.server.state is McpState.ERROR
        assert "cannot be renewed: HTTP 503" in found.server.error


async def test_a_token_is_not_sent_to_another_address(tmp_path: Path) -> None:
    stolen = OAuthToken(access_token="access-old", resource="http://127.0.0.1:1/mcp")
    async with guarded(tmp_path, token=stolen) as (remote, found):
        assert "access-old" in remote.access
        assert found.server.state is McpState.NEEDS_AUTH


async def test_a_login_ends_with_its_caller_or_its_time_and_there_is_one_at_most(tmp_path: Path) -> None:
    async with guarded(tmp_path, limits=HARD) as (remote, found):
        with pytest.raises(McpFailed, match="authorization cancelled: no login within"):
            await found.server.log_in()
        assert found.server.login_url == ""
        first = asyncio.ensure_future(found.server.log_in())
        await eventually(lambda: found.server.login_url, what="an address")
        with pytest.raises(Conflict, match="already under way"):
            await found.server.log_in()
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        assert (found.server.login_url, found.servers.busy) == ("", 0)
        remote.wants_login = False
        await found.server.log_in()
        assert found.server.state is McpState.CONNECTED


async def test_a_person_may_refuse(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (remote, found):
        task = asyncio.ensure_future(found.server.log_in())
        await eventually(lambda: found.server.login_url, what="an address")
        home = remote.visit(found.server.login_url)
        async with httpx2.AsyncClient() as browser:
            assert (await browser.get(home.partition("/callback")[0])).status_code == 404
            assert (await browser.get(home.replace("code=", "error=access_denied&was="))).status_code == 200
        with pytest.raises(McpFailed, match="the login was refused: access_denied"):
            await task
        assert found.server.state is McpState.NEEDS_AUTH


async def test_without_oauth_a_refusal_says_what_would_help(tmp_path: Path) -> None:
    async with guarded(tmp_path, oauth=False) as (_, found):
        assert found.server.state is McpState.ERROR
        assert "HTTP 401" in found.server.error
        assert "set oauth for a login" in found.server.error
        with pytest.raises(Conflict, match=r"set mcp\.odd\.url and mcp\.odd\.oauth"):
            await found.server.log_in()


async def test_nobody_logs_in_at_a_server_that_is_disabled(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (_, found):
        found.server.settings = replace(found.server.settings, disabled=True)
        with pytest.raises(Conflict, match="it is disabled"):
            await found.server.log_in()


def test_a_token_is_in_the_users_file_and_other_projects_see_no_server(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    token = OAuthToken(
        access_token="access-0123456789",
        refresh_token="renewal-0123456789",
        resource="https://docs.example/mcp",
        client=OAuthClient(client_id="c", client_secret="client-0123456789", token_url="https://docs.example/token"),
    )
    path = file_of(GLOBAL, tmp_path / "data", env)
    edit_file(path, lambda tree: store_token(tree, "docs", token), lambda tree: None, SystemClock())
    assert path.stat().st_mode & 0o777 == 0o600

    def configured(server: dict[str, object] | None) -> tuple[McpSettings, dict[str, object]]:
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        (project / "bulkhead.json").write_text(json.dumps({"mcp": {"docs": server}} if server else {}))
        config = load_config(project, tmp_path / "data", env)
        wire = json.loads(config.wire())
        api_shapes.CONFIG(wire, "config")
        assert "0123456789" not in config.wire().decode()
        return config.mcp["docs"], wire["mcp"]

    settings, shown = configured({"url": "https://docs.example/mcp", "oauth": True})
    assert settings.oauth_token == token
    assert shown["docs"]["type"] == "http"  # type: ignore[index]
    settings, shown = configured(None)
    assert shown == {}
