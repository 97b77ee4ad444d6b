"""Test the status and code of each error condition, and which check comes first when several fail."""

import asyncio
import json
import signal
import uuid
from urllib.parse import quote

import pytest

from supervisor.http.routes import ROUTES, STREAM
from tests.support.clients.http_client import Client, Response, head, read_head
from tests.support.harness.server_harness import ServerHarness

pytestmark = pytest.mark.house(neighbour=False)

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
UNKNOWN = "00000000-0000-4000-8000-000000000000"
HEX = "6ba7b8109dad11d180b400c04fd430c8"
CANONICAL = str(uuid.UUID(HEX))
SPELLINGS = (CANONICAL, CANONICAL.upper(), f"urn:uuid:{CANONICAL}", f"{{{CANONICAL}}}", HEX)
NO_UUIDS = (
    *("", " ", "x", HEX[:-1], HEX + "0", HEX[:-1] + "g", f"{CANONICAL}\n", f" {CANONICAL}", f"{{{CANONICAL}"),
    *(f"{CANONICAL}}}", f"({CANONICAL})", f"urn:uuid:{{{CANONICAL}}}", CANONICAL.replace("-", "_")),
)


def refused(answer: Response, status: int, code: str, *hints: str) -> None:
    """Check that the response is an error with this status and code, and exactly the fields of an error."""
    value = answer.expect(status).json()
    assert set(value) == {"message", "code"}, value
    assert value["code"] == code, value
    for hint in hints:
        assert hint in value["message"], value


def filled(path: str) -> str:
    """Return a route's path with a value for each of its parameters."""
    for parameter, value in (
        ("{id}", UNKNOWN),
        ("{client_id}", UNKNOWN),
        ("{sid}", "s"),
        ("{lsp}", "l"),
        ("{run}", "r"),
    ):
        path = path.replace(parameter, value)
    assert "{" not in path, path
    return path


# --- paths and methods --------------------------------------------------------------------------------------------


async def test_a_405_lists_the_allowed_methods_of_the_path(house: ServerHarness) -> None:
    client = house.new_client()
    methods_by_path: dict[str, set[str]] = {}
    for route in ROUTES:
        methods_by_path.setdefault(filled(route.path), set()).add(route.method)
    for path, allowed in methods_by_path.items():
        for method in METHODS:
            if method in allowed:
                continue
            answer = await client.request(method, path)
            refused(answer, 405, "method_not_allowed", f"cannot {method} this")
            assert set(answer.headers["allow"].split(", ")) == allowed, (method, path, answer)


async def test_an_unknown_path_is_404_for_every_method(house: ServerHarness) -> None:
    client = house.new_client()
    for path in (
        "/",
        "/v1",
        "/v1/health/",
        "/v2/health",
        "/v1/workspaces//events",
        f"/v1/workspaces/{UNKNOWN}/nothing",
    ):
        for method in METHODS:
            refused(await client.request(method, path), 404, "route_unknown", "/v1/")


