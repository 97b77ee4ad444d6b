"""Move, copy, remove and adopt the folders of real workspaces, with workers that run."""

import json
import shutil
from pathlib import Path

import pytest

from protocol.workspace_mark import read_mark
from tests.support.eventually import eventually
from tests.support.harness.command import command
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


async def test_a_folder_renamed_while_its_worker_streams_is_the_same_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say first"))
    run_id = await workspace.prompt("/tokens 5000 20")
    await workspace.watcher.text(workspace.session, "t1 t2")
    new = workspace.path.rename(house.root / "new")
    found = await house.new_client().create(new)
    assert found["id"] == workspace.id
    assert found["path"] == str(new)
    assert found["data_dir"] == str(new / ".bulkhead")
    await workspace.ended(run_id)
    assert (await workspace.run(run_id))["state"] == "ended"
    assert "t1 t2" in json.dumps(await workspace.last_assistant())
    assert not workspace.path.exists()
    await workspace.works_with_new_stream()


async def test_a_folder_renamed_while_its_worker_sleeps_is_found_by_the_command_line(house: ServerHarness) -> None:
    path = house.directory("old", "script")
    (await command(house.server, "run", "/say before", cwd=path)).expect(0)
    [before] = await rows(house, path)
    new = path.rename(house.root / "new")
    assert await prompts(house, new) == ["/say before"], "also by a command that makes no workspace"
    (await command(house.server, "run", "/say after", cwd=new)).expect(0)
    assert [row["id"] for row in await rows(house, new)] == [before["id"]]
    assert await rows(house, path) == []
    assert await prompts(house, new) == ["/say after", "/say before"]


async def test_a_copied_folder_is_a_workspace_of_its_own_with_the_conversations(house: ServerHarness) -> None:
    path, copied = house.directory("w", "script"), house.root / "copied"
    (await command(house.server, "run", "/say first", cwd=path)).expect(0)
    (await command(house.server, "restart", cwd=path)).expect(0)
    shutil.copytree(path, copied)
    (await command(house.server, "run", "/say second", cwd=copied)).expect(0)
    [original], [made] = await rows(house, path), await rows(house, copied)
    assert original["id"] != made["id"]
    assert read_mark(path / ".bulkhead") == original["id"]
    assert read_mark(copied / ".bulkhead") == made["id"]
    assert await prompts(house, copied) == ["/say second", "/say first"]
    assert await prompts(house, path) == ["/say first"]


async def test_a_folder_removed_and_cloned_again_works_at_once(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (await command(house.server, "run", "/say first", cwd=path)).expect(0)
    [before] = await rows(house, path)
    shutil.rmtree(path)
    path.mkdir()
    assert (await command(house.server, "run", "/say again", cwd=path)).expect(0).out == "again\n"
    [after] = await rows(house, path)
    assert after["id"] != before["id"]
    assert await prompts(house, path) == ["/say again"]


async def test_a_folder_restored_from_a_backup_continues_under_its_id(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say first"))
    await sleep(workspace)
    shutil.copytree(workspace.path, house.root / "backup")
    shutil.rmtree(workspace.path)
    shutil.copytree(house.root / "backup", workspace.path)
    sessions = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(200).json()
    assert [session["id"] for session in sessions] == [workspace.session]
    assert (await house.new_client().create(workspace.path))["id"] == workspace.id
    await workspace.works_with_new_stream()


async def test_the_list_of_the_server_is_removed_and_no_workspace_is_lost(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await sleep(workspace)
    for file in (house.root / "s" / "bulkhead").glob("roster.db*"):
        file.unlink()
    other = await house.new_client().create(house.directory("other", "script"))
    assert read_mark(workspace.path / ".bulkhead") == workspace.id
    assert (house.root / "s" / "bulkhead" / "roster.db").exists()
    assert {workspace.id, other["id"]} <= {row["id"] for row in await rows(house, None)}


@pytest.mark.parametrize("configured", ["../shared", "{root}/shared"])
async def test_two_workspaces_with_one_configured_data_directory_get_a_place_each(
    house: ServerHarness, configured: str
) -> None:
    places: list[tuple[str, Path]] = []
    for name in ("one", "two"):
        path = house.directory(name, "script")
        options = {"options": {"data_directory": configured.format(root=house.root)}}
        (path / "bulkhead.json").write_text(json.dumps(options))
        found = await house.new_client().create(path)
        places.append((found["id"], Path(found["data_dir"])))
    (first, root), (second, below) = places
    assert root == house.root / "shared"
    assert below == root / second
    assert read_mark(root) == first
    for workspace_id, _ in places:
        assert (await house.worker(workspace_id))["restarts"] == 0


async def test_forget_and_adopt_by_the_command_line(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (await command(house.server, "run", "/say first", cwd=path)).expect(0)
    [row] = await rows(house, path)
    refused = (await command(house.server, "forget", cwd=path)).expect(1)
    assert "--yes" in refused.err
    unknown = (await command(house.server, "forget", str(house.root), "--yes")).expect(1)
    assert "bulkhead ps" in unknown.err
    (await command(house.server, "forget", "--gone", "--yes")).expect(0)
    (await command(house.server, "forget", row["id"][:8], "--yes")).expect(0)
    assert await rows(house, path) == []
    (await command(house.server, "run", "/say second", cwd=path)).expect(0)
    [again] = await rows(house, path)
    assert again["id"] != row["id"]
    assert await prompts(house, path) == ["/say second", "/say first"]

    shutil.rmtree(path)
    place = house.directory("place", "script")
    asked = (await command(house.server, "adopt", str(place))).expect(1)
    assert f"--as {again['id'][:8]}" in asked.err
    (await command(house.server, "adopt", ".", "--yes", cwd=place)).expect(0)
    assert [one["id"] for one in await rows(house, place)] == [again["id"]]
    (await command(house.server, "run", "/say third", cwd=place)).expect(0)
    nothing = (await command(house.server, "adopt", str(house.root))).expect(1)
    assert "--as" in nothing.err

    shutil.rmtree(place)
    (await command(house.server, "forget", "--gone", "--yes")).expect(0)
    assert await rows(house, place) == []


async def test_the_route_for_another_directory_needs_an_absolute_path(house: ServerHarness) -> None:
    workspace = await house.workspace()
    target = f"/v1/workspaces/{workspace.id}/directory"
    for body in ({"path": "relative"}, {"path": ""}, {"path": str(house.root / "nowhere")}):
        assert (await workspace.client.post(target, body)).status == 400
    refused = (await workspace.client.post(target, {"path": str(house.root)})).expect(409)
    assert refused.code == "workspace_moved"
    assert b"still at" in refused.body


async def rows(house: ServerHarness, path: Path | None) -> list[dict[str, str]]:
    """Return the workspaces that the command line lists, all or those of a path."""
    listed = (await command(house.server, "ps", "--json")).expect(0).lines()
    return [row for row in listed if path is None or row["path"] == str(path)]


async def prompts(house: ServerHarness, path: Path) -> list[str]:
    """Return the prompts of a workspace, newest first."""
    runs = (await command(house.server, "runs", "--json", cwd=path)).expect(0).lines()
    return [run["prompt"] for run in runs]


async def sleep(workspace: WorkspaceFixture) -> None:
    """End the worker, so that its files are complete; the next request starts another one."""
    await workspace.watcher.close()
    (await workspace.client.request("DELETE", f"/v1/clients/{workspace.client.client_id}")).expect(200)

    async def evicted() -> bool:
        return (await workspace.client.post(f"/v1/workspaces/{workspace.id}/evict")).status == 200

    await eventually(evicted, timeout_s=10, what="eviction")
