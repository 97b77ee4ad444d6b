"""http-api 5: who shares a workspace, whose claim keeps it awake for how long, and how a server is asked to leave.

A claim cannot be seen, but what it prevents can: as long as there is one, the workspace is not put to sleep.
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
BEAT = {"heartbeat_interval_s": 0.05}
HELD = BEAT | {"create_grace_s": LONG, "detach_grace_s": LONG}

pytestmark = pytest.mark.house(limits=HELD, neighbour=False)


async def may_sleep(client: Client, workspace: str) -> bool:
    """Puts the workspace to sleep if nobody has a claim on it."""
    answer = await client.post(f"/v1/workspaces/{workspace}/evict")
    assert answer.status in (200, 409), answer
    return answer.status == 200


async def unclaimed(house: ServerHarness, workspace: str) -> None:
    """Returns when the last claim has gone."""
    client = house.new_client()
    await eventually(lambda: may_sleep(client, workspace), timeout_s=10, what="a workspace without claims")


async def claimed(house: ServerHarness, workspace: str) -> None:
    """The workspace is kept awake, also after time enough for one that is not."""
    control = house.new_client()
    path = house.directory(f"control-{uuid.uuid4().hex[:6]}", "script")
    other = (await control.create(path))["id"]
    await release(control, other)
    await unclaimed(house, other)
    assert not await may_sleep(control, workspace)


async def release(client: Client, workspace: str) -> None:
    (await client.request("DELETE", f"/v1/workspaces/{workspace}?client_id={client.client_id}")).expect(200)


async def retire(client: Client) -> None:
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)


async def look(client: Client, workspace: str, session: str) -> int:
    path = f"/v1/workspaces/{workspace}/current-session?client_id={client.client_id}"
    return (await client.post(path, {"session_id": session})).status


async def attached(house: ServerHarness, workspace: WorkspaceFixture, count: int) -> None:
    """So many clients have a stream now."""

    async def are() -> bool:
        return bool((await house.worker(workspace.id))["clients"] == count)

    await eventually(are, what=f"{count} attached clients")


async def viewers(workspace: WorkspaceFixture) -> int:
    return int((await workspace.client.session(workspace.id, workspace.session))["attached_clients"])


# --- one directory, one workspace ---------------------------------------------------------------------------------


async def test_every_spelling_of_a_directory_is_its_workspace(house: ServerHarness) -> None:
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
        wish = {"path": path, "client_id": client.client_id, "env": env, "channels": ["x"], "data_dir": "/elsewhere"}
        found = (await client.post("/v1/workspaces", wish)).expect(200).json()
        assert found == first, (path, found)
    assert len((await client.get("/v1/workspaces")).json()) == 1
    assert (await client.get(f"/v1/workspaces/{first['id']}")).json() == first


async def test_the_first_creator_of_a_relative_path_gets_an_absolute_one(house: ServerHarness) -> None:
    (house.directory("here", "script") / "sub").mkdir()
    client = house.new_client()
    wish = {"path": "./sub", "client_id": client.client_id, "env": [f"PWD={house.root / 'here'}"]}
    found = (await client.post("/v1/workspaces", wish)).expect(200).json()
    assert found["path"] == str(house.root / "here" / "sub")


async def test_a_workspace_is_the_same_after_sleep_restart_and_crash(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True, debug=True, channels=["b", "a"], env=["A=1"])
    lasting = ("id", "path", "data_dir", "yolo", "debug", "channels", "version")
    before = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).json()
    assert [before["yolo"], before["debug"], before["channels"]] == [True, True, ["b", "a"]]
    await workspace.watcher.close()
    await release(workspace.client, workspace.id)
    await unclaimed(house, workspace.id)
    woken = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).json()
    assert woken == before
    await house.server.kill9()
    await house.server.restart()
    crashed = await workspace.client.create(workspace.path, channels=["b", "a"], yolo=False)
    assert await house.server.stop() == 0
    await house.server.restart()
    restarted = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(200).json()
    for later in (crashed, restarted):
        assert {key: later[key] for key in lasting} == {key: before[key] for key in lasting}
    refused = await workspace.client.post(
        "/v1/workspaces", {"path": str(workspace.path), "client_id": workspace.client.client_id}
    )
    assert refused.expect(409).code == "conflict"


async def test_version_tells_all_five_and_another_clients_version_is_welcome(house: ServerHarness) -> None:
    client = house.new_client()
    version = (await client.get("/v1/version")).expect(200).json()
    assert set(version) == {"version", "commit", "build_id", "go_version", "platform"}
    assert all(isinstance(value, str) for value in version.values())
    assert version["version"] == BULKHEAD_VERSION
    assert version["platform"].startswith(f"{os.uname().sysname.lower()}/")
    workspace = await client.create(house.directory("w", "script"), version="v999.0.0-devel+x")
    assert workspace["version"] == BULKHEAD_VERSION


# --- claims -------------------------------------------------------------------------------------------------------


@pytest.mark.house(limits=HELD | {"create_grace_s": SHORT}, neighbour=False)
async def test_a_creator_that_never_listens_is_forgotten_after_the_create_grace(house: ServerHarness) -> None:
    client = house.new_client()
    workspace = (await client.create(house.directory("w", "script")))["id"]
    await unclaimed(house, workspace)
    assert (await client.get(f"/v1/workspaces/{workspace}")).status == 200  # it wakes, under the same id


@pytest.mark.house(limits=HELD | {"create_grace_s": SHORT}, neighbour=False)
async def test_a_creator_that_listens_is_held_by_the_detach_grace_from_then_on(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await claimed_by_stream(house, workspace)
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    await eventually(lambda: may_sleep_control(house), what="the same time for one without claims")
    assert not await may_sleep(workspace.client, workspace.id)


async def claimed_by_stream(house: ServerHarness, workspace: WorkspaceFixture) -> None:
    await attached(house, workspace, 1)
    assert not await may_sleep(workspace.client, workspace.id)


async def may_sleep_control(house: ServerHarness) -> bool:
    """A workspace that was created now and never listened to is let go in the end."""
    client = house.new_client()
    path = house.root / "control"
    if not path.exists():
        house.directory("control", "script")
    workspace = (await client.create(path))["id"]
    await unclaimed(house, workspace)
    return True


@pytest.mark.house(limits=HELD | {"detach_grace_s": SHORT}, neighbour=False)
async def test_a_lost_stream_is_forgotten_after_the_detach_grace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)


async def test_a_lost_stream_begins_a_grace_in_which_the_client_may_come_back(house: ServerHarness) -> None:
    workspace = await house.workspace()
    assert await look(workspace.client, workspace.id, workspace.session) == 200
    assert await viewers(workspace) == 1
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    assert await viewers(workspace) == 0
    assert await look(workspace.client, workspace.id, "") == 409
    await claimed(house, workspace.id)
    await house.watch(workspace.id, name="again", client=workspace.client)
    assert await viewers(workspace) == 1  # what it looked at was kept


async def test_a_claim_that_was_given_back_forgets_what_its_client_looked_at(house: ServerHarness) -> None:
    workspace = await house.workspace()
    assert await look(workspace.client, workspace.id, workspace.session) == 200
    await release(workspace.client, workspace.id)
    assert await viewers(workspace) == 1  # a release cuts no stream
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)
    await house.watch(workspace.id, name="again", client=workspace.client)
    assert await viewers(workspace) == 0


async def test_streams_of_one_client_are_one_claim(house: ServerHarness) -> None:
    workspace = await house.workspace()
    second = await house.watch(workspace.id, name="second", client=workspace.client)
    plain = await house.watch(workspace.id, name="plain", client=workspace.client, ids=False)
    assert await look(workspace.client, workspace.id, workspace.session) == 200
    assert (await house.worker(workspace.id))["clients"] == await viewers(workspace) == 1
    await release(workspace.client, workspace.id)
    for watcher in (workspace.watcher, second):
        await watcher.close()
    assert await viewers(workspace) == 1
    assert not await may_sleep(workspace.client, workspace.id)
    await workspace.client.prompt(workspace.id, workspace.session, "/say hello", "r-1")
    await plain.ended("r-1")
    await plain.close()
    await unclaimed(house, workspace.id)  # released before, so without a grace


async def test_a_release_before_any_stream_ends_the_claim_at_once(house: ServerHarness) -> None:
    client, other = house.new_client(), house.new_client()
    path = house.directory("w", "script")
    workspace = (await client.create(path))["id"]
    await other.create(path)
    await release(client, workspace)
    await release(client, workspace)
    await release(house.new_client(), workspace)
    await claimed(house, workspace)  # by the other one
    await release(other, workspace)
    await unclaimed(house, workspace)


async def test_a_create_takes_a_release_back(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await release(workspace.client, workspace.id)
    await workspace.client.create(workspace.path)
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    await claimed(house, workspace.id)


async def test_a_retired_client_is_gone_from_every_workspace(house: ServerHarness) -> None:
    client, other = house.new_client(), house.new_client()
    paths = [house.directory(name, "script") for name in ("ra", "rb")]
    first, second = [(await client.create(path))["id"] for path in paths]
    session = await client.create_session(first)
    watcher = await house.watch(first, name="retired", client=client)
    assert await look(client, first, session) == 200
    await retire(client)
    await unclaimed(house, second)
    assert (await client.session(first, session))["attached_clients"] == 0
    assert await look(client, first, session) == 409
    (await client.submit(first, session, "/say still", "r-1")).expect(202)
    assert (await watcher.ended("r-1"))["text"] == "still"  # its stream lives as long as the workspace
    assert watcher.ends == []
    for path in (*paths, house.directory("rc", "script")):
        answer = await client.post("/v1/workspaces", {"path": str(path), "client_id": client.client_id})
        assert answer.expect(409).code == "client_retired"
    await retire(client)
    await retire(other)  # never seen
    assert (await other.post("/v1/workspaces", {"path": str(paths[0]), "client_id": other.client_id})).status == 409
    assert len((await client.get("/v1/workspaces")).json()) == 2
    await watcher.close()
    await unclaimed(house, first)  # no grace for one that has retired


async def test_a_run_outlives_its_last_client(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    await workspace.watcher.close()
    await retire(workspace.client)
    assert not await may_sleep(workspace.client, workspace.id)
    await call.reply(" three")

    async def ended() -> bool:
        return (await workspace.run(run))["state"] == "ended"

    await eventually(ended, what="the end of the run")
    assert (await workspace.run(run))["outcome"] == "completed"
    await unclaimed(house, workspace.id)
    assert (await workspace.run(run))["outcome"] == "completed"


# --- how a server is asked to leave -------------------------------------------------------------------------------


class Line:
    """One connection that stays, for a server whose socket goes away."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> "Line":
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def say(self, method: str, path: str, body: object) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        self._writer.write(head(method, path, {"Content-Length": str(len(data)), "Content-Type": "text/plain"}) + data)
        async with asyncio.timeout(10):
            status, headers = await read_head(self._reader)
            answer = await self._reader.readexactly(int(headers["content-length"]))
        return status, json.loads(answer) if answer else None


