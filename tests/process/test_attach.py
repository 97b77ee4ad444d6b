"""Test clients that connect, watch, leave and return while runs continue without them."""

import asyncio
import json
import signal
import uuid
from pathlib import Path

import pytest

from tests.support.clients.http_client import Client, head, read_head
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness


async def open_stream(
    house: ServerHarness, target: str
) -> tuple[int, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a raw event stream; return its status and headers, which arrive before any event, and the connection."""
    reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
    writer.write(head("GET", target, {}))
    async with asyncio.timeout(5):
        status, headers = await read_head(reader)
    return status, headers, reader, writer


async def test_headers_come_before_any_event(house: ServerHarness) -> None:
    workspace = await house.workspace()
    status, headers, _, writer = await open_stream(
        house, f"/v1/workspaces/{workspace.id}/events?client_id={uuid.uuid4()}"
    )
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["connection"] == "close"  # the Crush client must see a clean end when the server is killed
    writer.close()


async def test_a_bad_client_id_is_refused_before_an_unknown_workspace(house: ServerHarness) -> None:
    client = house.new_client()
    assert (await client.get("/v1/workspaces/unknown/events?client_id=x")).expect(400).code == "bad_input"
    assert (await client.get(f"/v1/workspaces/unknown/events?client_id={uuid.uuid4()}")).expect(404).code == (
        "workspace_unknown"
    )


async def test_a_stream_needs_no_client_id(house: ServerHarness) -> None:
    workspace = await house.workspace()
    status, _, _, writer = await open_stream(house, f"/v1/workspaces/{workspace.id}/events")
    assert status == 200
    await eventually(
        lambda: _has_clients(house, workspace.id, 2), timeout_s=5, what="two clients", state=lambda: house.server.log
    )
    writer.close()
    await eventually(
        lambda: _has_clients(house, workspace.id, 1), timeout_s=5, what="one client", state=lambda: house.server.log
    )


async def _has_clients(house: ServerHarness, workspace: str, count: int) -> bool:
    return (await house.worker(workspace))["clients"] == count


async def test_plain_stream_has_only_data_lines(house: ServerHarness) -> None:
    workspace = await house.workspace()
    _, _, reader, writer = await open_stream(house, f"/v1/workspaces/{workspace.id}/events?client_id={uuid.uuid4()}")
    run_id = await workspace.prompt("/tokens 5")
    await workspace.ended(run_id)
    lines = []
    async with asyncio.timeout(5):
        while not (lines and b'"run_complete"' in lines[-1]):
            line = (await reader.readline()).strip()
            if line:
                lines.append(line)
    assert all(line.startswith(b'data: {"type":"') for line in lines)
    last = json.loads(lines[-1].removeprefix(b"data: "))
    assert last["payload"]["payload"]["run_id"] == run_id
    writer.close()


async def test_C07_a_run_continues_when_its_client_leaves(house: ServerHarness) -> None:
    workspace = await house.workspace()
    leaving = house.new_client()
    run_id = str(uuid.uuid4())
    (await leaving.submit(workspace.id, workspace.session, "/tokens 40 100", run_id)).expect(202)
    (await leaving.request("DELETE", f"/v1/clients/{leaving.client_id}")).expect(200)
    end = await workspace.ended(run_id)
    assert "error" not in end
    assert end["text"].endswith("t40")


async def test_a_run_continues_when_the_last_client_leaves(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run_id = await workspace.prompt("/tokens 60 100")
    await workspace.watcher.text(workspace.session, "t3")
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    await workspace.watcher.close()
    async with await _new_reader(house, workspace.id) as watcher:
        row = await eventually(lambda: workspace.run(run_id), timeout_s=5, what="run", state=lambda: house.server.log)
        if row["state"] != "ended":
            await watcher.ended(run_id)
        assert (await workspace.run(run_id))["outcome"] == "completed"


async def _new_reader(house: ServerHarness, workspace: str):  # type: ignore[no-untyped-def]
    from tests.support.clients.stream_reader import StreamReader

    return StreamReader(house.new_client(), workspace, name="again")


async def test_release_keeps_the_registration(house: ServerHarness) -> None:
    workspace = await house.workspace()
    target = f"/v1/workspaces/{workspace.id}?client_id={workspace.client.client_id}"
    (await workspace.client.request("DELETE", target)).expect(200)
    (await workspace.client.request("DELETE", target)).expect(200)
    (await workspace.client.request("DELETE", f"/v1/workspaces/unknown?client_id={uuid.uuid4()}")).expect(200)
    (await workspace.client.request("DELETE", "/v1/workspaces/unknown?client_id=x")).expect(400)
    assert (await workspace.client.create(workspace.path))["id"] == workspace.id


async def test_a_retired_client_cannot_create_a_workspace_but_may_open_a_stream(house: ServerHarness) -> None:
    workspace = await house.workspace()
    unknown_client = f"/v1/clients/{uuid.uuid4()}"
    (await workspace.client.request("DELETE", unknown_client)).expect(200)
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    body = {"path": str(workspace.path), "client_id": workspace.client.client_id}
    assert (await workspace.client.post("/v1/workspaces", body)).expect(409).code == "client_retired"
    status, _, _, writer = await open_stream(
        house, f"/v1/workspaces/{workspace.id}/events?client_id={workspace.client.client_id}"
    )
    assert status == 200
    writer.close()


async def test_current_session_needs_a_stream(house: ServerHarness) -> None:
    workspace = await house.workspace()
    target = f"/v1/workspaces/{workspace.id}/current-session?client_id="
    (await workspace.client.post(f"{target}{workspace.client.client_id}", {"session_id": workspace.session})).expect(
        200
    )
    refused = await workspace.client.post(f"{target}{uuid.uuid4()}", {"session_id": workspace.session})
    assert refused.expect(409).code == "not_attached"
    (await workspace.client.post(f"{target}x", {"session_id": ""})).expect(400)


async def test_two_spellings_of_one_directory_are_one_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    link = house.root / "link"
    link.symlink_to(workspace.path)
    workspaces = await asyncio.gather(*(house.new_client().create(link) for _ in range(5)))
    assert {each["id"] for each in workspaces} == {workspace.id}
    assert {each["path"] for each in workspaces} == {str(workspace.path)}


@pytest.mark.house(neighbour=False)
async def test_many_creates_of_one_new_directory_make_one_workspace(house: ServerHarness) -> None:
    path = house.directory("fresh", "script")
    workspaces = await asyncio.gather(*(house.new_client().create(path) for _ in range(8)))
    assert len({workspace["id"] for workspace in workspaces}) == 1
    assert len((await house.new_client().get("/v1/workers")).json()) == 1


async def test_P11_evicted_workspace_wakes_with_its_id_and_history(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say hello"))
    before = await workspace.messages()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).expect(409)  # a client has a stream
    await workspace.watcher.close()
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)

    async def evicted() -> bool:
        return (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).status == 200

    await eventually(evicted, timeout_s=10, what="eviction", state=lambda: house.server.log)
    row = await house.worker(workspace.id)
    assert (row["state"], row["pid"]) == ("asleep", None)
    assert await workspace.messages() == before
    assert (await house.worker(workspace.id))["state"] == "ready"


@pytest.mark.house(limits={"evict_idle_s": 0.3, "heartbeat_interval_s": 0.05, "detach_grace_s": 0.0}, neighbour=False)
async def test_a_worker_is_evicted_only_after_its_run_has_ended(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run_id = await workspace.prompt("/tokens 100 100")
    await workspace.watcher.close()
    await eventually(
        lambda: _is_in_state(house, workspace.id, "asleep"), timeout_s=10, what="sleep", state=lambda: house.server.log
    )
    assert (await workspace.run(run_id))["outcome"] == "completed"


async def _is_in_state(house: ServerHarness, workspace: str, state: str) -> bool:
    return (await house.worker(workspace))["state"] == state


async def test_H05_a_missing_directory_is_reported_as_workspace_moved(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)

    async def evicted() -> bool:
        return (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).status == 200

    await eventually(evicted, timeout_s=10, what="eviction", state=lambda: house.server.log)
    moved = workspace.path.rename(house.root / "moved")
    refused = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")
    assert refused.expect(409).code == "workspace_moved"
    assert b"missing" in refused.body
    moved.rename(workspace.path)
    (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(200)


async def test_registration_can_be_removed(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    (await workspace.client.request("DELETE", f"/v1/workspaces/{workspace.id}/registration")).expect(200)
    (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(404)
    assert (await house.new_client().create(workspace.path))["id"] != workspace.id


async def test_streams_end_cleanly_with_the_server(house: ServerHarness) -> None:
    workspace = await house.workspace()
    plain = await house.watch(workspace.id, name="plain", ids=False)
    await house.neighbour.check()
    await house.neighbour.close()
    house.server.send(signal.SIGTERM)
    assert await workspace.watcher.connection_ended() == "clean"
    assert await plain.connection_ended() == "clean"
    assert workspace.watcher.retry_ms >= 1000
    assert await house.server.ended() == 0
    assert not house.server.socket_path.exists()


@pytest.mark.house(arguments=("--idle-exit", "0.5"), neighbour=False, limits={"detach_grace_s": 0.0})
async def test_an_unused_private_server_exits(house: ServerHarness) -> None:
    client = house.new_client()
    workspace = await house.workspace()
    (await client.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409)
    await workspace.watcher.close()
    (await client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    assert await house.server.ended() == 0
    assert not house.server.socket_path.exists()


@pytest.mark.house(neighbour=False)
async def test_a_client_cannot_shut_down_a_managed_server(house: ServerHarness) -> None:
    client = house.new_client()
    for command in ("shutdown", "shutdown_if_idle"):
        assert (await client.post("/v1/control", {"command": command})).expect(409).code == "not_idle"
    (await client.post("/v1/control", {"command": "dance"})).expect(400)
    (await client.post("/v1/control", raw=b"{")).expect(400)


async def test_calls_of_the_crush_client(house: ServerHarness, tmp_path: Path) -> None:
    """Make the calls of the Crush client, in its order."""
    client = Client(house.server.socket_path, house.client_log)
    version = (await client.get("/v1/version")).expect(200).json()
    assert {"version", "commit", "build_id", "go_version", "platform"} <= set(version)
    (await client.get("/v1/health")).expect(200)
    workspace = await client.create(house.directory("crush", "script"), env=["A=b"], version="0.0")
    base = f"/v1/workspaces/{workspace['id']}"
    assert workspace["config"]["providers"]
    assert workspace["config"]["options"]["tui"] is not None
    assert workspace["env"] == ["A=b"]
    assert (await client.get(base)).expect(200).json()["id"] == workspace["id"]
    (await client.post(f"{base}/agent/init", {"interactive": False})).expect(200)
    assert (await client.agent(workspace["id"]))["is_ready"]
    (await client.post(f"{base}/agent/update")).expect(200)
    session = await client.create_session(workspace["id"], "non-interactive")
    watcher = await house.watch(workspace["id"], name="crush", client=client, ids=False)
    run_id = str(uuid.uuid4())
    answer = await client.submit(workspace["id"], session, "/say hello", run_id)
    assert answer.status == 202
    end = await watcher.ended(run_id)
    assert end["text"] == "hello"
    assert end["message_id"]
    await watcher.close()
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)
