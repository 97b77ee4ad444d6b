"""Test configuration changes over HTTP: the files they write, the clients that are notified, and crashes meanwhile."""

import asyncio
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import api_shapes
from tests.support.clients.http_client import Response
from tests.support.clients.stream_reader import StreamReader
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together

pytestmark = pytest.mark.house(neighbour=False)

MODEL = {"model": "script", "provider": "builtin"}
OTHER = MODEL | {"max_tokens": 77}


def state_file(house: ServerHarness) -> Path:
    """Return the path of the file that scope 0 writes."""
    return house.root / "h" / ".local" / "share" / "bulkhead" / "bulkhead.json"


async def read_config(workspace: WorkspaceFixture) -> dict[str, Any]:
    value: dict[str, Any] = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/config")).expect(200).json()
    api_shapes.CONFIG(value, "config")
    return value


async def change_config(workspace: WorkspaceFixture, what: str, **body: object) -> Response:
    return await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/{what}", body)


async def notified(watcher: StreamReader, workspace: WorkspaceFixture, *, skip: int = 0) -> None:
    """Wait until the watcher receives `config_changed` for this workspace."""
    event = await watcher.wait(lambda e: e.kind == "config_changed", what="config_changed", skip=skip)
    assert (event.change, event.payload) == ("updated", {"workspace_id": workspace.id})


def notifications(watcher: StreamReader) -> int:
    return sum(event.kind == "config_changed" for event in watcher.seen)


# --- notifications ------------------------------------------------------------------------------------------------


async def test_a_change_for_the_user_reaches_every_workspace(house: ServerHarness) -> None:
    first, second = await house.workspace("first"), await house.workspace("second")
    plain = await house.watch(second.id, name="plain", ids=False)
    (await change_config(first, "set", scope=0, key="options.notifications", value="bell")).expect(200)
    await notified(first.watcher, first)
    for watcher in (second.watcher, plain):
        await notified(watcher, second)
    assert (await read_config(second))["options"]["notifications"] == "bell"
    seen = len(first.watcher.seen)
    (await change_config(second, "model", scope=0, model_type="large", model=OTHER)).expect(200)
    await notified(first.watcher, first, skip=seen)
    assert (await first.client.agent(first.id))["model_cfg"] == OTHER


async def test_a_change_for_one_workspace_does_not_reach_another(house: ServerHarness) -> None:
    first, second = await house.workspace("first"), await house.workspace("second")
    (await change_config(first, "compact", scope=1, enabled=True)).expect(200)
    await notified(first.watcher, first)
    # Both receive the next change for the user; the second one must not have received the first change before it.
    (await change_config(first, "set", scope=0, key="options.notifications", value="bell")).expect(200)
    await notified(second.watcher, second)
    assert notifications(second.watcher) == 1
    assert "compact_mode" not in (await read_config(second))["options"]["tui"]
    assert json.loads((first.data_dir / "bulkhead.json").read_text()) == {"options": {"tui": {"compact_mode": True}}}
    assert json.loads(state_file(house).read_text()) == {"options": {"notifications": "bell"}}


async def test_a_workspace_is_not_notified_of_a_change_without_effect_on_it(house: ServerHarness) -> None:
    first, second = await house.workspace("first"), await house.workspace("second")
    (await change_config(second, "set", scope=1, key="options.notifications", value="osc")).expect(200)
    (await change_config(second, "set", scope=0, key="options.progress", value=True)).expect(200)
    (await change_config(first, "set", scope=0, key="options.notifications", value="bell")).expect(200)
    (await change_config(first, "set", scope=0, key="options.progress", value=False)).expect(200)
    await second.watcher.wait(lambda _: notifications(second.watcher) == 3, what="its own changes and the last one")
    options = (await read_config(second))["options"]
    assert (options["notifications"], options["progress"]) == ("osc", False)
    assert notifications(second.watcher) == 3


async def test_a_sleeping_workspace_is_not_woken_by_a_change_and_reads_it_when_it_wakes(house: ServerHarness) -> None:
    first, second = await house.workspace("first"), await house.workspace("second")
    await second.watcher.close()
    (await second.client.request("DELETE", f"/v1/workspaces/{second.id}?client_id={second.client.client_id}")).expect(
        200
    )

    async def evicted() -> bool:
        return (await second.client.post(f"/v1/workspaces/{second.id}/evict")).status == 200

    await eventually(evicted, timeout_s=10, what="eviction")  # after a heartbeat that reports no open run
    (await change_config(first, "set", scope=0, key="options.notifications", value="bell")).expect(200)
    await notified(first.watcher, first)
    assert (await house.worker(second.id))["state"] == "asleep"
    assert (await read_config(second))["options"]["notifications"] == "bell"


async def test_a_change_does_not_disturb_a_running_turn_of_another_workspace(house: ServerHarness) -> None:
    first, second = await house.workspace("first"), await house.workspace("second", model="openai")
    run, call = await second.streaming()
    (await change_config(first, "set", scope=0, key="options.notifications", value="bell")).expect(200)
    await notified(second.watcher, second)
    assert (await second.client.agent(second.id))["is_busy"] is True
    await call.reply(" three")
    assert (await second.ended(run))["text"] == "one two three"