@pytest.mark.parametrize("command", ["shutdown", "shutdown_if_idle"])
@pytest.mark.house(
    limits=HELD | {"control_grace_s": 1.0}, arguments=("--idle-exit", "600"), neighbour=False, zygote="shared"
)
async def test_an_idle_private_server_leaves_when_it_is_asked(house: ServerHarness, command: str) -> None:
    workspace = await house.workspace()
    client = house.new_client()
    body = {"command": command}
    assert (await client.post("/v1/control", body)).expect(409).code == "not_idle"
    await workspace.watcher.close()
    await attached(house, workspace, 0)
    assert (await client.post("/v1/control", body)).expect(409).code == "not_idle"  # held by the grace
    await release(workspace.client, workspace.id)
    await unclaimed(house, workspace.id)
    async with Line(house.server.socket_path) as line:
        assert await line.say("POST", "/v1/control", body) == (200, None)
        assert not house.server.socket_path.exists()  # the client looks for two seconds
        wish = {"path": str(workspace.path), "client_id": client.client_id}
        status, refused = await line.say("POST", "/v1/workspaces", wish)
        assert (status, refused["code"]) == (503, "server_exiting")
        assert (await line.say("POST", "/v1/control", body))[0] == 200  # granted before
        assert (await line.say("GET", "/v1/health", None))[0] == 200
    assert await house.server.ended() == 0


