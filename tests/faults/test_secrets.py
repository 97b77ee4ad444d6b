"""Check that keys, tokens and private texts appear nowhere but where they are needed (X08)."""

import asyncio
import json
import signal
import stat
from typing import Any

import pytest

from tests.support.checks.secret_scan import SecretScan
from tests.support.clients.http_client import head, read_head
from tests.support.clients.raw_requests import port_of, say, token_of
from tests.support.eventually import eventually
from tests.support.fakes.scripted_provider import API_KEY
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

IN_ENVIRONMENT = "canary-environment-0123456789abcdef"
OF_THE_CLIENT = "canary-of-the-client-0123456789abcdef"
IN_PROMPT = "canary-prompt-0123456789abcdef"
IN_OUTPUT = "canary-output-0123456789abcdef"
IN_HEADER = "canary-header-0123456789abcdef"
IN_ARGUMENT = "canary-argument-0123456789abcdef"
ONE_ATTEMPT = {"model_retries_max": 0}
ENVIRONMENT = {"CANARY_API_KEY": IN_ENVIRONMENT, "CANARY_URL_KEY": IN_ARGUMENT}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [401, 400, 503])
@pytest.mark.house(limits=ONE_ATTEMPT)
async def test_X08_a_key_that_the_provider_echoes_is_masked(house: ServerHarness, status: int, dialect: str) -> None:
    workspace, other = await house.workspace(model=dialect), await house.workspace("other")
    run = await workspace.prompt("hello")
    call = await house.provider.next_call()
    assert API_KEY in str(call.headers), "the provider must get the key"
    await call.refuse(status, message=f"Incorrect API key provided: {API_KEY}.", code=API_KEY)
    ended = await workspace.ended(run)
    assert "***" in ended["error"], ended
    scan = SecretScan(house, API_KEY)
    assert await scan.places(own=workspace.id, others=[other.id]) == []
    for watcher in (workspace.watcher, other.watcher):
        assert scan.in_events(event.data for event in watcher.seen) == []
    assert API_KEY not in json.dumps(await workspace.messages())
    assert API_KEY not in json.dumps(await workspace.run(run))
    assert API_KEY not in database(workspace)


@pytest.mark.house(limits=ONE_ATTEMPT)
async def test_X08_a_key_that_the_provider_echoes_in_its_stream_is_masked(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("some ")
    await call.garbage(b'data: {"error": {"message": "bad key ' + API_KEY.encode() + b'", "code": 401}}\n\n')
    await call.cut()
    assert (await workspace.ended(run))["error"]
    scan = SecretScan(house, API_KEY)
    assert await scan.places(own=workspace.id) == []
    assert scan.in_events(event.data for event in workspace.watcher.seen) == []
    assert API_KEY not in database(workspace)


@pytest.mark.house(env=ENVIRONMENT)
async def test_X08_secrets_of_the_environment_a_prompt_or_an_output_do_not_leak(house: ServerHarness) -> None:
    client = house.new_client()
    entries = ["PATH=/usr/bin:/bin", f"OF_CLIENT_TOKEN={OF_THE_CLIENT}", "PLAIN=seen"]
    workspace, other = await house.workspace(env=entries, yolo=True), await house.workspace("other")
    for prompt in (
        "/tool bash " + json.dumps({"description": "print all", "command": f"env; echo {IN_OUTPUT}"}),
        f"/say {IN_PROMPT}",
        f"/fail {IN_PROMPT}",
    ):
        await workspace.ended(await workspace.prompt(prompt))
    assert IN_OUTPUT in json.dumps(await workspace.messages()), "the tool ran"
    assert IN_ENVIRONMENT not in json.dumps(await workspace.messages()), "a tool printed the server's key"
    assert await SecretScan(house, IN_ENVIRONMENT, OF_THE_CLIENT).places(own=workspace.id, others=[other.id]) == []
    assert await SecretScan(house, IN_PROMPT, IN_OUTPUT).places(others=[other.id]) == []
    scan = SecretScan(house, IN_ENVIRONMENT, OF_THE_CLIENT, IN_PROMPT, IN_OUTPUT)
    assert scan.in_events(event.data for event in other.watcher.seen) == []
    [shown] = [row for row in (await client.get("/v1/workspaces")).json() if row["id"] == workspace.id]
    assert shown["env"] == ["PATH=/usr/bin:/bin", "OF_CLIENT_TOKEN=***", "PLAIN=seen"]


async def test_X08_a_shell_gets_the_secret_of_its_client_and_never_the_mask(
    house: ServerHarness,
) -> None:
    workspace = await house.workspace(env=["PATH=/usr/bin:/bin", f"OF_CLIENT_TOKEN={OF_THE_CLIENT}"])
    shell = f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/shell"
    command = {"command": "echo ${OF_CLIENT_TOKEN-none}"}
    assert (await workspace.client.post(shell, command)).expect(200).json()["output"] == OF_THE_CLIENT
    shown = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).json()
    path = f"/v1/workspaces/{workspace.id}/registration"
    (await workspace.client.request("DELETE", path)).expect(200)
    again = await workspace.client.create(
        workspace.path, env=shown["env"]
    )  # as the Crush client does when its workspace is unknown
    session = await workspace.client.create_session(again["id"])
    shell = f"/v1/workspaces/{again['id']}/agent/sessions/{session}/shell"
    assert (await workspace.client.post(shell, command)).expect(200).json()["output"] == "none"


