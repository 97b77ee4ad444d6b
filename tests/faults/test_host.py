"""Move, delete or lock a workspace's directory, idle or in use (H05), and leave the server's output unread (H07)."""

import asyncio
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.errors import Denied
from supervisor.workspaces.identity import resolve
from tests.faults.test_tools import bash, results
from tests.support.clients.http_client import parts_of
from tests.support.eventually import eventually
from tests.support.harness.command import command
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

NOBODY_UID = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


async def test_H07_a_server_whose_output_nobody_reads_serves_and_ends_in_order(house: ServerHarness) -> None:
    names = {"HOME": "h", "XDG_RUNTIME_DIR": "r", "XDG_STATE_HOME": "s", "XDG_CONFIG_HOME": "c"}
    root, path = house.root / "unread", house.directory("p", "script")
    for name in names.values():
        (root / name).mkdir(mode=0o700, parents=True)
    env = house.server.environment | {variable: str(root / name) for variable, name in names.items()}
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "supervisor", "serve", "--log-level", "debug"),
        cwd="/",
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    )
    try:
        await eventually((root / "r" / "bulkhead.sock").exists, timeout_s=30.0)
        for number in range(3):
            done = await command(house.server, "run", f"/say {number}", cwd=path, env=env)
            assert done.expect(0).out == f"{number}\n"
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        os.close(reader)
        os.close(writer)


@pytest.mark.house(limits={"restart_delay_s_max": 0.1})
async def test_H05_a_directory_that_is_moved_away_fails_the_workspace_until_it_is_back(house: ServerHarness) -> None:
    workspace = await with_data_outside(house)
    await workspace.ended(await workspace.prompt("/say first"))
    worker = await workspace.worker()
    moved = workspace.path.rename(house.root / "moved")
    end = await workspace.ended(
        await workspace.prompt(
            "\n".join((bash("echo never"), '/tool write {"file_path": "a", "content": "b"}', "/say over"))
        )
    )
    assert end["text"] == "over", "the turn must continue after the failed calls"
    first, second = await results(workspace)
    assert first["is_error"]
    assert f"{workspace.path} is missing" in first["content"]
    assert f"{workspace.path} is missing" in second["content"]
    assert not workspace.path.exists(), "a tool created the directory again"
    assert texts(await workspace.messages())[:2] == ["/say first", "first"]
    assert worker.is_alive
    body = {"path": str(workspace.path), "client_id": workspace.client.client_id, "version": "test"}
    assert (await workspace.client.post("/v1/workspaces", body)).status == 400

    await worker.kill()  # from now on only a start can notice that the directory is missing
    await wait_for_state(house, workspace, "failed")
    row = await house.worker(workspace.id)
    assert "directory missing" in row["reason"]
    for _ in range(3):
        refused = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(409)
        assert refused.code == "workspace_moved"
    prompt = {"session_id": workspace.session, "prompt": "/say never"}
    assert (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", prompt)).expect(
        409
    ).code == "workspace_moved"
    assert (await house.worker(workspace.id))["generation"] == row["generation"], (
        "the worker is started again and again"
    )

    moved.rename(workspace.path)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    assert texts(await workspace.messages())[:2] == ["/say first", "first"]
    await workspace.works_with_new_stream()


async def test_H05_a_directory_that_is_moved_away_with_its_database_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    await workspace.ended(await workspace.prompt("/say first"))
    row = await house.worker(workspace.id)
    moved = workspace.path.rename(house.root / "moved")
    prompt = {"session_id": workspace.session, "prompt": "/say never"}
    for _ in range(3):
        answer = await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", prompt)
        assert (answer.status, answer.code) in ((503, "storage_failed"), (409, "workspace_moved")), answer
    assert texts(await workspace.messages())[:2] == ["/say first", "first"], "the history must stay readable"
    assert not workspace.path.exists(), "the directory was created again"
    assert (await house.worker(workspace.id))["generation"] == row["generation"]
    await (await workspace.worker()).kill()
    await wait_for_state(house, workspace, "failed")
    assert (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(409).code == "workspace_moved"
    moved.rename(workspace.path)


async def test_H05_a_run_ends_in_order_when_its_directory_is_deleted(house: ServerHarness) -> None:
    workspace = await with_data_outside(house)
    pipe, go = house.pipe(), house.root / "go"
    command = f"echo $$ > {pipe.path}; until [ -e {go} ]; do sleep 0.02; done; echo x > made; echo rc=$?"
    run, _ = await workspace.tool_running(command, pipe)
    shutil.rmtree(workspace.path)
    go.touch()
    end = await workspace.ended(run)
    assert "error" not in end, end
    [first] = await results(workspace)
    assert "rc=1" in first["content"]
    await workspace.ended(await workspace.prompt(bash("echo never")))
    assert f"{workspace.path} is missing" in (await results(workspace))[-1]["content"]
    await workspace.works()


async def test_H05_another_directory_at_the_same_path_gets_no_worker(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    moved = workspace.path.rename(house.root / "moved")
    workspace.path.mkdir()
    await worker.kill()
    await wait_for_state(house, workspace, "failed")
    refused = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(409)
    assert refused.code == "workspace_moved"
    assert b"bulkhead run" in refused.body
    workspace.path.rmdir()
    moved.rename(workspace.path)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works_with_new_stream()


async def test_H06_a_directory_made_again_has_the_conversations_that_are_kept_elsewhere(house: ServerHarness) -> None:
    workspace = await with_data_outside(house)
    await workspace.ended(await workspace.prompt("/say first"))
    worker = await workspace.worker()
    shutil.rmtree(workspace.path)
    workspace.path.mkdir()
    await worker.kill()
    await wait_for_state(house, workspace, "failed")
    assert texts(await workspace.messages()) == ["/say first", "first"]
    await workspace.works_with_new_stream()


@as_root
def test_H05_a_directory_that_cannot_be_read_is_refused_with_403(tmp_path: Path) -> None:
    private, below = tmp_path / "private", tmp_path / "private" / "below"
    below.mkdir(parents=True)
    private.chmod(0o700)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    tmp_path.chmod(0o755)
    with as_nobody():
        for path in (private, below):
            with pytest.raises(Denied, match="may not") as refused:
                resolve(str(path), [])
            assert refused.value.status == 403


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block as another user."""
    os.setresuid(NOBODY_UID, NOBODY_UID, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


async def with_data_outside(house: ServerHarness) -> WorkspaceFixture:
    """Create a workspace whose data directory is outside of its own directory."""
    return await house.workspace(yolo=True, data_dir=str(house.root / "data"))


async def wait_for_state(house: ServerHarness, workspace: WorkspaceFixture, state: str) -> None:
    """Wait until the workspace is in a state."""

    async def has_state() -> bool:
        return bool((await house.worker(workspace.id))["state"] == state)

    await eventually(has_state, timeout_s=10, what=state, state=lambda: house.server.log[-3000:])


def texts(messages: list[dict[str, object]]) -> list[str]:
    """Return the texts of the messages, oldest first."""
    return [part["text"] for message in messages for part in parts_of(message, "text")]