async def test_head_answers_like_get_without_a_body(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for path in (
        "/v1/health",
        "/v1/version",
        f"/v1/workspaces/{workspace.id}/sessions",
        "/v1/workspaces/unknown",
        "/v1/no",
    ):
        got = await workspace.client.get(path)
        status, headers, rest = await send_head(house, path)
        assert (status, headers.get("content-length"), rest) == (got.status, got.headers["content-length"], b""), path
    for path in (f"/v1/workspaces/{workspace.id}/events", "/v1/control"):
        status, headers, rest = await send_head(house, path)
        assert (status, rest) == (405, b""), path
        assert headers["allow"] == ("POST" if path.endswith("control") else "GET")
    assert (await house.worker(workspace.id))["clients"] == 1


async def send_head(house: ServerHarness, path: str) -> tuple[int, dict[str, str], bytes]:
    """Send a HEAD request; return status, headers and the remaining bytes until the connection closes."""
    reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
    try:
        async with asyncio.timeout(10):
            writer.write(head("HEAD", path, {"Connection": "close"}))
            status, headers = await read_head(reader)
            return status, headers, await reader.read()
    finally:
        writer.close()


def test_the_event_stream_is_a_row_of_the_route_table() -> None:
    assert [route.path for route in ROUTES if route.handler == STREAM] == ["/v1/workspaces/{id}/events"]


# --- client ids ---------------------------------------------------------------------------------------------------


async def test_a_client_id_is_a_uuid_in_any_usual_spelling(house: ServerHarness) -> None:
    workspace = await house.workspace()
    base = f"/v1/workspaces/{workspace.id}"
    for spelling in SPELLINGS:
        quoted = quote(spelling, safe="")
        body = {"path": str(workspace.path), "client_id": spelling}
        (await workspace.client.post("/v1/workspaces", body)).expect(200)
        view = await workspace.client.post(f"{base}/current-session?client_id={quoted}", {"session_id": ""})
        refused(view, 409, "not_attached")
        (await workspace.client.request("DELETE", f"{base}?client_id={quoted}")).expect(200)
        (await workspace.client.request("DELETE", f"/v1/clients/{quoted}")).expect(200)
    for spelling in NO_UUIDS:
        quoted = quote(spelling, safe="")
        body = {"path": str(workspace.path), "client_id": spelling}
        refused(await workspace.client.post("/v1/workspaces", body), 400, "bad_input", "client_id")
        view = await workspace.client.post(f"{base}/current-session?client_id={quoted}", {"session_id": ""})
        refused(view, 400, "bad_input", "client_id")
        refused(await workspace.client.request("DELETE", f"{base}?client_id={quoted}"), 400, "bad_input", "client_id")
        refused(await workspace.client.get(f"{base}/events?client_id={quoted}"), 400, "bad_input", "client_id")
        if spelling:
            refused(await workspace.client.request("DELETE", f"/v1/clients/{quoted}"), 400, "bad_input", "client_id")
    for method, path in (("DELETE", base), ("POST", f"{base}/current-session")):
        refused(await workspace.client.request(method, path), 400, "bad_input", "client_id")


async def test_client_ids_are_compared_as_written(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (await workspace.client.request("DELETE", f"/v1/clients/{HEX}")).expect(200)
    for spelling in SPELLINGS:
        body = {"path": str(workspace.path), "client_id": spelling}
        answer = await workspace.client.post("/v1/workspaces", body)
        if spelling == HEX:
            refused(answer, 409, "client_retired")
        else:
            answer.expect(200)


# --- order of checks ----------------------------------------------------------------------------------------------


async def create(client: Client, body: object) -> Response:
    return await client.post("/v1/workspaces", body)


async def test_create_checks_body_path_client_directory_and_then_conflicts(house: ServerHarness) -> None:
    workspace = await house.workspace()
    client, nowhere = house.new_client(), str(house.root / "nowhere")
    refused(await client.post("/v1/workspaces", raw=b'{"path":7}'), 400, "bad_input", "cannot read the body")
    refused(await create(client, {"path": "", "client_id": "x"}), 400, "bad_input", "`path`")
    refused(await create(client, {"client_id": "x"}), 400, "bad_input", "`path`")
    refused(await create(client, {"path": nowhere, "client_id": "x"}), 400, "bad_input", "client_id")
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)
    retired = {"client_id": client.client_id}
    refused(await create(client, retired | {"path": nowhere}), 400, "bad_input", "there is no such directory")
    refused(await create(client, retired | {"path": str(workspace.path), "channels": ["a"]}), 409, "client_retired")
    other = {"path": str(workspace.path), "client_id": UNKNOWN}
    refused(await create(client, other | {"channels": ["a"]}), 409, "conflict", "other channels")
    (await create(client, other | {"channels": []})).expect(200)
    (await create(client, other | {"channels": None})).expect(200)


@pytest.mark.parametrize("value", ["relative/to/nothing", "\0", "/proc/self/environ", "x" * 5000, "/dev/null/below"])
async def test_a_path_that_is_not_a_directory_is_refused_and_not_registered(house: ServerHarness, value: str) -> None:
    client = house.new_client()
    refused(await create(client, {"path": value, "client_id": UNKNOWN}), 400, "bad_input", "cannot use")
    assert (await client.get("/v1/workspaces")).expect(200).json() == []


async def test_an_unusable_data_directory_is_refused_and_registers_nothing(house: ServerHarness) -> None:
    client = house.new_client()
    path = house.directory("w", "script")
    (path / "file").touch()
    for data_dir in ("\0", "file", "file/below", "x" * 300, "/dev/null/below"):
        body = {"path": str(path), "client_id": client.client_id, "data_dir": data_dir}
        refused(await create(client, body), 400, "bad_input", "cannot keep data in")
    assert (await client.get("/v1/workspaces")).expect(200).json() == []
    created = await client.create(path, data_dir="elsewhere/below")
    assert created["data_dir"] == str(path / "elsewhere" / "below")
    again = await client.create(path, data_dir="file")
    assert again["data_dir"] == created["data_dir"], "the first creator decides"


async def test_a_request_to_a_failed_workspace_logs_no_traceback(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (path / ".bulkhead").touch()
    client = house.new_client()
    refused(await create(client, {"path": str(path), "client_id": client.client_id}), 504, "worker_failed")
    [workspace] = (await client.get("/v1/workspaces")).expect(200).json()
    for _ in range(3):
        refused(await client.get(f"/v1/workspaces/{workspace['id']}/sessions"), 503, "worker_failed")
    assert "Traceback" not in house.server.log


async def test_a_stopping_server_answers_503_after_the_other_checks(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    await workspace.streaming()
    client = house.new_client()
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)
    house.failpoints.arm("close.c", workspace=workspace.id)
    house.server.send(signal.SIGTERM)
    hit = await house.failpoints.reached("close.c")
    retired = {"client_id": client.client_id}
    nowhere = str(house.root / "nowhere")
    refused(await client.post("/v1/workspaces", raw=b"{"), 400, "bad_input")
    refused(await create(client, {"path": ""}), 400, "bad_input", "`path`")
    refused(await create(client, {"path": nowhere, "client_id": "x"}), 400, "bad_input", "client_id")
    refused(await create(client, retired | {"path": nowhere}), 400, "bad_input", "there is no such directory")
    for path in (workspace.path, house.directory("new", "script")):
        answer = await create(client, retired | {"path": str(path)})
        refused(answer, 503, "server_exiting")
        assert int(answer.headers["retry-after"]) >= 1
    stream = await client.get(f"/v1/workspaces/{workspace.id}/events?client_id={UNKNOWN}")
    refused(stream, 503, "server_exiting")  # not 404, which would mean that the workspace was removed
    hit.release()
    assert await house.server.ended() == 0


async def test_current_session_checks_client_body_workspace_and_attachment(house: ServerHarness) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    unknown, known = "/v1/workspaces/unknown/current-session", f"/v1/workspaces/{workspace.id}/current-session"
    query = f"?client_id={client.client_id}"
    refused(await client.post(f"{unknown}?client_id=x", raw=b"{"), 400, "bad_input", "client_id")
    for raw in (b"{", b"", b'{"session_id":1}'):
        refused(await client.post(unknown + query, raw=raw), 400, "bad_input", "cannot read the body")
    refused(await client.post(unknown + query, {"session_id": "s"}), 404, "workspace_unknown")
    refused(await client.post(known + query, {"session_id": "s"}), 409, "not_attached", "event stream")
    await house.watch(workspace.id, name="mine", client=client)
    for session in (workspace.session, "some other", ""):
        (await client.post(known + query, {"session_id": session})).expect(200)


async def test_a_prompt_checks_workspace_agent_prompt_and_session(house: ServerHarness) -> None:
    path = house.directory("broken", "script")
    (path / "bulkhead.json").write_text("{")
    client = house.new_client()
    broken = (await client.create(path))["id"]
    empty = {"session_id": "", "prompt": ""}
    refused(await client.post("/v1/workspaces/unknown/agent", raw=b"{"), 404, "workspace_unknown")
    refused(await client.post(f"/v1/workspaces/{broken}/agent", empty), 400, "agent_not_ready", "bulkhead.json")
    session = await client.create_session(broken)
    target = f"/v1/workspaces/{broken}/agent/sessions/{session}/summarize"
    refused(await client.post(target), 400, "agent_not_ready", "bulkhead.json")
    workspace = await house.workspace()
    agent = f"/v1/workspaces/{workspace.id}/agent"
    refused(await client.post(agent, empty), 400, "empty_prompt")
    refused(await client.post(agent, {"session_id": "", "prompt": "hi"}), 400, "session_missing")
    refused(await client.post(agent, {"session_id": workspace.session, "prompt": ""}), 400, "empty_prompt")
    attachment = {"file_name": "a.png", "mime_type": "image/png", "content": "aGk="}
    alone = {"session_id": workspace.session, "prompt": "", "attachments": [attachment]}
    refused(await client.post(agent, alone), 400, "empty_prompt", "text attachment")
    refused(await client.post(agent, {"session_id": "nowhere", "prompt": "hi"}), 404, "session_unknown")
    assert house.stored(workspace).runs == []


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.house(limits={"body_max_bytes": 20_000, "header_max_bytes": 4000, "queued_prompts_max": 1})
async def test_exceeded_limits_are_named(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    agent = f"/v1/workspaces/{workspace.id}/agent"
    large = json.dumps({"session_id": workspace.session, "prompt": "x" * 30_000}).encode()
    refused(await workspace.client.post(agent, raw=large), 413, "too_large", "20000 bytes")
    refused(await workspace.client.post("/v1/workspaces", raw=large), 413, "too_large")
    refused(await workspace.client.get("/v1/health", headers={"X-Long": "x" * 5000}), 431, "headers_too_large", "4000")
    run, call = await workspace.streaming()
    queued = await workspace.prompt("second")
    full = await workspace.client.submit(workspace.id, workspace.session, "third")
    refused(full, 429, "queue_full", "clear the queue")
    await call.reply("!")
    await (await house.provider.next_call()).reply("2")
    for run_id in (run, queued):
        await workspace.ended(run_id)


async def test_an_unknown_or_deleted_resource_is_404(house: ServerHarness) -> None:
    workspace = await house.workspace()
    base = f"/v1/workspaces/{workspace.id}"
    for method, path, code in (
        ("GET", "/sessions/none", "session_unknown"),
        ("PUT", "/sessions/none", "session_unknown"),
        ("DELETE", "/sessions/none", "session_unknown"),
        ("GET", "/agent/sessions/none", "session_unknown"),
        ("POST", "/agent/sessions/none/summarize", "session_unknown"),
        ("GET", "/runs/none", "run_unknown"),
        ("GET", "/lsps/none/diagnostics", "not_found"),
        ("GET", "/sessions/%2e%2e%2fetc", "session_unknown"),
        ("GET", f"/sessions/{'s' * 300}", "session_unknown"),
        ("GET", "/runs/%00", "run_unknown"),
    ):
        body = {"id": "none", "title": "t"} if method == "PUT" else None
        refused(await workspace.client.request(method, base + path, body), 404, code)
    (await workspace.client.request("DELETE", f"{base}/sessions/{workspace.session}")).expect(200)
    refused(await workspace.client.request("DELETE", f"{base}/sessions/{workspace.session}"), 404, "session_unknown")