@pytest.mark.house(env=ENVIRONMENT, limits=ONE_ATTEMPT)
async def test_X08_a_key_that_a_template_takes_from_the_environment_is_masked(house: ServerHarness) -> None:
    path = house.directory("w", "openai")
    config = house.provider.config()
    config["providers"]["loop"] |= {"api_key": "$CANARY_API_KEY", "extra_headers": {"X-More": "$CANARY_URL_KEY"}}
    (path / "bulkhead.json").write_text(json.dumps(config))
    client = house.new_client()
    workspace = (await client.create(path))["id"]
    watcher = await house.watch(workspace, name="w", client=client)
    run = await client.prompt(workspace, await client.create_session(workspace), "hello")
    call = await house.provider.next_call()
    assert call.headers["authorization"] == f"Bearer {IN_ENVIRONMENT}"
    await call.refuse(401, message=f"{IN_ENVIRONMENT} is wrong, and {IN_ARGUMENT} too")
    assert (await watcher.ended(run))["error"]
    scan = SecretScan(house, IN_ENVIRONMENT, IN_ARGUMENT)
    assert await scan.places(own=workspace, others=[house.neighbour.workspace]) == []
    assert scan.in_events(event.data for event in watcher.seen) == []


@pytest.mark.house(env=ENVIRONMENT)
async def test_X08_an_exception_and_a_stack_dump_contain_no_secret(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    house.failpoints.arm("run.before_start", "raise", workspace=workspace.id)
    failed = await workspace.ended(await workspace.prompt(IN_PROMPT))
    assert "see the log under" in failed["error"]
    house.failpoints.arm("prompt.before_commit", "raise", workspace=workspace.id)
    refused = (await workspace.client.submit(workspace.id, workspace.session, IN_PROMPT)).expect(500)
    assert b"FailpointRaised" not in refused.body, "the exception must be in the log only"
    log = house.server.runtime_dir / "workers" / f"{workspace.id}.log"
    assert "FailpointRaised" in log.read_text(), "no exception was logged: the test would prove nothing"
    run, call = await workspace.streaming("one ")
    (await workspace.worker()).send(signal.SIGUSR1)
    await eventually(lambda: "(most recent call first)" in log.read_text(), what="a dump of the stacks")
    assert await SecretScan(house, API_KEY, IN_ENVIRONMENT, IN_PROMPT).places() == []
    await call.reply("two")
    await workspace.ended(run)


async def test_X08_a_configuration_is_shown_masked_and_still_readable(house: ServerHarness) -> None:
    path = house.directory("w", "openai")
    config: dict[str, Any] = json.loads((path / "bulkhead.json").read_text())
    provider = config["providers"]["loop"]
    provider["extra_headers"] = {"X-Secret": IN_HEADER}
    provider["extra_body"] = {"auth": {"token": IN_HEADER}, "depth": 3}
    config["providers"]["second"] = provider | {"base_url": f"https://me:{IN_ARGUMENT}@models.example/v1"}
    config["mcp"] = {
        "docs": {
            "type": "http",
            "disabled": True,
            "url": f"https://me:{IN_ARGUMENT}@mcp.example/",
            "headers": {"Authorization": f"Bearer {IN_HEADER}"},
            "oauth_client_secret": IN_ARGUMENT,
        },
        "local": {
            "type": "stdio",
            "disabled": True,
            "command": "serve",
            "args": ["--fast", "--key", API_KEY],
            "env": {"MODE": IN_HEADER},
        },
    }
    config["lsp"] = {"one": {"disabled": True, "command": "serve", "env": {"LSP_TOKEN": IN_HEADER}}}
    config["env"] = {"ANY": IN_HEADER}
    (path / "bulkhead.json").write_text(json.dumps(config))
    client = house.new_client()
    workspace = (await client.create(path))["id"]
    scan = SecretScan(house, API_KEY, IN_HEADER, IN_ARGUMENT)
    assert await scan.places(own=workspace) == []
    shown = (await client.get(f"/v1/workspaces/{workspace}/config")).expect(200).json()
    assert shown["providers"]["loop"]["api_key"] == "***"
    assert shown["providers"]["loop"]["base_url"] == provider["base_url"]
    assert shown["providers"]["loop"]["extra_body"] == {"auth": {"token": "***"}, "depth": 3}
    assert shown["providers"]["second"]["base_url"] == "https://***@models.example/v1"
    assert shown["mcp"]["docs"]["headers"] == {"Authorization": "***"}
    assert shown["mcp"]["local"]["args"] == ["--fast", "--key", "***"]
    assert shown["mcp"]["local"]["command"] == "serve"
    assert shown["lsp"]["one"]["env"] == {"LSP_TOKEN": "***"}
    assert shown["env"] == {"ANY": "***"}


async def test_X08_a_key_that_a_client_stores_is_not_shown_again(house: ServerHarness) -> None:
    workspace, other = await house.workspace(model="openai"), await house.workspace("other")
    body = {"provider_id": "loop", "kind": "string", "api_key": OF_THE_CLIENT, "scope": 1}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/provider-key", body)).expect(200)
    await workspace.watcher.wait(lambda event: event.kind == "config_changed", what="config_changed")
    bad = {"key": "providers.loop.models", "value": OF_THE_CLIENT, "scope": 1}
    refused = (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", bad)).expect(400)
    assert OF_THE_CLIENT not in refused.body.decode()
    scan = SecretScan(house, OF_THE_CLIENT)
    assert await scan.places(own=workspace.id, others=[other.id]) == []
    for watcher in (workspace.watcher, other.watcher):
        assert scan.in_events(event.data for event in watcher.seen) == []
    files = [
        path for path in workspace.data_dir.rglob("*") if path.is_file() and OF_THE_CLIENT.encode() in path.read_bytes()
    ]
    assert files, "the key was not stored"
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.house(tcp=True)
async def test_X08_the_token_stays_in_its_file(house: ServerHarness) -> None:
    workspace = await house.workspace()
    port, token = port_of(house), token_of(house)
    file = house.server.runtime_dir / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = f"Host: localhost:{port}\nAuthorization: Bearer {token}"
    for target in (
        "/v1/version",
        f"/v1/nothing?token={token}",
        f"/v1/workspaces/{token}",
        f"/v1/{token}",
        "/v1/workers",
    ):
        for method in ("GET", "POST"):
            await say(port, f"{method} {target} HTTP/1.1\n{lines}", b"{" if method == "POST" else b"")
            await say(port, f"{method} {target} HTTP/1.1\nHost: localhost:{port}")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        head("GET", f"/v1/workspaces/{workspace.id}/events", {"Authorization": f"Bearer {token}"}).replace(
            b"Host: bulkhead", f"Host: localhost:{port}".encode()
        )
    )
    assert (await read_head(reader))[0] == 200
    await workspace.works()
    writer.close()
    assert await SecretScan(house, token).places(own=workspace.id) == []
    records = sorted((house.server.state_dir / "workers").glob("*.json"))
    tokens = {json.loads(path.read_text())["token"] for path in records}
    assert len(tokens) == len(records) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in records} == {0o600}
    for path in records:
        path.rename(path.with_suffix(".aside"))  # the records are the one place where a token may be
    try:
        for place in await SecretScan(house, *tokens).places(own=workspace.id):
            assert place.endswith(".aside"), place
    finally:
        for path in records:
            path.with_suffix(".aside").rename(path)


async def test_X08_the_scan_finds_a_planted_secret(house: ServerHarness) -> None:
    workspace = await house.workspace()
    planted = house.server.runtime_dir / "workers" / "planted.log"
    planted.write_text(f"oops {IN_PROMPT}")
    try:
        assert await SecretScan(house, IN_PROMPT).places() == [f"file {planted}"]
        assert [place for place in await SecretScan(house, str(workspace.path)).places() if place.startswith("cmdline")]
        assert [
            place
            for place in await SecretScan(house, workspace.id).places(own=workspace.id)
            if place.startswith("GET /v1/w")
        ]
    finally:
        planted.unlink()


def database(workspace: WorkspaceFixture) -> str:
    """Return the content of a workspace's database, its write-ahead log included."""
    return "".join(
        path.read_bytes().decode(errors="replace") for path in sorted(workspace.data_dir.glob("workspace.db*"))
    )
