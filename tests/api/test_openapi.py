"""Test the OpenAPI document and its page as served, and that real events and responses match the document."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from tests.support.clients.raw_requests import port_of, say, token_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.permission_requests import init, requested, resolved

pytestmark = pytest.mark.house(neighbour=False)


async def test_the_document_is_served_at_once_and_stays_the_same(house: ServerHarness) -> None:
    client = house.new_client()
    answer = (await client.get("/v1/openapi.json")).expect(200)
    assert answer.json()["openapi"].startswith("3.1")
    assert (await client.get("/v1/openapi.json")).body == answer.body
    assert "/v1/workspaces/{id}/events" in answer.json()["paths"]


async def test_the_page_runs_only_its_own_script_and_style(house: ServerHarness) -> None:
    answer = (await house.new_client().get("/v1/docs")).expect(200)
    assert answer.headers["content-type"].startswith("text/html")
    text = answer.body.decode()
    policy = answer.headers["content-security-policy"]
    for tag, kind in (("script>", "script"), ("style>", "style")):
        source = text[text.rindex(f"<{tag}") + len(tag) + 1 : text.rindex(f"</{tag}")]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    # The page loads nothing from elsewhere, and has no event handler or style attributes.
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(|\son\w+=|style=", text)
    data = text.split('<script type="application/json" id="document">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data) == (await house.new_client().get("/v1/openapi.json")).json()


@pytest.mark.house(neighbour=False, tcp=True)
async def test_document_and_page_need_the_token_over_tcp(house: ServerHarness) -> None:
    port = port_of(house)
    for path in ("/v1/openapi.json", "/v1/docs"):
        request = f"GET {path} HTTP/1.1\nHost: 127.0.0.1:{port}"
        assert (await say(port, request)).code == "unauthorized"
        assert (await say(port, f"{request}\nAuthorization: Bearer {token_of(house)}")).status == 200


# --- responses match the document ---------------------------------------------------------------------------------


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema of the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.house(limits={"heartbeat_interval_s": 0.1})
async def test_events_and_responses_match_the_document(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (path / ".bulkhead" / "skills" / "review").mkdir(parents=True)
    (path / ".bulkhead" / "skills" / "review" / "SKILL.md").write_text(
        "---\nname: review\ndescription: d\n---\nLook.\n"
    )
    servers = {
        "lsp": {"a C++ server": {"command": "/nowhere/to/be/found", "filetypes": ["py"]}},
        "mcp": {"broken": {"type": "stdio", "command": "/nowhere/to/be/found"}},
        "options": {"auto_lsp": False, "skills_paths": [str(path / "skills")]},
    }
    (path / "bulkhead.json").write_text(json.dumps(servers))
    (path / "main.py").write_text("x = 1\n")
    client = house.new_client()
    created = await client.create(path)
    session = await client.create_session(created["id"])
    workspace = WorkspaceFixture(house, created, session, await house.watch(created["id"], name="w", client=client))
    document = (await client.get("/v1/openapi.json")).expect(200).json()

    house.resets_are_fine = True
    kinds = await cause_events(workspace)
    event = validator(document, {"$ref": "#/components/schemas/Event"})
    for received in workspace.watcher.seen:
        if not received.is_base:
            event.validate(json.loads(received.data))
    assert kinds <= {received.kind for received in workspace.watcher.seen}

    parameters = {"id": workspace.id, "sid": session, "run": "r-1", "lsp": quote("a C++ server")}
    for route, methods in document["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        if answer is None:
            continue
        query = "?name=broken" if route.endswith("auth-url") else ""
        value = (await client.get(route.format(**parameters) + query)).expect(200).json()
        validator(document, answer["schema"]).validate(value)


async def cause_events(workspace: WorkspaceFixture) -> set[str]:
    """Cause events of nearly every kind; return the kinds."""
    base = f"/v1/workspaces/{workspace.id}"
    await init(workspace, interactive=True)
    await workspace.client.post(f"{base}/config/compact", {"scope": 1, "enabled": True})
    await workspace.client.post(f"{base}/lsps/start", {"path": "main.py"})
    edit = json.dumps({"file_path": "main.py", "old_string": "x = 1", "new_string": "x = 2"})
    ask = json.dumps({"questions": [{"type": "yes_no", "question": "Go on?", "description": "d"}]})
    todos = json.dumps({"todos": [{"content": "c", "status": "pending", "active_form": "a"}]})
    calls = ['view {"file_path": "main.py"}', f"edit {edit}", f"todos {todos}", f"question {ask}"]
    script = ["/think hm", *(f"/tool {call}" for call in calls), "/say done"]
    run = await workspace.prompt("\n".join(script), "r-1")
    assert await resolved(workspace, await requested(workspace.watcher), "allow")
    batch = await requested(workspace.watcher, kind="question_batch_request")
    answers = {"responses": [{"request_id": batch["questions"][0]["id"], "yes": True}]}
    (await workspace.client.post(f"{base}/questions/answer", answers)).expect(200)
    assert (await workspace.ended(run))["text"] == "done"
    await workspace.ended(await workspace.prompt("/fail 401"))
    (await workspace.client.post(f"{base}/agent/sessions/{workspace.session}/shell", {"command": "echo hi"})).expect(
        200
    )
    other = await workspace.client.create_session(workspace.id, "to be deleted")
    await workspace.client.request("DELETE", f"{base}/sessions/{other}")
    await workspace.watcher.close()
    await workspace.watcher.open("unknown.log.1")
    await workspace.watcher.wait(lambda e: e.kind == "reset", what="a reset")
    return {
        *("message", "session", "file", "permission_request", "permission_notification", "question_batch_request"),
        *("question_batch_notification", "agent_event", "run_complete", "lsp_event", "mcp_event", "config_changed"),
        *("workspace_state", "reset"),
    }
