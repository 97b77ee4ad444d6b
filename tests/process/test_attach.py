"""Clients come, look, leave and come back; work goes on without them."""

import asyncio
import json
import signal
import uuid
from pathlib import Path

import pytest

from tests.support.clients.http_client import Client, head, read_head
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness


async def opened(
    house: ServerHarness, target: str
) -> tuple[int, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw event stream: status and headers as they came, before any event."""
    reader, writer = await asyncio.open_unix_connection(house.server.socket_path)
    writer.write(head("GET", target, {}))
    async with asyncio.timeout(5):
        status, headers = await read_head(reader)
    return status, headers, reader, writer


async def test_headers_come_before_any_event(house: ServerHarness) -> None:
    workspace = await house.workspace()
    status, headers, _, writer = await opened(house, f"/v1/workspaces/{workspace.id}/events?client_id={uuid.uuid4()}")
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["connection"] == "close"  # a killed server is a clean end for the Crush client
    writer.close()


async def test_stream_refuses_in_the_right_order(house: ServerHarness) -> None:
    client = house.new_client()
    assert (await client.get("/v1/workspaces/nobody/events?client_id=x")).expect(400).code == "bad_input"
    assert (await client.get(f"/v1/workspaces/nobody/events?client_id={uuid.uuid4()}")).expect(404).code == (
        "workspace_unknown"
    )


async def test_stream_without_a_client_id_is_fine(house: ServerHarness) -> None:
    workspace = await house.workspace()
    status, _, _, writer = await opened(house, f"/v1/workspaces/{workspace.id}/events")
    assert status == 200
    await eventually(
        lambda: _clients(house, workspace.id, 2), timeout_s=5, what="two clients", state=lambda: house.server.log
    )
    writer.close()
    await eventually(
        lambda: _clients(house, workspace.id, 1), timeout_s=5, what="one client", state=lambda: house.server.log
    )


async def _clients(house: ServerHarness, workspace: str, count: int) -> bool:
    return (await house.worker(workspace))["clients"] == count


async def test_plain_stream_has_only_data_lines(house: ServerHarness) -> None:
    workspace = await house.workspace()
    _, _, reader, writer = await opened(house, f"/v1/workspaces/{workspace.id}/events?client_id={uuid.uuid4()}")
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


async def test_C07_run_goes_on_when_its_client_leaves(house: ServerHarness) -> None:
    workspace = await house.workspace()
    leaving = house.new_client()
    run_id = str(uuid.uuid4())
    (await leaving.submit(workspace.id, workspace.session, "/tokens 40 100", run_id)).expect(202)
    (await leaving.request("DELETE", f"/v1/clients/{leaving.client_id}")).expect(200)
    end = await workspace.ended(run_id)
    assert "error" not in end
    assert end["text"].endswith("t40")


async def test_last_client_leaving_ends_no_run(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run_id = await workspace.prompt("/tokens 60 100")
    await workspace.watcher.text(workspace.session, "t3")
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    await workspace.watcher.close()
    async with await _again(house, workspace.id) as watcher:
        found = await eventually(lambda: workspace.run(run_id), timeout_s=5, what="run", state=lambda: house.server.log)
        if found["state"] != "ended":
            await watcher.ended(run_id)
        assert (await workspace.run(run_id))["outcome"] == "completed"


async def _again(house: ServerHarness, workspace: str):  # type: ignore[no-untyped-def]
    from tests.support.clients.stream_reader import StreamReader

    return StreamReader(house.new_client(), workspace, name="again")


async def test_release_keeps_the_registration(house: ServerHarness) -> None:
    workspace = await house.workspace()
    target = f"/v1/workspaces/{workspace.id}?client_id={workspace.client.client_id}"
    (await workspace.client.request("DELETE", target)).expect(200)
    (await workspace.client.request("DELETE", target)).expect(200)
    (await workspace.client.request("DELETE", f"/v1/workspaces/nobody?client_id={uuid.uuid4()}")).expect(200)
    (await workspace.client.request("DELETE", "/v1/workspaces/nobody?client_id=x")).expect(400)
    assert (await workspace.client.create(workspace.path))["id"] == workspace.id


async def test_retired_client_cannot_create_but_may_look(house: ServerHarness) -> None:
    workspace = await house.workspace()
    stranger = f"/v1/clients/{uuid.uuid4()}"
    (await workspace.client.request("DELETE", stranger)).expect(200)
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    wish = {"path": str(workspace.path), "client_id": workspace.client.client_id}
    assert (await workspace.client.post("/v1/workspaces", wish)).expect(409).code == "client_retired"
    status, _, _, writer = await opened(
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
    nobody = await workspace.client.post(f"{target}{uuid.uuid4()}", {"session_id": workspace.session})
    assert nobody.expect(409).code == "not_attached"
    (await workspace.client.post(f"{target}x", {"session_id": ""})).expect(400)


async def test_two_spellings_of_one_directory_are_one_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    link = house.root / "link"
    link.symlink_to(workspace.path)
    made = await asyncio.gather(*(house.new_client().create(link) for _ in range(5)))
    assert {created["id"] for created in made} == {workspace.id}
    assert {created["path"] for created in made} == {str(workspace.path)}


@pytest.mark.house(neighbour=False)
async def test_many_creates_of_one_new_directory_make_one_workspace(house: ServerHarness) -> None:
    path = house.directory("fresh", "script")
    made = await asyncio.gather(*(house.new_client().create(path) for _ in range(8)))
    assert len({workspace["id"] for workspace in made}) == 1
    assert len((await house.new_client().get("/v1/workers")).json()) == 1


async def test_P11_evicted_workspace_wakes_with_its_id_and_history(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say hello"))
    before = await workspace.messages()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).expect(409)  # somebody looks
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
async def test_idle_worker_goes_to_sleep_and_a_busy_one_does_not(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run_id = await workspace.prompt("/tokens 100 100")
    await workspace.watcher.close()
    await eventually(
        lambda: _state(house, workspace.id, "asleep"), timeout_s=10, what="sleep", state=lambda: house.server.log
    )
    assert (await workspace.run(run_id))["outcome"] == "completed"


async def _state(house: ServerHarness, workspace: str, state: str) -> bool:
    return (await house.worker(workspace))["state"] == state


async def test_H05_workspace_whose_directory_is_gone(house: ServerHarness) -> None:
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
async def test_private_server_leaves_when_nobody_needs_it(house: ServerHarness) -> None:
    client = house.new_client()
    workspace = await house.workspace()
    (await client.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409)
    await workspace.watcher.close()
    (await client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)
    assert await house.server.ended() == 0
    assert not house.server.socket_path.exists()


@pytest.mark.house(neighbour=False)
async def test_managed_server_is_not_taken_down_by_a_client(house: ServerHarness) -> None:
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
