"""Test shared workspaces, the claims that keep a workspace awake, and requests to shut the server down.

A claim is not visible in the API, but its effect is: while a claim exists, the workspace is not evicted.
"""

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from protocol.version import BULKHEAD_VERSION
from tests.support.clients.http_client import Client, head, read_head
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

LONG, SHORT = 600.0, 0.05
FAST_HEARTBEAT = {"heartbeat_interval_s": 0.05}
LONG_GRACE = FAST_HEARTBEAT | {"create_grace_s": LONG, "detach_grace_s": LONG}

pytestmark = pytest.mark.house(limits=LONG_GRACE, neighbour=False)


async def try_evict(client: Client, workspace: str) -> bool:
    """Try to evict the workspace; return whether that worked, which means that no client had a claim on it."""
    answer = await client.post(f"/v1/workspaces/{workspace}/evict")
    assert answer.status in (200, 409), answer
    return answer.status == 200


async def unclaimed(house: ServerHarness, workspace: str) -> None:
    """Wait until the last claim is gone."""
    client = house.new_client()
    await eventually(lambda: try_evict(client, workspace), timeout_s=10, what="a workspace without claims")


async def claimed(house: ServerHarness, workspace: str) -> None:
    """Check that the workspace has a claim, at a time when an unclaimed control workspace can be evicted."""
    control_client = house.new_client()
    path = house.directory(f"control-{uuid.uuid4().hex[:6]}", "script")
    control = (await control_client.create(path))["id"]
    await release(control_client, control)
    await unclaimed(house, control)
    assert not await try_evict(control_client, workspace)


async def release(client: Client, workspace: str) -> None:
    (await client.request("DELETE", f"/v1/workspaces/{workspace}?client_id={client.client_id}")).expect(200)


async def retire(client: Client) -> None:
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)


async def view_session(client: Client, workspace: str, session: str) -> int:
    path = f"/v1/workspaces/{workspace}/current-session?client_id={client.client_id}"
    return (await client.post(path, {"session_id": session})).status


async def attached(house: ServerHarness, workspace: WorkspaceFixture, count: int) -> None:
    """Wait until `count` clients have an event stream."""

    async def has_count() -> bool:
        return bool((await house.worker(workspace.id))["clients"] == count)

    await eventually(has_count, what=f"{count} attached clients")


async def viewers(workspace: WorkspaceFixture) -> int:
    return int((await workspace.client.session(workspace.id, workspace.session))["attached_clients"])


# --- one directory, one workspace ---------------------------------------------------------------------------------


async def test_every_spelling_of_a_directory_opens_the_same_workspace(house: ServerHarness) -> None:
    real = house.directory("real", "script")
    (real / "sub").mkdir()
    link = house.root / "link"
    link.symlink_to("real")
    client = house.new_client()
    first = await client.create(Path(link), env=["A=1"], yolo=True, debug=True, channels=["x"])
    assert first["path"] == str(link)
    for path, env in (
        (str(real), []),
        (f"{real}/", ["A=2"]),
        (f"{real}//.", []),
        (f"{real}/sub/..", []),
        (f"{link}/sub/../../real", []),
        ("real", [f"PWD={house.root}"]),
        (".", [f"PWD={link}"]),
        ("../link/", ["B=2", f"PWD={link}"]),
    ):
        body = {"path": path, "client_id": client.client_id, "env": env, "channels": ["x"], "data_dir": "/elsewhere"}
        created = (await client.post("/v1/workspaces", body)).expect(200).json()
        assert created == first, (path, created)
    assert len((await client.get("/v1/workspaces")).json()) == 1
    assert (await client.get(f"/v1/workspaces/{first['id']}")).json() == first


async def test_a_relative_path_is_returned_as_an_absolute_one(house: ServerHarness) -> None:
    (house.directory("here", "script") / "sub").mkdir()
    client = house.new_client()
    body = {"path": "./sub", "client_id": client.client_id, "env": [f"PWD={house.root / 'here'}"]}
    created = (await client.post("/v1/workspaces", body)).expect(200).json()
    assert created["path"] == str(house.root / "here" / "sub")


