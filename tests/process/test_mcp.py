"""Test real MCP servers with a real agent: over pipes and the network, killed and restarted, and with a login."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import api_shapes
from tests.support.checks.shape_checks import list_of, map_of
from tests.support.eventually import eventually
from tests.support.fakes.mcp_http_server import McpHttpServer
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import descendants, title

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = ROOT / ".cache" / "mcp-servers" / "node_modules" / "@modelcontextprotocol"
EVERYTHING = SERVERS / "server-everything" / "dist" / "index.js"
FILES = SERVERS / "server-filesystem" / "dist" / "index.js"
ODD = ROOT / "tests" / "support" / "fakes" / "mcp_server.py"
NODE = shutil.which("node") or ""
START_S = 30.0

needs_npm = pytest.mark.skipif(
    not (NODE and EVERYTHING.exists() and FILES.exists()),
    reason="the servers of npm are not installed; run `make mcp-servers` (needs node and npm)",
)


async def mcp_workspace(
    house: ServerHarness, servers: dict[str, Any], *, allowed: list[str] | None = None
) -> WorkspaceFixture:
    """Open a workspace with these servers; `allowed` are tools that need no permission, None: all."""
    path = house.directory("w", "script")
    config = {"mcp": servers, "permissions": {"allowed_tools": allowed or []}}
    (path / "bulkhead.json").write_text(json.dumps(config))
    client = house.new_client()
    workspace = await client.create(path, yolo=allowed is None)
    session = await client.create_session(workspace["id"])
    watcher = await house.watch(workspace["id"], name="w", client=client)
    return WorkspaceFixture(house, workspace, session, watcher)


async def ask(workspace: WorkspaceFixture, path: str, body: object = None) -> Any:
    """Call a route of `/mcp`; return its decoded body."""
    url = f"/v1/workspaces/{workspace.id}/mcp/{path}"
    answer = await (workspace.client.get(url) if body is None else workspace.client.post(url, body))
    response = answer.expect(200)
    return response.json() if response.body else None


async def in_state(workspace: WorkspaceFixture, name: str, state: str) -> dict[str, Any]:
    """Wait until the server is in that state; return its row."""

    async def look() -> dict[str, Any] | None:
        states = await ask(workspace, "states")
        map_of(api_shapes.MCP_INFO)(states, "states")
        info: dict[str, Any] = states[name]
        return info if info["state"] == state else None

    row: dict[str, Any] = await eventually(look, timeout_s=START_S, what=f"{name} is {state}")
    return row


async def tool(workspace: WorkspaceFixture, name: str, /, **args: object) -> dict[str, Any]:
    """Run one tool call in a scripted prompt; return its stored result."""
    run = await workspace.prompt(f"/tool {name} {json.dumps(args)}")
    await workspace.ended(run, timeout_s=START_S + 10)
    results = [part for m in await workspace.messages() for part in m["parts"] if part["type"] == "tool_result"]
    result: dict[str, Any] = results[-1]["data"]
    assert result["name"] == name
    return result


def everything(*args: str) -> dict[str, Any]:
    return {"type": "stdio", "command": NODE, "args": [str(EVERYTHING), *args], "timeout": int(START_S)}


def odd(mode: str = "good", **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-S", str(ODD), mode], **more}


def servers_of(worker: int, name: str) -> list[int]:
    return [pid for pid in descendants(worker) if name in title(pid)]


@needs_npm
async def test_a_killed_mcp_server_is_started_again_for_the_next_call(house: ServerHarness) -> None:
    workspace = await mcp_workspace(house, {"everything": everything("stdio")}, allowed=["mcp_everything_echo"])
    worker = await workspace.worker()
    info = await in_state(workspace, "everything", "connected")
    assert info["tool_count"] > 5
    assert info["resource_count"] > 0
    assert not info["connected_at"].startswith("0001")
    await workspace.watcher.wait(
        lambda e: e.kind == "mcp_event" and e.payload["state"] == "connected", what="mcp_event connected"
    )
    echoed = await tool(workspace, "mcp_everything_echo", message="hello")
    assert (echoed["content"], echoed["is_error"]) == ("Echo: hello", False)

    prompts = await ask(workspace, "prompts")
    list_of(api_shapes.MCP_PROMPT)(prompts, "prompts")
    simple = next(prompt for prompt in prompts if not prompt.get("arguments"))
    assert simple["id"] == f"everything:{simple['prompt_id']}"
    prompt = {"client_id": "everything", "prompt_id": simple["prompt_id"], "args": {}}
    assert "prompt" in (await ask(workspace, "get-prompt", prompt))["prompt"]
    unknown = await workspace.client.post(
        f"/v1/workspaces/{workspace.id}/mcp/get-prompt", {"client_id": "everything", "prompt_id": "no", "args": {}}
    )
    assert unknown.expect(502).code == "mcp_failed"
    run = await workspace.prompt('/tool list_mcp_resources {"mcp_name": "everything"}')
    request = await workspace.watcher.wait(lambda e: e.kind == "permission_request", what="a permission request")
    assert (request.payload["action"], request.payload["params"]) == ("list", {"mcp_name": "everything"})
    grant = {"permission": request.payload, "action": "allow"}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/permissions/grant", grant)).expect(200)
    await workspace.ended(run)
    for what in ("tools", "prompts", "resources"):
        assert await ask(workspace, f"refresh-{what}", {"name": "everything"}) is None

    (server,) = servers_of(worker.pid, "server-everything")
    await house.hold(server).kill()
    broken = await in_state(workspace, "everything", "error")
    assert "signal 9" in broken["error"]
    again = await tool(workspace, "mcp_everything_echo", message="again")
    assert again["content"] == "Echo: again"
    assert (await workspace.worker()).pid == worker.pid
    assert worker.is_alive
    await workspace.works()


@needs_npm
@pytest.mark.parametrize("args", [["."], []], ids=["by its directory", "by the roots"])
async def test_a_filesystem_server_works_in_the_directory_of_the_workspace(
    house: ServerHarness, args: list[str]
) -> None:
    servers = {"files": {"command": NODE, "args": [str(FILES), *args], "disabled_tools": ["write_file"]}}
    workspace = await mcp_workspace(house, servers)
    (workspace.path / "hello.txt").write_text("hello from a file\n")
    await in_state(workspace, "files", "connected")
    read = await tool(workspace, "mcp_files_read_text_file", path=str(workspace.path / "hello.txt"))
    assert read["content"] == "hello from a file\n", read
    listed = await tool(workspace, "mcp_files_list_directory", path=str(workspace.path))
    assert "[FILE] hello.txt" in listed["content"]
    outside = await tool(workspace, "mcp_files_read_text_file", path="/etc/hostname")
    assert outside["is_error"]
    disabled = await tool(workspace, "mcp_files_write_file", path=str(workspace.path / "x"), content="x")
    assert "no such tool" in disabled["content"]


@contextmanager
def listening(kind: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run server-everything on a local port."""
    process = subprocess.Popen(
        [NODE, str(EVERYTHING), kind],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@needs_npm
@pytest.mark.parametrize(("kind", "type_", "path"), [("streamableHttp", "http", "/mcp"), ("sse", "sse", "/sse")])
async def test_a_server_on_the_network_may_be_restarted(house: ServerHarness, kind: str, type_: str, path: str) -> None:
    port = free_port()
    servers = {"far": {"type": type_, "url": f"http://127.0.0.1:{port}{path}", "timeout": int(START_S)}}
    with listening(kind, port):
        await eventually(lambda: is_open(port), timeout_s=START_S, what="a listening server")
        workspace = await mcp_workspace(house, servers)
        worker = await workspace.worker()
        await in_state(workspace, "far", "connected")
        assert (await tool(workspace, "mcp_far_echo", message="one"))["content"] == "Echo: one"
    failed = await tool(workspace, "mcp_far_echo", message="unreachable")
    assert failed["is_error"], failed
    with listening(kind, port):
        await eventually(lambda: is_open(port), timeout_s=START_S, what="a listening server again")
        (workspace.path / "bulkhead.json").write_text(json.dumps({"mcp": {"far": {**servers["far"], "timeout": 20}}}))
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/update", {})).expect(200)
        await in_state(workspace, "far", "connected")
        assert (await tool(workspace, "mcp_far_echo", message="two"))["content"] == "Echo: two"
    assert (await workspace.worker()).pid == worker.pid


async def test_servers_that_hang_or_die_do_not_disturb_the_worker(house: ServerHarness) -> None:
    servers = {
        "dies": odd("dies"),
        "garbage": odd("garbage"),
        "mute": odd("mute", timeout=2),
        "off": odd(disabled=True),
    }
    workspace = await mcp_workspace(house, servers)
    worker = await workspace.worker()
    assert (await tool(workspace, "mcp_garbage_echo", a=1))["content"] == '{"a": 1}'
    assert (await in_state(workspace, "mute", "error"))["error"].startswith("it was not connected within 2 s")
    assert "no licence" in (await in_state(workspace, "dies", "error"))["error"]
    await in_state(workspace, "off", "disabled")
    count = len([e for e in workspace.watcher.seen if e.kind == "mcp_event"])
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/update", {})).expect(200)
    died = await tool(workspace, "mcp_garbage_die")
    assert "its process ended with code 7: out of memory" in died["content"]
    events = [e.payload for e in workspace.watcher.seen if e.kind == "mcp_event"][count:]
    assert {event["name"] for event in events} <= {"garbage"}, "an update without changes caused events"
    assert (await tool(workspace, "mcp_garbage_echo"))["content"] == "{}"
    assert (await workspace.worker()).pid == worker.pid
    await workspace.works()


async def test_a_login_stores_a_token_that_the_next_worker_uses(house: ServerHarness) -> None:
    remote = McpHttpServer()
    try:
        workspace = await mcp_workspace(house, {"docs": {"type": "http", "url": remote.url, "oauth": True}})
        await in_state(workspace, "docs", "needs auth")
        assert await ask(workspace, "pending-auth") == [{"name": "docs", "url": remote.url}]
        assert await ask(workspace, "auth-url?name=docs") == {}
        login = asyncio.ensure_future(ask(workspace, "auth", {"name": "docs"}))

        async def login_url() -> str:
            value: str = (await ask(workspace, "auth-url?name=docs")).get("auth_url", "")
            return value

        url = await eventually(login_url, what="an address for the browser")
        second_login = await workspace.client.post(f"/v1/workspaces/{workspace.id}/mcp/auth", {"name": "docs"})
        assert second_login.expect(409).code == "busy"
        await _open_url(remote.visit(url))
        assert await login == {}
        await in_state(workspace, "docs", "connected")
        assert await ask(workspace, "pending-auth") == []
        worker = await workspace.worker()
        seen = len(workspace.watcher.seen)
        await worker.kill()
        await workspace.watcher.state("ready", skip=seen)
        assert (await tool(workspace, "mcp_docs_whoami"))["content"] == "somebody"
        assert remote.seen == ["authorization_code"], "the stored token was not used"
        created = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(200).body.decode()
        assert not [token for token in remote.access | remote.renewals if token in created]
    finally:
        await remote.close()


async def _open_url(url: str) -> None:
    host, _, rest = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.partition(":")[2]))
    writer.write(f"GET /{rest} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    writer.close()


@pytest.mark.house(
    limits={"evict_idle_s": 0.5, "evict_attached_idle_s": 0.5, "create_grace_s": 0.2, "detach_grace_s": 0.1}
)
async def test_a_server_does_not_keep_a_worker_awake_and_ends_with_it(house: ServerHarness) -> None:
    workspace = await mcp_workspace(house, {"odd": odd("stays")})
    worker = await workspace.worker()
    await in_state(workspace, "odd", "connected")
    servers = [house.hold(pid) for pid in servers_of(worker.pid, ODD.name)]
    assert servers
    await workspace.watcher.close()
    await worker.gone(20.0)
    for server in servers:
        await server.gone()


def test_the_zygote_does_not_load_the_mcp_library() -> None:
    program = (
        "import sys, importlib\n"
        "from worker.zygote.preload import MODULES\n"
        "for name in MODULES: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('mcp', 'mcp_types', 'starlette')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]", done.stdout
