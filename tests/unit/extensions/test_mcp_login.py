"""Test logins at MCP servers: browser, code, and a token that is stored, renewed and sent only to its server."""

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
from tests.unit.extensions.test_mcp_service import McpWorkspace, open_mcp
from worker.config.edit import edit_file, file_of
from worker.config.load import load_config
from worker.config.sections import McpSettings, OAuthClient, OAuthToken
from worker.mcp.capabilities import McpFailed
from worker.mcp.lifecycle import McpState
from worker.mcp.service import store_token

SHORT_LOGIN = Limits(mcp_login_s=0.5)


@contextlib.asynccontextmanager
async def open_protected(
    tmp_path: Path, *, limits: Limits | None = None, token: OAuthToken | None = None, oauth: bool = True
) -> AsyncIterator[tuple[McpHttpServer, McpWorkspace]]:
    """Start an HTTP server that requires a login, and a workspace that uses it as `odd`."""
    remote = McpHttpServer()
    try:
        if token is not None:
            remote.access.add("access-old")
            client = replace(token.client, token_url=f"{remote.origin}/token", client_id="c")
            token = replace(token, resource=token.resource or remote.url, client=client)
        settings = McpSettings(url=remote.url, oauth=oauth, oauth_token=token)
        async with open_mcp(tmp_path, {"odd": settings}, limits=limits or Limits()) as mcp:
            yield remote, mcp
    finally:
        await remote.close()


async def log_in(remote: McpHttpServer, mcp: McpWorkspace) -> None:
    """Log in as a user does, with a browser."""
    task = asyncio.ensure_future(mcp.server.log_in())
    await eventually(lambda: mcp.server.login_url or task.done(), what="the login URL")
    if task.done():
        await task
    async with httpx2.AsyncClient() as browser:
        home = remote.visit(mcp.server.login_url)
        wrong = await browser.get(home.replace("state=", "state=x"))
        assert wrong.status_code == 400, "a callback with another state does not belong to this login"
        assert mcp.servers.busy == 1
        answer = await browser.get(home)
        assert answer.status_code == 200
    await task


async def test_a_login_gives_a_token_that_is_stored_and_used(tmp_path: Path) -> None:
    async with open_protected(tmp_path) as (remote, mcp):
        assert mcp.server.state is McpState.NEEDS_AUTH
        assert mcp.servers.infos()["odd"].state == "needs auth"
        assert [(one.name, one.url) for one in mcp.servers.pending()] == [("odd", remote.url)]
        assert remote.clients == {}, "a client is registered only for a login"
        refused = await mcp.bench.call("list_mcp_resources", mcp_name="odd")
        assert "no such tool" in refused.content
        await log_in(remote, mcp)
        assert mcp.states() == ["starting", "needs auth", "starting", "connected"]
        assert mcp.servers.pending() == []
        assert mcp.server.login_url == ""
        assert mcp.servers.busy == 0
        ((name, token),) = mcp.saved
        assert (name, token.resource, token.client.client_id) == ("odd", remote.url, "client-0")
        assert token.client.token_url == f"{remote.origin}/token"
        assert {token.access_token, token.refresh_token} <= mcp.secrets
        assert (await mcp.call("whoami")).content == "somebody"
        assert repr(token.access_token) not in repr(mcp.events)


async def test_a_stored_token_is_renewed_when_it_has_expired_or_is_refused(tmp_path: Path) -> None:
    old = OAuthToken(access_token="access-old", refresh_token="renewal-old", expires_at=1)
    async with open_protected(tmp_path, token=old) as (remote, mcp):
        assert remote.seen == ["refresh_token"]
        assert mcp.server.state is McpState.NEEDS_AUTH, "the token server does not know the refresh token"
        remote.renewals.add("renewal-old")
        mcp.server.start()
        await mcp.servers.settled()
        assert mcp.server.state is McpState.CONNECTED
        assert [name for name, _ in mcp.saved] == ["odd"]
        remote.access.clear()  # revoked before it expired
        assert (await mcp.call("whoami")).content == "somebody"
        assert len(mcp.saved) == 2
        assert remote.seen == ["refresh_token"] * 3


async def test_a_token_server_that_fails_is_an_error_and_requires_no_new_login(tmp_path: Path) -> None:
    old = OAuthToken(access_token="access-old", refresh_token="renewal-old", expires_at=1)
    async with open_protected(tmp_path, token=old) as (remote, mcp):
        remote.renewal_status = 503
        mcp.server.start()
        await mcp.servers.settled()
        assert mcp.server.state is McpState.ERROR
        assert "cannot be renewed: HTTP 503" in mcp.server.error


async def test_a_token_is_not_sent_to_another_address(tmp_path: Path) -> None:
    stolen = OAuthToken(access_token="access-old", resource="http://127.0.0.1:1/mcp")
    async with open_protected(tmp_path, token=stolen) as (remote, mcp):
        assert "access-old" in remote.access
        assert mcp.server.state is McpState.NEEDS_AUTH


async def test_a_login_ends_on_timeout_or_cancel_and_only_one_runs_at_a_time(tmp_path: Path) -> None:
    async with open_protected(tmp_path, limits=SHORT_LOGIN) as (remote, mcp):
        with pytest.raises(McpFailed, match="authorization cancelled: no login within"):
            await mcp.server.log_in()
        assert mcp.server.login_url == ""
        first = asyncio.ensure_future(mcp.server.log_in())
        await eventually(lambda: mcp.server.login_url, what="the login URL")
        with pytest.raises(Conflict, match="already under way"):
            await mcp.server.log_in()
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        assert (mcp.server.login_url, mcp.servers.busy) == ("", 0)
        remote.wants_login = False
        await mcp.server.log_in()
        assert mcp.server.state is McpState.CONNECTED


async def test_a_login_refused_by_the_user_fails(tmp_path: Path) -> None:
    async with open_protected(tmp_path) as (remote, mcp):
        task = asyncio.ensure_future(mcp.server.log_in())
        await eventually(lambda: mcp.server.login_url, what="the login URL")
        home = remote.visit(mcp.server.login_url)
        async with httpx2.AsyncClient() as browser:
            assert (await browser.get(home.partition("/callback")[0])).status_code == 404
            assert (await browser.get(home.replace("code=", "error=access_denied&was="))).status_code == 200
        with pytest.raises(McpFailed, match="the login was refused: access_denied"):
            await task
        assert mcp.server.state is McpState.NEEDS_AUTH


async def test_without_oauth_a_401_names_the_setting_to_change(tmp_path: Path) -> None:
    async with open_protected(tmp_path, oauth=False) as (_, mcp):
        assert mcp.server.state is McpState.ERROR
        assert "HTTP 401" in mcp.server.error
        assert "set oauth for a login" in mcp.server.error
        with pytest.raises(Conflict, match=r"set mcp\.odd\.url and mcp\.odd\.oauth"):
            await mcp.server.log_in()


async def test_a_login_at_a_disabled_server_is_refused(tmp_path: Path) -> None:
    async with open_protected(tmp_path) as (_, mcp):
        mcp.server.settings = replace(mcp.server.settings, disabled=True)
        with pytest.raises(Conflict, match="it is disabled"):
            await mcp.server.log_in()


def test_a_token_is_stored_in_the_users_file_and_adds_no_server_to_other_projects(tmp_path: Path) -> None:
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

    settings, published = configured({"url": "https://docs.example/mcp", "oauth": True})
    assert settings.oauth_token == token
    assert published["docs"]["type"] == "http"  # type: ignore[index]
    settings, published = configured(None)
    assert published == {}