async def test_a_workspace_is_the_same_after_sleep_restart_and_crash(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True, debug=True, channels=["b", "a"], env=["A=1"])
    stored_keys = ("id", "path", "data_dir", "yolo", "debug", "channels", "version")
    before = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).json()
    assert [before["yolo"], before["debug"], before["channels"]] == [True, True, ["b", "a"]]
    await workspace.watcher.close()
    await release(workspace.client, workspace.id)
    await unclaimed(house, workspace.id)
    after_sleep = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).json()
    assert after_sleep == before
    await house.server.kill9()
    await house.server.restart()
    after_crash = await workspace.client.create(workspace.path, channels=["b", "a"], yolo=False)
    assert await house.server.stop() == 0
    await house.server.restart()
    after_restart = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(200).json()
    for later in (after_crash, after_restart):
        assert {key: later[key] for key in stored_keys} == {key: before[key] for key in stored_keys}
    refused = await workspace.client.post(
        "/v1/workspaces", {"path": str(workspace.path), "client_id": workspace.client.client_id}
    )
    assert refused.expect(409).code == "conflict"


async def test_version_has_all_five_fields_and_a_client_may_have_another_version(house: ServerHarness) -> None:
    client = house.new_client()
    version = (await client.get("/v1/version")).expect(200).json()
    assert set(version) == {"version", "commit", "build_id", "go_version", "platform"}
    assert all(isinstance(value, str) for value in version.values())
    assert version["version"] == BULKHEAD_VERSION
    assert version["platform"].startswith(f"{os.uname().sysname.lower()}/")
    workspace = await client.create(house.directory("w", "script"), version="v999.0.0-devel+x")
    assert workspace["version"] == BULKHEAD_VERSION


# --- claims -------------------------------------------------------------------------------------------------------


@pytest.mark.house(limits=LONG_GRACE | {"create_grace_s": SHORT}, neighbour=False)
async def test_a_creator_without_a_stream_loses_its_claim_after_the_create_grace(house: ServerHarness) -> None:
    client = house.new_client()
    workspace = (await client.create(house.directory("w", "script")))["id"]
    await unclaimed(house, workspace)
    assert (await client.get(f"/v1/workspaces/{workspace}")).status == 200  # it wakes up with the same id


@pytest.mark.house(limits=LONG_GRACE | {"create_grace_s": SHORT}, neighbour=False)
async def test_a_creator_with_a_stream_keeps_its_claim_for_the_detach_grace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await claimed_by_stream(house, workspace)
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    await eventually(lambda: expire_control_claim(house), what="an unclaimed control workspace is evicted")
    assert not await try_evict(workspace.client, workspace.id)


async def claimed_by_stream(house: ServerHarness, workspace: WorkspaceFixture) -> None:
    await attached(house, workspace, 1)
    assert not await try_evict(workspace.client, workspace.id)


async def expire_control_claim(house: ServerHarness) -> bool:
    """Create a control workspace, never open its stream, and wait until its claim expires."""
    client = house.new_client()
    path = house.root / "control"
    if not path.exists():
        house.directory("control", "script")
    workspace = (await client.create(path))["id"]
    await unclaimed(house, workspace)
    return True


@pytest.mark.house(limits=LONG_GRACE | {"detach_grace_s": SHORT}, neighbour=False)
async def test_a_claim_ends_when_its_stream_is_lost_for_the_detach_grace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)


async def test_a_client_may_reconnect_within_the_detach_grace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    assert await view_session(workspace.client, workspace.id, workspace.session) == 200
    assert await viewers(workspace) == 1
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    assert await viewers(workspace) == 0
    assert await view_session(workspace.client, workspace.id, "") == 409
    await claimed(house, workspace.id)
    await house.watch(workspace.id, name="again", client=workspace.client)
    assert await viewers(workspace) == 1  # its current session was kept


