"""Test that a state directory has one server, that clients find it, and that its runtime files may vanish."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.harness.command import command
from tests.support.harness.server_harness import ServerHarness


def elsewhere(house: ServerHarness, name: str = "r2") -> dict[str, str]:
    """Return the environment of a login with another runtime directory."""
    path = house.root / name
    path.mkdir(mode=0o700, exist_ok=True)
    return {"XDG_RUNTIME_DIR": str(path)}


async def test_S22_a_second_server_on_one_state_directory_is_refused(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("on ")
    worker = await workspace.worker()
    refused = house.server.run_another(env=elsewhere(house))
    assert refused.returncode == 3, refused.stderr
    assert f"pid {house.server.pid}" in refused.stderr
    assert str(house.server.socket_path) in refused.stderr
    assert "--state-dir" in refused.stderr
    await call.reply("and on")
    assert (await workspace.ended(run))["text"] == "on and on"
    assert worker.is_alive


async def test_S22_the_same_state_directory_by_another_path_is_refused(house: ServerHarness) -> None:
    link = house.root / "link"
    link.symlink_to(house.server.state_dir.parent)
    refused = house.server.run_another("--state-dir", str(link / "bulkhead"), env=elsewhere(house))
    assert refused.returncode == 3, refused.stderr
    assert "state directory" in refused.stderr


async def test_S22_a_state_directory_that_was_removed_is_owned_again(house: ServerHarness) -> None:
    workspace = await house.workspace()
    lock = house.server.state_dir / "supervisor.lock"
    record = house.server.state_dir / "workers" / f"{workspace.id}.json"
    before = json.loads((house.server.state_dir / "identity").read_text())["id"]
    for path in (lock, record, house.server.state_dir / "identity", house.server.state_dir / "epoch"):
        path.unlink()
    await eventually(lambda: lock.exists() and record.exists(), what="lock and record made again")
    assert json.loads((house.server.state_dir / "identity").read_text())["id"] == before
    refused = house.server.run_another(env=elsewhere(house))
    assert refused.returncode == 3, refused.stderr
    await workspace.works()


async def test_S22_a_copied_state_directory_is_another_one(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    before = json.loads((house.server.state_dir / "identity").read_text())["id"]
    marker = f"BULKHEAD_WORKSPACE_ID={workspace.id}@{before}".encode()
    assert marker in Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    copy = house.root / "copy"
    shutil.copytree(house.server.state_dir, copy)
    other = house.root / "r3"
    other.mkdir(mode=0o700)
    bad_listener = house.root / "nowhere" / "x.sock"  # it ends by itself after it has read the copied state
    ended = house.server.run_another(
        "--state-dir", str(copy), "--host", f"unix://{bad_listener}", env={"XDG_RUNTIME_DIR": str(other)}
    )
    assert ended.returncode == 4, ended.stderr
    assert json.loads((copy / "identity").read_text())["id"] != before
    assert worker.is_alive
    await workspace.works()


async def test_S22_the_next_server_adopts_workers_that_look_in_another_runtime_directory(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    await house.server.kill9()
    moved = house.root / "r2"
    moved.mkdir(mode=0o700)
    zygote = (house.server.runtime_dir / "zygote.sock").readlink()
    house.server.add_arguments("--runtime-dir", str(moved), "--host", f"unix://{house.server.socket_path}")
    (moved / "zygote.sock").symlink_to(zygote)
    await house.server.restart()
    await call.reply("after")
    assert (await workspace.ended(run))["text"] == "before after"
    assert (await workspace.worker()).identity == worker.identity


async def test_S22_commands_without_the_runtime_directory_find_the_server(house: ServerHarness) -> None:
    workspace = await house.workspace()
    unset = {"XDG_RUNTIME_DIR": ""}
    for env in (unset, elsewhere(house), {"XDG_RUNTIME_DIR": "/nowhere"}):
        assert workspace.id[:8] in (await command(house.server, "ps", env=env)).expect(0).out
    house.neighbour.was_ended = True
    (await command(house.server, "stop", env=unset)).expect(0)
    assert await house.server.ended() == 0


async def test_S23_a_worker_is_adopted_after_a_cleaner_has_removed_old_files(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    for path in house.server.runtime_dir.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.unlink()
    lock = house.server.runtime_dir / "supervisor.lock"
    await eventually(lock.exists, what="the lock made again")
    await house.server.kill9()
    await house.server.restart()
    await call.reply("after")
    assert (await workspace.ended(run))["text"] == "before after"
    assert (await workspace.worker()).identity == worker.identity


async def test_S23_a_worker_is_adopted_after_a_logout_has_removed_the_runtime_directory(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    zygote = os.readlink(house.server.runtime_dir / "zygote.sock")
    shutil.rmtree(house.server.runtime_dir)
    house.server.socket_path.unlink()
    await eventually(house.server.socket_path.exists, what="the API socket made again")
    await eventually((house.server.runtime_dir / "router.sock").exists, what="the router's socket made again")
    (house.server.runtime_dir / "zygote.sock").symlink_to(zygote)
    await house.server.kill9()
    await house.server.restart()
    await call.reply("after")
    assert (await workspace.ended(run))["text"] == "before after"
    assert (await workspace.worker()).identity == worker.identity


@pytest.mark.house(tcp=True)
async def test_S23_a_removed_token_is_written_again(house: ServerHarness) -> None:
    token = house.server.runtime_dir / "token"
    before = token.read_text()
    token.unlink()
    await eventually(token.exists, what="the token file made again")
    assert token.read_text() == before


async def test_S22_two_servers_with_a_state_directory_each_leave_each_other_alone(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    ended = house.server.run_another(
        "--state-dir",
        str(house.root / "s2"),
        "--host",
        f"unix://{house.root}/nowhere/x.sock",
        env=elsewhere(house),
    )
    assert ended.returncode == 4, ended.stderr
    assert worker.is_alive
    await workspace.works()
    house.server.send(signal.SIGHUP)
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    assert await house.server.ended() == 0
    await house.server.restart()
    await workspace.works()


async def test_S22_a_lock_file_that_a_crash_left_behind_stops_no_start(house: ServerHarness) -> None:
    workspace = await house.workspace()
    house.neighbour.may_reconnect = True
    workspace.watcher.resumes = True
    await house.server.kill9()
    lock = house.server.state_dir / "supervisor.lock"
    owner = json.loads(lock.read_text())
    assert owner["pid"] == house.server.pid
    lock.write_text(
        json.dumps(owner | {"pid": os.getpid(), "start_ticks": 1})
    )  # the pid belongs to another process now
    stale = await command(house.server, "ps", env={"XDG_RUNTIME_DIR": ""})
    assert stale.code == 1, stale
    await house.server.restart()
    assert json.loads(lock.read_text())["pid"] == house.server.pid
    await workspace.works()