async def test_reading_the_configuration_notifies_no_client(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for path in ("agent/init", "agent/update"):
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/{path}")).expect(200)
    await read_config(workspace)
    await workspace.works()
    assert notifications(workspace.watcher) == 0  # or a client that updates on each notification would loop for ever


async def test_concurrent_writers_lose_no_change(house: ServerHarness) -> None:
    workspaces = [await house.workspace(name) for name in ("first", "second")]
    answers = await together(
        *(
            change_config(workspace, "set", scope=0, key=f"own.{workspace.path.name}{n}", value=n)
            for workspace in workspaces
            for n in range(10)
        )
    )
    assert [answer.status for answer in answers] == [200] * 20
    assert len(json.loads(state_file(house).read_text())["own"]) == 20


# --- files --------------------------------------------------------------------------------------------------------


async def test_files_that_the_user_wrote_are_read_and_never_written(house: ServerHarness) -> None:
    written = '{"options": {"debug_lsp": true},\n\n  "mine": [1,2]}'
    user_file = house.root / "c" / "bulkhead" / "bulkhead.json"
    user_file.parent.mkdir()
    user_file.write_text(written)
    path = house.directory("w2", "script")
    (path / ".bulkhead.json").write_text(written)
    client = house.new_client()
    workspace = (await client.create(path))["id"]
    for scope in (0, 1):
        body = {"scope": scope, "key": "options.debug_lsp", "value": False}
        (await client.post(f"/v1/workspaces/{workspace}/config/set", body)).expect(200)
        (await client.post(f"/v1/workspaces/{workspace}/config/remove", {"scope": scope, "key": "mine"})).expect(200)
    assert user_file.read_text() == (path / ".bulkhead.json").read_text() == written
    value = (await client.get(f"/v1/workspaces/{workspace}/config")).json()
    assert value["options"]["debug_lsp"] is False


@pytest.mark.house(start=False, neighbour=False)
async def test_a_change_keeps_everything_else_in_the_file(house: ServerHarness) -> None:
    real = house.root / "dotfiles" / "b.json"
    real.parent.mkdir()
    real.write_text('{"zeta": {"unknown": [1]}, "options": {"progress": false}}')
    path = state_file(house)
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    await house.start()
    workspace = await house.workspace()
    (await change_config(workspace, "provider-key", scope=0, provider_id="groq", kind="string", api_key="k-1")).expect(
        200
    )
    (await change_config(workspace, "compact", scope=0, enabled=True)).expect(200)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert json.loads(real.read_text()) == {
        "zeta": {"unknown": [1]},
        "options": {"progress": False, "tui": {"compact_mode": True}},
        "providers": {"groq": {"api_key": "k-1"}},
    }
    assert "k-1" not in house.server.log


@pytest.mark.parametrize("scope", [0, 1])
async def test_a_broken_file_is_named_and_left_alone(house: ServerHarness, scope: int) -> None:
    workspace = await house.workspace()
    broken = '{\n  "options": {\n    // mine\n  }\n}'
    path = state_file(house) if scope == 0 else workspace.data_dir / "bulkhead.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(broken)
    for what, body in (
        ("set", {"key": "options.progress", "value": True}),
        ("remove", {"key": "options.progress"}),
        ("compact", {"enabled": True}),
        ("model", {"model_type": "large", "model": MODEL}),
        ("provider-key", {"provider_id": "groq", "kind": "string", "api_key": "k"}),
    ):
        refused = (await change_config(workspace, what, scope=scope, **body)).expect(400)
        assert refused.code == "bad_input"
        assert f"{path}: line 3, column 5" in refused.json()["message"]
    assert path.read_text() == broken
    assert notifications(workspace.watcher) == 0
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say hello")
    assert refused.expect(400).code == "agent_not_ready"
    assert f"{path}: line 3, column 5" in refused.json()["message"]
    path.write_text("{}")
    await workspace.works()


async def test_a_change_in_progress_when_the_worker_is_killed_is_made_once_by_the_next_worker(
    house: ServerHarness,
) -> None:
    workspace = await house.workspace()
    (await change_config(workspace, "compact", scope=1, enabled=True)).expect(200)
    path = workspace.data_dir / "bulkhead.json"
    before = path.read_bytes()
    worker = await workspace.worker()
    with (workspace.data_dir / "bulkhead.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        request = asyncio.ensure_future(change_config(workspace, "set", scope=1, key="options.progress", value=False))
        await eventually(lambda: has_open(worker.pid, lock.name), what="the worker waits for the lock")
        await worker.kill()
        assert path.read_bytes() == before
    (await request).expect(200)
    assert json.loads(path.read_text()) == {"options": {"tui": {"compact_mode": True}, "progress": False}}
    assert (await read_config(workspace))["options"]["progress"] is False


def has_open(pid: int, name: str) -> bool:
    """Return whether the process has this file open."""
    return any(_target(link) == name for link in Path(f"/proc/{pid}/fd").iterdir())


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