async def test_a_released_claim_forgets_the_current_session_of_its_client(house: ServerHarness) -> None:
    workspace = await house.workspace()
    assert await view_session(workspace.client, workspace.id, workspace.session) == 200
    await release(workspace.client, workspace.id)
    assert await viewers(workspace) == 1  # a release closes no stream
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)
    await house.watch(workspace.id, name="again", client=workspace.client)
    assert await viewers(workspace) == 0


async def test_several_streams_of_one_client_are_one_claim(house: ServerHarness) -> None:
    workspace = await house.workspace()
    second = await house.watch(workspace.id, name="second", client=workspace.client)
    plain = await house.watch(workspace.id, name="plain", client=workspace.client, ids=False)
    assert await view_session(workspace.client, workspace.id, workspace.session) == 200
    assert (await house.worker(workspace.id))["clients"] == await viewers(workspace) == 1
    await release(workspace.client, workspace.id)
    for watcher in (workspace.watcher, second):
        await watcher.close()
    assert await viewers(workspace) == 1
    assert not await try_evict(workspace.client, workspace.id)
    await workspace.client.prompt(workspace.id, workspace.session, "/say hello", "r-1")
    await plain.ended("r-1")
    await plain.close()
    await unclaimed(house, workspace.id)  # released before, so without a grace period


async def test_a_release_before_any_stream_ends_the_claim_at_once(house: ServerHarness) -> None:
    client, other = house.new_client(), house.new_client()
    path = house.directory("w", "script")
    workspace = (await client.create(path))["id"]
    await other.create(path)
    await release(client, workspace)
    await release(client, workspace)
    await release(house.new_client(), workspace)
    await claimed(house, workspace)  # by the other client
    await release(other, workspace)
    await unclaimed(house, workspace)


