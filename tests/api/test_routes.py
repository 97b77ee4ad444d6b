"""Test every route over HTTP: response shapes that the strict client decodes, and the error statuses."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import api_shapes
from tests.support.clients.http_client import Client, head
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

pytestmark = pytest.mark.house(neighbour=False)

UNKNOWN = "00000000-0000-4000-8000-000000000000"
MODEL = {"model": "script", "provider": "builtin"}

EMPTY = (
    ("GET", "/lsps", None, b"{}"),
    ("POST", "/lsps/start", {"path": "a.py"}, b""),
    ("POST", "/lsps/stop", None, b""),
    ("GET", "/mcp/states", None, b"{}"),
    ("GET", "/mcp/prompts", None, b"[]"),
    ("GET", "/mcp/pending-auth", None, b"[]"),
    ("GET", "/mcp/auth-url?name=x", None, b"{}"),
    ("POST", "/mcp/refresh-tools", {"name": "x"}, b""),
    ("POST", "/mcp/refresh-prompts", {"name": "x"}, b""),
    ("POST", "/mcp/refresh-resources", {"name": "x"}, b""),
    ("POST", "/config/import-copilot", None, b'{"token":null,"success":false}'),
    ("POST", "/questions/cancel", None, b'{"resolved":false}'),
    ("POST", "/questions/answer", {"batch_request_id": "", "responses": None}, b'{"resolved":false}'),
    (
        "POST",
        "/questions/answer",
        {"batch_request_id": "", "responses": [{"request_id": "q", "yes": True, "notes": {"_question": "n"}}]},
        b'{"resolved":false}',
    ),
    (
        "POST",
        "/permissions/grant",
        {"permission": {"id": "p", "params": {"command": "ls"}}, "action": "allow_session"},
        b'{"resolved":false}',
    ),
    (
        "POST",
        "/permissions/grant",
        {"permission": {"id": "p", "params": None}, "action": "deny"},
        b'{"resolved":false}',
    ),
)
"""Method, path, request body and response body of routes whose services have nothing to show yet."""

MISSING = (
    ("GET", "/lsps/gopls/diagnostics", None),
    ("POST", "/skills/read", {"skill_id": "x"}),
    ("POST", "/mcp/get-prompt", {"client_id": "x", "prompt_id": "y", "args": {"a": "b"}}),
    ("POST", "/mcp/read-resource", {"name": "x", "uri": "file:///y"}),
    ("POST", "/mcp/auth", {"name": "x"}),
)

WITH_BODY = (
    ("PUT", "/sessions/s"),
    ("POST", "/sessions"),
    ("POST", "/filetracker/read"),
    ("POST", "/agent"),
    ("POST", "/agent/sessions/s/shell"),
    ("POST", "/permissions/skip"),
    ("POST", "/permissions/grant"),
    ("POST", "/questions/answer"),
    ("POST", "/config/set"),
    ("POST", "/config/remove"),
    ("POST", "/config/model"),
    ("POST", "/config/compact"),
    ("POST", "/config/provider-key"),
    ("POST", "/config/refresh-oauth"),
    ("POST", "/lsps/start"),
    ("POST", "/skills/read"),
    ("POST", "/mcp/get-prompt"),
    ("POST", "/mcp/read-resource"),
    ("POST", "/mcp/refresh-tools"),
    ("POST", "/mcp/refresh-prompts"),
    ("POST", "/mcp/refresh-resources"),
    ("POST", "/mcp/auth"),
)
"""The routes of a workspace that need a request body."""

BAD = (
    ("POST", "/permissions/grant", {"permission": {"id": "p"}, "action": "perhaps"}),
    ("POST", "/config/provider-key", {"scope": 0, "provider_id": "p", "kind": "magic", "api_key": "k"}),
    ("POST", "/config/provider-key", {"scope": 0, "provider_id": "p", "kind": "string", "api_key": {"a": 1}}),
    ("POST", "/config/provider-key", {"scope": 0, "provider_id": "p", "kind": "oauth", "api_key": "text"}),
    (
        "POST",
        "/config/provider-key",
        {"scope": 0, "provider_id": "p", "kind": "oauth", "api_key": {"access_token": ""}},
    ),
    ("POST", "/config/provider-key", {"scope": 0, "provider_id": "", "kind": "string", "api_key": "k"}),
    ("POST", "/config/refresh-oauth", {"scope": 0, "provider_id": "builtin"}),
    ("POST", "/config/model", {"scope": 0, "model_type": "huge", "model": MODEL}),
    ("POST", "/config/model", {"scope": 0, "model_type": "large", "model": {"model": "m", "provider": "unknown"}}),
    ("POST", "/config/set", {"scope": 0, "key": "", "value": 1}),
    ("POST", "/config/set", {"scope": 0, "key": "a..b", "value": 1}),
    ("POST", "/config/set", {"scope": 0.5, "key": "a", "value": 1}),
    ("POST", "/config/set", {"scope": 0, "key": "a"}),
    ("GET", "/mcp/auth-url", None),
    ("POST", "/agent", {"session_id": "s", "prompt": ""}),
    ("POST", "/agent", {"session_id": "", "prompt": "hello"}),
    ("POST", "/agent/sessions/s/shell", {"command": ""}),
    ("POST", "/current-session", {"session_id": ""}),
    ("POST", "/current-session?client_id=unknown", {"session_id": ""}),
    ("GET", "/events?client_id=unknown", None),
    ("DELETE", "?client_id=unknown", None),
)


async def test_routes_without_content_answer_with_an_empty_value(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for method, path, body, expected in EMPTY:
        answer = (await ask(workspace, method, path, body)).expect(200)
        assert answer.body == expected, (path, answer.body)
    for method, path, body in MISSING:
        assert (await ask(workspace, method, path, body)).expect(404).code == "not_found", path


async def test_bad_requests_are_400_and_say_why(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for method, path in WITH_BODY:
        for raw in (b"", b"{", b"[]", b'"\xff"'):
            answer = await workspace.client.request(method, f"/v1/workspaces/{workspace.id}{path}", raw=raw)
            assert answer.expect(400).code == "bad_input", (path, raw, answer.body)
    for method, path, body in BAD:
        answer = await ask(workspace, method, path, body)
        assert answer.status == 400, (path, body, answer)
        assert answer.code in ("bad_input", "empty_prompt", "session_missing"), (path, answer.body)
    client = workspace.client
    for body in (
        {"client_id": client.client_id},
        {"path": str(workspace.path)},
        {"path": str(workspace.path), "client_id": "x"},
    ):
        (await client.post("/v1/workspaces", body)).expect(400)
    (await client.post("/v1/workspaces", raw=b"{")).expect(400)
    (await client.post("/v1/control", {"command": "dance"})).expect(400)
    (await client.request("DELETE", "/v1/clients/unknown")).expect(400)
    assert await paths_below(house.root / "h") == []


async def test_an_unknown_workspace_is_404_on_every_route_except_release(house: ServerHarness) -> None:
    from supervisor.http.routes import ROUTES

    client = house.new_client()
    for route in ROUTES:
        if "{id}" not in route.path:
            continue
        path = route.path.replace("{id}", UNKNOWN).replace("{sid}", "s").replace("{lsp}", "l").replace("{run}", "r")
        body = b'{"session_id":""}' if route.method != "GET" else b""
        answer = await client.request(route.method, f"{path}?client_id={client.client_id}", raw=body)
        if (route.method, route.path) == ("DELETE", "/v1/workspaces/{id}"):
            answer.expect(200)
        else:
            assert answer.status == 404, (route, answer)
            assert answer.code == "workspace_unknown", (route, answer.body)


async def test_conflicts_are_409(house: ServerHarness) -> None:
    workspace = await house.workspace()
    other = house.new_client()
    view = f"/v1/workspaces/{workspace.id}/current-session?client_id={other.client_id}"
    assert (await other.post(view, {"session_id": workspace.session})).expect(409).code == "not_attached"
    assert (await other.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409).code == "not_idle"
    (await other.request("DELETE", f"/v1/clients/{other.client_id}")).expect(200)
    body = {"path": str(workspace.path), "client_id": other.client_id}
    assert (await other.post("/v1/workspaces", body)).expect(409).code == "client_retired"


async def test_a_prompt_is_refused_while_the_configuration_is_broken(house: ServerHarness) -> None:
    path = house.directory("broken", "script")
    (path / "bulkhead.json").write_text("{")
    client = house.new_client()
    workspace = (await client.create(path))["id"]
    session = await client.create_session(workspace)
    assert (await client.agent(workspace))["is_ready"] is False
    body = {"session_id": session, "prompt": "hello"}
    refused = (await client.post(f"/v1/workspaces/{workspace}/agent", body)).expect(400)
    assert refused.code == "agent_not_ready"
    assert b"bulkhead.json" in refused.body
    changed = await client.post(f"/v1/workspaces/{workspace}/config/set", {"scope": 1, "key": "a", "value": 1})
    assert changed.expect(400).code == "bad_input"


async def test_an_unknown_session_is_an_error_or_an_empty_list(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for path in ("/sessions/none", "/agent/sessions/none"):
        assert (await ask(workspace, "GET", path)).expect(404).code == "session_unknown"
    for path in ("/history", "/messages", "/messages/user", "/filetracker/files"):
        assert (await ask(workspace, "GET", f"/sessions/none{path}")).expect(200).json() == []
    assert (await ask(workspace, "GET", "/agent/sessions/none/prompts/queued")).expect(200).body == b"0"
    assert (await ask(workspace, "GET", "/agent/sessions/none/prompts/list")).expect(200).json() == []
    for path in ("cancel", "prompts/clear"):
        assert (await ask(workspace, "POST", f"/agent/sessions/none/{path}")).expect(200).body == b""


# --- configuration ------------------------------------------------------------------------------------------------


async def test_configuration_changes_are_written_applied_and_announced(house: ServerHarness) -> None:
    workspace = await house.workspace()
    plain = await house.watch(workspace.id, name="plain", ids=False)
    state_file = house.root / "h" / ".local" / "share" / "bulkhead" / "bulkhead.json"
    own_file = workspace.data_dir / "bulkhead.json"
    await change_config(workspace, "set", scope=0, key="options.notifications", value="bell")
    await change_config(workspace, "set", scope=1, key="options.tui.transparent", value=None)
    await change_config(workspace, "compact", scope=1, enabled=True)
    await change_config(workspace, "model", scope=0, model_type="large", model=MODEL | {"max_tokens": 100})
    await change_config(workspace, "model", scope=0, model_type="large", model=MODEL)
    assert json.loads(state_file.read_text()) == {
        "options": {"notifications": "bell"},
        "models": {"large": MODEL},
        "recent_models": {"large": [MODEL]},
    }
    assert own_file.read_text().startswith('{\n  "options": {\n    "tui": {')
    for path in (state_file, own_file):
        assert path.stat().st_mode & 0o777 == 0o600
    config = await read_config(workspace)
    assert config["recent_models"] == {"large": [MODEL]}
    assert config["options"]["notifications"] == "bell"
    assert config["options"]["tui"]["compact_mode"] is True
    assert config["models"]["large"] == MODEL
    await change_config(workspace, "remove", scope=0, key="options.notifications")
    await change_config(workspace, "remove", scope=0, key="options.notifications")
    assert "notifications" not in (await read_config(workspace))["options"]
    for watcher in (workspace.watcher, plain):
        await watcher.wait(
            lambda _, w=watcher: sum(event.kind == "config_changed" for event in w.seen) == 7, what="seven changes"
        )
    events = [event for event in workspace.watcher.seen if event.kind == "config_changed"]
    assert all(event.payload == {"workspace_id": workspace.id} for event in events)


async def test_a_provider_key_is_stored_adds_the_provider_and_is_shown_masked(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await change_config(
        workspace, "provider-key", scope=0, provider_id="groq", kind="string", api_key="gsk-very-secret"
    )
    config = await read_config(workspace)
    assert config["providers"]["groq"]["api_key"] == "***"
    await change_config(
        workspace, "model", scope=1, model_type="large", model={"model": "qwen/qwen3-32b", "provider": "groq"}
    )
    info = await workspace.client.agent(workspace.id)
    assert info["model"]["id"] == "qwen/qwen3-32b"
    token = {"access_token": "a$b", "refresh_token": "r-token", "expires_in": 60, "expires_at": 1}
    await change_config(workspace, "provider-key", scope=0, provider_id="groq", kind="oauth", api_key=token)
    shown = (await read_config(workspace))["providers"]["groq"]
    assert shown["oauth"] == token | {"access_token": "***", "refresh_token": "***"}
    refused = await ask(workspace, "POST", "/config/refresh-oauth", {"scope": 0, "provider_id": "groq"})
    assert b"log in again" in refused.expect(400).body
    for key in ("api_key", "oauth"):
        await change_config(workspace, "remove", scope=0, key=f"providers.groq.{key}")
    assert "groq" not in (await read_config(workspace))["providers"]
    assert "gsk-very-secret" not in house.server.log


async def test_a_model_chosen_by_the_user_wins_over_the_project_file(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    assert (await workspace.client.agent(workspace.id))["model_cfg"]["provider"] != "builtin"
    await change_config(workspace, "model", scope=0, model_type="large", model=MODEL)
    assert (await workspace.client.agent(workspace.id))["model_cfg"] == MODEL
    (await ask(workspace, "POST", "/agent/update")).expect(200)
    assert (await workspace.client.agent(workspace.id))["model_cfg"] == MODEL
    await change_config(workspace, "remove", scope=0, key="models.large")
    assert (await workspace.client.agent(workspace.id))["model_cfg"]["provider"] != "builtin"


async def test_an_invalid_change_changes_nothing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await change_config(workspace, "compact", scope=1, enabled=True)
    before = (workspace.data_dir / "bulkhead.json").read_bytes()
    seen = len(workspace.watcher.seen)
    for body in (
        {"scope": 1, "key": "options.context_paths", "value": 5},
        {"scope": 1, "key": "options.tui.compact_mode.deep", "value": 1},
    ):
        (await ask(workspace, "POST", "/config/set", body)).expect(400)
    assert (workspace.data_dir / "bulkhead.json").read_bytes() == before
    assert not any(event.kind == "config_changed" for event in workspace.watcher.seen[seen:])
    await workspace.works()


async def test_a_change_does_not_reach_a_running_turn(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    await change_config(workspace, "model", scope=0, model_type="large", model=MODEL)
    await call.reply(" three")
    assert (await workspace.ended(run))["text"].endswith("three")
    assert (await workspace.last_assistant())["provider"] != "builtin"
    run = await workspace.prompt("/say other")
    assert (await workspace.ended(run))["text"] == "other"


async def test_docker_mcp_is_enabled_in_the_configuration_of_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (await ask(workspace, "POST", "/mcp/docker/enable")).expect(200)
    assert (await read_config(workspace))["mcp"]["docker"]["type"] == "stdio"
    assert "docker" in json.loads((workspace.data_dir / "bulkhead.json").read_text())["mcp"]
    (await ask(workspace, "POST", "/mcp/docker/disable")).expect(200)
    assert "docker" not in (await read_config(workspace)).get("mcp", {})


async def test_a_project_is_offered_its_context_file_once(house: ServerHarness) -> None:
    workspace = await house.workspace()

    async def needs() -> bool:
        return bool((await ask(workspace, "GET", "/project/needs-init")).expect(200).json()["needs_init"])

    assert not await needs(), "an empty directory needs no context file"
    (workspace.path / "main.py").write_text("")
    assert await needs()
    (workspace.path / "Agents.md").write_text("")
    assert not await needs()
    (workspace.path / "Agents.md").unlink()
    assert await needs()
    (await ask(workspace, "POST", "/project/init")).expect(200)
    assert not await needs()
    assert "AGENTS.md" in (await ask(workspace, "GET", "/project/init-prompt")).expect(200).json()["prompt"]


# --- the shell ----------------------------------------------------------------------------------------------------


async def test_a_shell_command_is_answered_stored_and_announced(house: ServerHarness) -> None:
    workspace = await house.workspace(env=["MINE=yes", "BULKHEAD_X=no", "strange", "=x", "NUL=\0"])
    command = 'echo "$MINE$BULKHEAD_X $FORCE_COLOR $COLUMNS"; pwd; echo wrong >&2; exit 3'
    path = f"/agent/sessions/{workspace.session}/shell"
    result = (await ask(workspace, "POST", path, {"command": command, "term_width": 70})).expect(200).json()
    assert result == {"output": f"yes 1 70\n{workspace.path}\nwrong", "exit_code": 3}
    (message,) = await workspace.messages()
    assert message["role"] == "user"
    assert message["parts"][0] == {"type": "shell_command", "data": {"command": command, **result}}
    assert message["parts"][1]["data"] == {"reason": "stop", "time": 0}
    await workspace.watcher.wait(lambda e: e.kind == "message" and e.payload["id"] == message["id"], what="the message")
    unknown = (await ask(workspace, "POST", "/agent/sessions/none/shell", {"command": "echo hi"})).expect(200).json()
    assert unknown == {"output": "hi", "exit_code": 0}
    assert len((await ask(workspace, "GET", "/messages/user")).json()) == 1
    long = {"command": f"echo {'x' * 200_000}"}
    assert (await ask(workspace, "POST", path, long)).expect(413).code == "too_large"
    killed = (await ask(workspace, "POST", path, {"command": "kill -9 $$"})).expect(200).json()
    assert killed["exit_code"] == 137
    await workspace.works()


async def test_a_shell_command_ends_when_its_client_disconnects(house: ServerHarness) -> None:
    workspace = await house.workspace()
    pipe = house.pipe()
    body = json.dumps({"command": f"echo $$ > {pipe.path}; sleep 100"}).encode()
    reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
    path = f"/v1/workspaces/{workspace.id}/agent/sessions/{workspace.session}/shell"
    writer.write(head("POST", path, {"Content-Length": str(len(body))}) + body)
    child = house.hold(int(await pipe.line()))
    writer.close()
    await child.gone()
    assert await reader.read() == b""
    assert await workspace.messages() == []
    await workspace.works()


# --- current sessions and permissions -----------------------------------------------------------------------------


async def test_sessions_show_how_many_clients_view_them(house: ServerHarness) -> None:
    workspace = await house.workspace()
    second = await house.watch(workspace.id, name="second")
    other = await workspace.client.create_session(workspace.id, "other")
    for client in (workspace.client, second.client):
        await view_session(client, workspace, workspace.session)
    assert await attached_clients(workspace) == {workspace.session: 2, other: 0}
    await view_session(second.client, workspace, other)
    assert await attached_clients(workspace) == {workspace.session: 1, other: 1}
    put = {"id": other, "title": "renamed"}
    answer = (await ask(workspace, "PUT", f"/sessions/{other}", put)).expect(200).json()
    assert (answer["title"], answer["attached_clients"]) == ("renamed", 1)
    await second.close()

    async def left() -> bool:
        return (await attached_clients(workspace))[other] == 0

    await eventually(left, what="the end of the second client")
    await view_session(workspace.client, workspace, "")
    assert await attached_clients(workspace) == {workspace.session: 0, other: 0}


async def test_skip_permissions_can_be_set_and_read(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    assert (await ask(workspace, "GET", "/permissions/skip")).expect(200).json() == {"skip": True}
    (await ask(workspace, "POST", "/permissions/skip", {"skip": False})).expect(200)
    assert (await ask(workspace, "GET", "/permissions/skip")).expect(200).json() == {"skip": False}
    created = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(200).json()
    api_shapes.WORKSPACE(created, "workspace")
    assert created["yolo"] is True


# --- helpers ------------------------------------------------------------------------------------------------------


async def ask(workspace: WorkspaceFixture, method: str, path: str, body: object = None) -> Any:
    return await workspace.client.request(method, f"/v1/workspaces/{workspace.id}{path}", body)


async def change_config(workspace: WorkspaceFixture, what: str, **body: object) -> None:
    answer = (await ask(workspace, "POST", f"/config/{what}", body)).expect(200)
    assert answer.body == b""


async def read_config(workspace: WorkspaceFixture) -> dict[str, Any]:
    config: dict[str, Any] = (await ask(workspace, "GET", "/config")).expect(200).json()
    api_shapes.CONFIG(config, "config")
    return config


async def view_session(client: Client, workspace: WorkspaceFixture, session: str) -> None:
    path = f"/v1/workspaces/{workspace.id}/current-session?client_id={client.client_id}"
    (await client.post(path, {"session_id": session})).expect(200)


async def attached_clients(workspace: WorkspaceFixture) -> dict[str, int]:
    sessions = (await ask(workspace, "GET", "/sessions")).expect(200).json()
    api_shapes.list_of(api_shapes.SESSION)(sessions, "sessions")
    for session in sessions:
        assert await workspace.client.session(workspace.id, session["id"]) == session
    return {session["id"]: session["attached_clients"] for session in sessions}


async def paths_below(directory: Path) -> list[str]:
    return [name for _, _, names in os.walk(directory) for name in names]
