"""Every route over the wire: shapes that the strict client decodes, and every status of http-api 2.1."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import api_shapes
from tests.support.clients.http_client import Client, head
from tests.support.eventually import eventually
from tests.support.harness.server_harness import House, Room

pytestmark = pytest.mark.house(bystander=False)

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
"""What is answered while the services behind it do not exist, with what is sent."""

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
"""The routes below a workspace that need a body."""

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
    ("POST", "/config/model", {"scope": 0, "model_type": "large", "model": {"model": "m", "provider": "nobody"}}),
    ("POST", "/config/set", {"scope": 0, "key": "", "value": 1}),
    ("POST", "/config/set", {"scope": 0, "key": "a..b", "value": 1}),
    ("POST", "/config/set", {"scope": 0.5, "key": "a", "value": 1}),
    ("POST", "/config/set", {"scope": 0, "key": "a"}),
    ("GET", "/mcp/auth-url", None),
    ("POST", "/agent", {"session_id": "s", "prompt": ""}),
    ("POST", "/agent", {"session_id": "", "prompt": "hello"}),
    ("POST", "/agent/sessions/s/shell", {"command": ""}),
    ("POST", "/current-session", {"session_id": ""}),
    ("POST", "/current-session?client_id=nobody", {"session_id": ""}),
    ("GET", "/events?client_id=nobody", None),
    ("DELETE", "?client_id=nobody", None),
)


async def test_what_is_not_there_yet_is_empty_and_decodable(house: House) -> None:
    room = await house.room()
    for method, path, body, expected in EMPTY:
        answer = (await ask(room, method, path, body)).expect(200)
        assert answer.body == expected, (path, answer.body)
    for method, path, body in MISSING:
        assert (await ask(room, method, path, body)).expect(404).code == "not_found", path


async def test_bad_requests_are_400_and_say_why(house: House) -> None:
    room = await house.room()
    for method, path in WITH_BODY:
        for raw in (b"", b"{", b"[]", b'"\xff"'):
            answer = await room.client.request(method, f"/v1/workspaces/{room.id}{path}", raw=raw)
            assert answer.expect(400).code == "bad_input", (path, raw, answer.body)
    for method, path, body in BAD:
        answer = await ask(room, method, path, body)
        assert answer.status == 400, (path, body, answer)
        assert answer.code in ("bad_input", "empty_prompt", "session_missing"), (path, answer.body)
    client = room.client
    for wish in ({"client_id": client.client_id}, {"path": str(room.path)}, {"path": str(room.path), "client_id": "x"}):
        (await client.post("/v1/workspaces", wish)).expect(400)
    (await client.post("/v1/workspaces", raw=b"{")).expect(400)
    (await client.post("/v1/control", {"command": "dance"})).expect(400)
    (await client.request("DELETE", "/v1/clients/nobody")).expect(400)
    assert await paths_below(house.root / "h") == []


async def test_an_unknown_workspace_is_404_everywhere_but_for_release(house: House) -> None:
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


async def test_conflicts_are_409(house: House) -> None:
    room = await house.room()
    other = house.new_client()
    view = f"/v1/workspaces/{room.id}/current-session?client_id={other.client_id}"
    assert (await other.post(view, {"session_id": room.session})).expect(409).code == "not_attached"
    assert (await other.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409).code == "not_idle"
    (await other.request("DELETE", f"/v1/clients/{other.client_id}")).expect(200)
    wish = {"path": str(room.path), "client_id": other.client_id}
    assert (await other.post("/v1/workspaces", wish)).expect(409).code == "client_retired"


async def test_a_prompt_is_refused_while_the_agent_cannot_be_made(house: House) -> None:
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


async def test_an_unknown_session_is_an_error_or_an_empty_list(house: House) -> None:
    room = await house.room()
    for path in ("/sessions/none", "/agent/sessions/none"):
        assert (await ask(room, "GET", path)).expect(404).code == "session_unknown"
    for path in ("/history", "/messages", "/messages/user", "/filetracker/files"):
        assert (await ask(room, "GET", f"/sessions/none{path}")).expect(200).json() == []
    assert (await ask(room, "GET", "/agent/sessions/none/prompts/queued")).expect(200).body == b"0"
    assert (await ask(room, "GET", "/agent/sessions/none/prompts/list")).expect(200).json() == []
    for path in ("cancel", "prompts/clear"):
        assert (await ask(room, "POST", f"/agent/sessions/none/{path}")).expect(200).body == b""


# --- configuration ------------------------------------------------------------------------------------------------


async def test_changes_are_written_used_and_told(house: House) -> None:
    room = await house.room()
    plain = await house.watch(room.id, name="plain", ids=False)
    state_file = house.root / "h" / ".local" / "share" / "bulkhead" / "bulkhead.json"
    own_file = room.data_dir / "bulkhead.json"
    await change(room, "set", scope=0, key="options.notifications", value="bell")
    await change(room, "set", scope=1, key="options.tui.transparent", value=None)
    await change(room, "compact", scope=1, enabled=True)
    await change(room, "model", scope=0, model_type="large", model=MODEL | {"max_tokens": 100})
    await change(room, "model", scope=0, model_type="large", model=MODEL)
    assert json.loads(state_file.read_text()) == {
        "options": {"notifications": "bell"},
        "models": {"large": MODEL},
        "recent_models": {"large": [MODEL]},
    }
    assert own_file.read_text().startswith('{\n  "options": {\n    "tui": {')
    for path in (state_file, own_file):
        assert path.stat().st_mode & 0o777 == 0o600
    config = await read_config(room)
    assert config["recent_models"] == {"large": [MODEL]}
    assert config["options"]["notifications"] == "bell"
    assert config["options"]["tui"]["compact_mode"] is True
    assert config["models"]["large"] == MODEL
    await change(room, "remove", scope=0, key="options.notifications")
    await change(room, "remove", scope=0, key="options.notifications")
    assert "notifications" not in (await read_config(room))["options"]
    for watcher in (room.watcher, plain):
        await watcher.wait(
            lambda _, w=watcher: sum(event.kind == "config_changed" for event in w.seen) == 7, what="seven changes"
        )
    told = [event for event in room.watcher.seen if event.kind == "config_changed"]
    assert all(event.payload == {"workspace_id": room.id} for event in told)


async def test_a_key_is_stored_masked_and_makes_a_provider(house: House) -> None:
    room = await house.room()
    await change(room, "provider-key", scope=0, provider_id="groq", kind="string", api_key="gsk-very-secret")
    config = await read_config(room)
    assert config["providers"]["groq"]["api_key"] == "***"
    await change(room, "model", scope=1, model_type="large", model={"model": "qwen/qwen3-32b", "provider": "groq"})
    info = await room.client.agent(room.id)
    assert info["model"]["id"] == "qwen/qwen3-32b"
    token = {"access_token": "a$b", "refresh_token": "r-token", "expires_in": 60, "expires_at": 1}
    await change(room, "provider-key", scope=0, provider_id="groq", kind="oauth", api_key=token)
    shown = (await read_config(room))["providers"]["groq"]
    assert shown["oauth"] == token | {"access_token": "***", "refresh_token": "***"}
    refused = await ask(room, "POST", "/config/refresh-oauth", {"scope": 0, "provider_id": "groq"})
    assert b"log in again" in refused.expect(400).body
    for key in ("api_key", "oauth"):
        await change(room, "remove", scope=0, key=f"providers.groq.{key}")
    assert "groq" not in (await read_config(room))["providers"]
    assert "gsk-very-secret" not in house.server.log


async def test_a_choice_counts_although_the_project_says_otherwise(house: House) -> None:
    room = await house.room(model="openai")
    assert (await room.client.agent(room.id))["model_cfg"]["provider"] != "builtin"
    await change(room, "model", scope=0, model_type="large", model=MODEL)
    assert (await room.client.agent(room.id))["model_cfg"] == MODEL
    (await ask(room, "POST", "/agent/update")).expect(200)
    assert (await room.client.agent(room.id))["model_cfg"] == MODEL
    await change(room, "remove", scope=0, key="models.large")
    assert (await room.client.agent(room.id))["model_cfg"]["provider"] != "builtin"


async def test_a_change_that_could_not_be_used_changes_nothing(house: House) -> None:
    room = await house.room()
    await change(room, "compact", scope=1, enabled=True)
    before = (room.data_dir / "bulkhead.json").read_bytes()
    seen = len(room.watcher.seen)
    for body in (
        {"scope": 1, "key": "options.context_paths", "value": 5},
        {"scope": 1, "key": "options.tui.compact_mode.deep", "value": 1},
    ):
        (await ask(room, "POST", "/config/set", body)).expect(400)
    assert (room.data_dir / "bulkhead.json").read_bytes() == before
    assert not any(event.kind == "config_changed" for event in room.watcher.seen[seen:])
    await room.works()


async def test_a_change_does_not_reach_a_running_turn(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming()
    await change(room, "model", scope=0, model_type="large", model=MODEL)
    await call.reply(" three")
    assert (await room.ended(run))["text"].endswith("three")
    assert (await room.last_assistant())["provider"] != "builtin"
    run = await room.prompt("/say other")
    assert (await room.ended(run))["text"] == "other"


async def test_docker_is_an_entry_of_the_workspace(house: House) -> None:
    room = await house.room()
    (await ask(room, "POST", "/mcp/docker/enable")).expect(200)
    assert (await read_config(room))["mcp"]["docker"]["type"] == "stdio"
    assert "docker" in json.loads((room.data_dir / "bulkhead.json").read_text())["mcp"]
    (await ask(room, "POST", "/mcp/docker/disable")).expect(200)
    assert "docker" not in (await read_config(room)).get("mcp", {})


async def test_a_project_is_offered_its_context_file_once(house: House) -> None:
    room = await house.room()

    async def needs() -> bool:
        return bool((await ask(room, "GET", "/project/needs-init")).expect(200).json()["needs_init"])

    assert not await needs(), "an empty directory has nothing to tell"
    (room.path / "main.py").write_text("")
    assert await needs()
    (room.path / "Agents.md").write_text("")
    assert not await needs()
    (room.path / "Agents.md").unlink()
    assert await needs()
    (await ask(room, "POST", "/project/init")).expect(200)
    assert not await needs()
    assert "AGENTS.md" in (await ask(room, "GET", "/project/init-prompt")).expect(200).json()["prompt"]


# --- the shell ----------------------------------------------------------------------------------------------------


async def test_a_shell_command_is_answered_stored_and_told(house: House) -> None:
    room = await house.room(env=["MINE=yes", "BULKHEAD_X=no", "strange", "=x", "NUL=\0"])
    command = 'echo "$MINE$BULKHEAD_X $FORCE_COLOR $COLUMNS"; pwd; echo wrong >&2; exit 3'
    path = f"/agent/sessions/{room.session}/shell"
    result = (await ask(room, "POST", path, {"command": command, "term_width": 70})).expect(200).json()
    assert result == {"output": f"yes 1 70\n{room.path}\nwrong", "exit_code": 3}
    (message,) = await room.messages()
    assert message["role"] == "user"
    assert message["parts"][0] == {"type": "shell_command", "data": {"command": command, **result}}
    assert message["parts"][1]["data"] == {"reason": "stop", "time": 0}
    await room.watcher.wait(lambda e: e.kind == "message" and e.payload["id"] == message["id"], what="the message")
    unknown = (await ask(room, "POST", "/agent/sessions/none/shell", {"command": "echo hi"})).expect(200).json()
    assert unknown == {"output": "hi", "exit_code": 0}
    assert len((await ask(room, "GET", "/messages/user")).json()) == 1
    long = {"command": f"echo {'x' * 200_000}"}
    assert (await ask(room, "POST", path, long)).expect(413).code == "too_large"
    slow = (await ask(room, "POST", path, {"command": "kill -9 $$"})).expect(200).json()
    assert slow["exit_code"] == 137
    await room.works()


async def test_a_shell_command_ends_with_its_caller(house: House) -> None:
    room = await house.room()
    pipe = house.pipe()
    body = json.dumps({"command": f"echo $$ > {pipe.path}; sleep 100"}).encode()
    reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
    path = f"/v1/workspaces/{room.id}/agent/sessions/{room.session}/shell"
    writer.write(head("POST", path, {"Content-Length": str(len(body))}) + body)
    child = house.hold(int(await pipe.line()))
    writer.close()
    await child.gone()
    assert await reader.read() == b""
    assert await room.messages() == []
    await room.works()


# --- who looks ----------------------------------------------------------------------------------------------------


async def test_sessions_say_how_many_clients_look_at_them(house: House) -> None:
    room = await house.room()
    second = await house.watch(room.id, name="second")
    other = await room.client.create_session(room.id, "other")
    for client in (room.client, second.client):
        await look(client, room, room.session)
    assert await counts(room) == {room.session: 2, other: 0}
    await look(second.client, room, other)
    assert await counts(room) == {room.session: 1, other: 1}
    put = {"id": other, "title": "renamed"}
    answer = (await ask(room, "PUT", f"/sessions/{other}", put)).expect(200).json()
    assert (answer["title"], answer["attached_clients"]) == ("renamed", 1)
    await second.close()

    async def left() -> bool:
        return (await counts(room))[other] == 0

    await eventually(left, what="the end of the second client")
    await look(room.client, room, "")
    assert await counts(room) == {room.session: 0, other: 0}


async def test_skipping_permissions_is_seen_where_it_was_set(house: House) -> None:
    room = await house.room(yolo=True)
    assert (await ask(room, "GET", "/permissions/skip")).expect(200).json() == {"skip": True}
    (await ask(room, "POST", "/permissions/skip", {"skip": False})).expect(200)
    assert (await ask(room, "GET", "/permissions/skip")).expect(200).json() == {"skip": False}
    workspace = (await room.client.get(f"/v1/workspaces/{room.id}")).expect(200).json()
    api_shapes.WORKSPACE(workspace, "workspace")
    assert workspace["yolo"] is True


# --- helpers ------------------------------------------------------------------------------------------------------


async def ask(room: Room, method: str, path: str, body: object = None) -> Any:
    return await room.client.request(method, f"/v1/workspaces/{room.id}{path}", body)


async def change(room: Room, what: str, **body: object) -> None:
    answer = (await ask(room, "POST", f"/config/{what}", body)).expect(200)
    assert answer.body == b""


async def read_config(room: Room) -> dict[str, Any]:
    config: dict[str, Any] = (await ask(room, "GET", "/config")).expect(200).json()
    api_shapes.CONFIG(config, "config")
    return config


async def look(client: Client, room: Room, session: str) -> None:
    path = f"/v1/workspaces/{room.id}/current-session?client_id={client.client_id}"
    (await client.post(path, {"session_id": session})).expect(200)


async def counts(room: Room) -> dict[str, int]:
    sessions = (await ask(room, "GET", "/sessions")).expect(200).json()
    api_shapes.list_of(api_shapes.SESSION)(sessions, "sessions")
    for session in sessions:
        assert await room.client.session(room.id, session["id"]) == session
    return {session["id"]: session["attached_clients"] for session in sessions}


async def paths_below(directory: Path) -> list[str]:
    return [name for _, _, names in os.walk(directory) for name in names]