async def test_a_create_after_a_release_claims_again(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await release(workspace.client, workspace.id)
    await workspace.client.create(workspace.path)
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    await claimed(house, workspace.id)


async def test_a_retired_client_loses_its_claims_on_every_workspace(house: ServerHarness) -> None:
    client, other = house.new_client(), house.new_client()
    paths = [house.directory(name, "script") for name in ("ra", "rb")]
    first, second = [(await client.create(path))["id"] for path in paths]
    session = await client.create_session(first)
    watcher = await house.watch(first, name="retired", client=client)
    assert await view_session(client, first, session) == 200
    await retire(client)
    await unclaimed(house, second)
    assert (await client.session(first, session))["attached_clients"] == 0
    assert await view_session(client, first, session) == 409
    (await client.submit(first, session, "/say still", "r-1")).expect(202)
    assert (await watcher.ended("r-1"))["text"] == "still"  # its stream stays open
    assert watcher.ends == []
    for path in (*paths, house.directory("rc", "script")):
        answer = await client.post("/v1/workspaces", {"path": str(path), "client_id": client.client_id})
        assert answer.expect(409).code == "client_retired"
    await retire(client)
    await retire(other)  # an unknown client
    assert (await other.post("/v1/workspaces", {"path": str(paths[0]), "client_id": other.client_id})).status == 409
    assert len((await client.get("/v1/workspaces")).json()) == 2
    await watcher.close()
    await unclaimed(house, first)  # no grace period for a retired client


async def test_a_run_outlives_its_last_client(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    await workspace.watcher.close()
    await retire(workspace.client)
    assert not await try_evict(workspace.client, workspace.id)
    await call.reply(" three")

    async def ended() -> bool:
        return (await workspace.run(run))["state"] == "ended"

    await eventually(ended, what="the end of the run")
    assert (await workspace.run(run))["outcome"] == "completed"
    await unclaimed(house, workspace.id)
    assert (await workspace.run(run))["outcome"] == "completed"


# --- requests to shut down ----------------------------------------------------------------------------------------


class OpenConnection:
    """A connection that stays open after the server has removed its socket file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> "OpenConnection":
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def request(self, method: str, path: str, body: object) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        self._writer.write(head(method, path, {"Content-Length": str(len(data)), "Content-Type": "text/plain"}) + data)
        async with asyncio.timeout(10):
            status, headers = await read_head(self._reader)
            answer = await self._reader.readexactly(int(headers["content-length"]))
        return status, json.loads(answer) if answer else None


@pytest.mark.parametrize("command", ["shutdown", "shutdown_if_idle"])
@pytest.mark.house(
    limits=LONG_GRACE | {"control_grace_s": 1.0}, arguments=("--idle-exit", "600"), neighbour=False, zygote="shared"
)
async def test_an_idle_private_server_exits_on_request(house: ServerHarness, command: str) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    body = {"command": command}
    assert (await client.post("/v1/control", body)).expect(409).code == "not_idle"
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    assert (await client.post("/v1/control", body)).expect(409).code == "not_idle"  # claimed during the grace period
    await release(workspace.client, workspace.id)
    await unclaimed(house, workspace.id)
    async with OpenConnection(house.server.socket_path) as connection:
        assert await connection.request("POST", "/v1/control", body) == (200, None)
        assert not house.server.socket_path.exists()  # the Crush client checks for two seconds
        creation = {"path": str(workspace.path), "client_id": client.client_id}
        status, refused = await connection.request("POST", "/v1/workspaces", creation)
        assert (status, refused["code"]) == (503, "server_exiting")
        assert (await connection.request("POST", "/v1/control", body))[0] == 200  # already granted
        assert (await connection.request("GET", "/v1/health", None))[0] == 200
    assert await house.server.ended() == 0


@pytest.mark.house(limits=LONG_GRACE, arguments=("--idle-exit", "600"), neighbour=False)
async def test_the_socket_is_removed_at_once_even_when_a_worker_is_slow_to_stop(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await release(workspace.client, workspace.id)
    house.failpoints.arm("close.c", workspace=workspace.id)

    async def granted() -> bool:
        return (await workspace.client.post("/v1/control", {"command": "shutdown_if_idle"})).status == 200

    await eventually(granted, what="a granted shutdown")
    assert not house.server.socket_path.exists()
    hit = await house.failpoints.reached("close.c")
    hit.release()
    assert await house.server.ended() == 0


@pytest.mark.house(arguments=("--idle-exit", "600"), neighbour=False)
async def test_a_create_in_progress_keeps_the_server_running(house: ServerHarness) -> None:
    house.failpoints.arm("wake.before_spawn")
    client = house.new_client()
    creating = asyncio.ensure_future(client.create(house.directory("w", "script")))
    hit = await house.failpoints.reached("wake.before_spawn")
    other = house.new_client()
    assert (await other.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409).code == "not_idle"
    (await other.get("/v1/health")).expect(200)
    hit.release()
    assert (await creating)["id"]


@pytest.mark.house(limits=LONG_GRACE, neighbour=False)
async def test_a_managed_server_refuses_every_shutdown_request_even_when_idle(house: ServerHarness) -> None:
    client = house.new_client()
    for command in ("shutdown", "shutdown_if_idle"):
        answer = await client.post("/v1/control", {"command": command})
        assert answer.expect(409).code == "not_idle"
        assert "managed" in answer.json()["message"]
    for body in ({"command": ""}, {}, {"command": "SHUTDOWN"}):
        assert (await client.post("/v1/control", body)).expect(400).code == "bad_input"
    assert house.server.socket_path.exists()


@pytest.mark.house(
    limits=FAST_HEARTBEAT | {"create_grace_s": LONG},
    env={"CRUSH_SERVER_DETACH_GRACE": "0", "CRUSH_SERVER_IDLE_TIMEOUT": "soon"},
    neighbour=False,
)
async def test_the_detach_grace_variable_of_the_reference_server_is_obeyed(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)
    answer = await workspace.client.post("/v1/control", {"command": "shutdown_if_idle"})
    assert answer.expect(409).code == "not_idle"  # not a number, so unset: a managed server


@pytest.mark.house(limits=LONG_GRACE, env={"CRUSH_SERVER_IDLE_TIMEOUT": "0"}, neighbour=False)
async def test_the_idle_timeout_variable_of_the_reference_server_is_obeyed(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    await workspace.watcher.close()
    await retire(workspace.client)
    assert await house.server.ended() == 0
    assert not house.server.socket_path.exists()