@pytest.mark.house(limits=HELD, arguments=("--idle-exit", "600"), neighbour=False)
async def test_the_socket_goes_at_once_although_a_worker_takes_its_time(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await release(workspace.client, workspace.id)
    house.failpoints.arm("close.c", workspace=workspace.id)

    async def granted() -> bool:
        return (await workspace.client.post("/v1/control", {"command": "shutdown_if_idle"})).status == 200

    await eventually(granted, what="an idle server")
    assert not house.server.socket_path.exists()
    hit = await house.failpoints.reached("close.c")
    hit.release()
    assert await house.server.ended() == 0


@pytest.mark.house(arguments=("--idle-exit", "600"), neighbour=False)
async def test_a_create_under_way_keeps_the_server(house: ServerHarness) -> None:
    house.failpoints.arm("wake.before_spawn")
    client = house.new_client()
    creating = asyncio.ensure_future(client.create(house.directory("w", "script")))
    hit = await house.failpoints.reached("wake.before_spawn")
    other = house.new_client()
    assert (await other.post("/v1/control", {"command": "shutdown_if_idle"})).expect(409).code == "not_idle"
    (await other.get("/v1/health")).expect(200)
    hit.release()
    assert (await creating)["id"]


@pytest.mark.house(limits=HELD, neighbour=False)
async def test_a_managed_server_stays_whoever_asks_and_however_idle(house: ServerHarness) -> None:
    client = house.new_client()
    for command in ("shutdown", "shutdown_if_idle"):
        answer = await client.post("/v1/control", {"command": command})
        assert answer.expect(409).code == "not_idle"
        assert "managed" in answer.json()["message"]
    for body in ({"command": ""}, {}, {"command": "SHUTDOWN"}):
        assert (await client.post("/v1/control", body)).expect(400).code == "bad_input"
    assert house.server.socket_path.exists()


@pytest.mark.house(
    limits=BEAT | {"create_grace_s": LONG},
    env={"CRUSH_SERVER_DETACH_GRACE": "0", "CRUSH_SERVER_IDLE_TIMEOUT": "soon"},
    neighbour=False,
)
async def test_the_detach_grace_of_the_reference_server_counts(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.watcher.close()
    await unclaimed(house, workspace.id)
    answer = await workspace.client.post("/v1/control", {"command": "shutdown_if_idle"})
    assert answer.expect(409).code == "not_idle"  # what is no number is not set: the server is managed


@pytest.mark.house(limits=HELD, env={"CRUSH_SERVER_IDLE_TIMEOUT": "0"}, neighbour=False)
async def test_the_idle_time_of_the_reference_server_counts(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    await workspace.watcher.close()
    await retire(workspace.client)
    assert await house.server.ended() == 0
    assert not house.server.socket_path.exists()
