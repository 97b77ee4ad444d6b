"""Let commands attack files and processes outside of their workspace (T07, X09, X10).

Confined commands are refused by the kernel; the tests of this are skipped on a kernel without Landlock. What commands
that are not confined destroy is repaired.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.faults.test_tools import bash, result
from tests.support.clients.http_client import parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from worker.processes.landlock import ABI_MIN, abi


def kernel_confines() -> bool:
    """Return whether this kernel has a version of Landlock that is new enough."""
    try:
        return abi() >= ABI_MIN
    except OSError:
        return False


needs_landlock = pytest.mark.skipif(not kernel_confines(), reason=f"this kernel has no Landlock of version {ABI_MIN}")


async def output_of(workspace: WorkspaceFixture, command: str) -> str:
    """Run a command by the tool bash; return what it printed."""
    run = await workspace.prompt(bash(command))
    await workspace.ended(run, timeout_s=20.0)
    results = [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]
    return str(results[-1]["content"])


async def confined(house: ServerHarness, mode: str = "required", **tools: object) -> WorkspaceFixture:
    """Create a workspace whose commands are confined."""
    path = house.directory("w", "script")
    (path / "bulkhead.json").write_text(json.dumps({"tools": {"confine": mode, **tools}}))
    client = house.new_client()
    workspace = await client.create(path, yolo=True)
    session = await client.create_session(workspace["id"])
    watcher = await house.watch(workspace["id"], name="w", client=client)
    return WorkspaceFixture(house, workspace, session, watcher)


# --- X10: writing -----------------------------------------------------------------------------------------------------


@needs_landlock
async def test_X10_a_confined_command_can_write_only_in_its_workspace(house: ServerHarness) -> None:
    outside = house.root / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    workspace = await confined(house)
    commands = (
        f"touch {outside}/new",
        f"echo x > {outside}/kept",
        f"truncate -s 0 {outside}/kept",
        f"rm {outside}/kept",
        f"mv {outside}/kept ./taken",
        f"ln {outside}/kept ./linked",
        f"ln -s {outside} ./way && touch ./way/new",
        f"mkdir {outside}/d",
        f"sh -c 'setsid touch {outside}/new'",
        f"cp ./bulkhead.json {outside}/",
    )
    for command in commands:
        assert "rc=0" not in await output_of(workspace, f"{command}; echo rc=$?"), command
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"
    inside = "mkdir -p a/b && echo one > a/b/c && mv a/b/c a/d && ln a/d e && cat e && echo > /dev/null && cd a && rm d"
    assert "one" in await output_of(workspace, f"{inside}; echo rc=$?")
    assert "rc=0" in await output_of(workspace, "f=$(mktemp) && echo two > $f && cat $f && rm $f; echo rc=$?")
    assert "<cwd>" in await output_of(workspace, "cd a; echo; pwd")
    await workspace.works()


@needs_landlock
async def test_X10_a_confined_command_can_write_in_configured_directories(house: ServerHarness) -> None:
    outside = house.root / "outside"
    outside.mkdir()
    workspace = await confined(house, writable=[str(outside)])
    assert "rc=0" in await output_of(workspace, f"echo x > {outside}/new && cat {outside}/new; echo rc=$?")
    assert "rc=0" not in await output_of(workspace, f"touch {house.root}/new; echo rc=$?")


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_X10_a_kernel_without_landlock_runs_commands_only_in_auto_mode(house: ServerHarness, mode: str) -> None:
    workspace = await confined(house, mode)
    house.failpoints.arm("tools.confine", "error:ENOSYS", workspace=workspace.id, times=2)
    answers = [await output_of(workspace, "echo ran > ran; cat ran") for _ in range(2)]
    log = (house.server.runtime_dir / "workers" / f"{workspace.id}.log").read_text()
    if mode == "auto":
        assert all("ran" in answer for answer in answers)
        assert log.count("commands are not confined") == 1
    else:
        assert all("must be confined" in answer for answer in answers)
        assert not (workspace.path / "ran").exists()
    await workspace.works()


@needs_landlock
@pytest.mark.house(env={"BULKHEAD_CONFINE": "required"})
async def test_X10_a_project_cannot_weaken_the_setting_of_the_operator(house: ServerHarness) -> None:
    workspace = await confined(house, "off", writable=["/"])
    assert "rc=0" not in await output_of(workspace, f"touch {house.root}/new; echo rc=$?")
    assert not (house.root / "new").exists()


# --- X09: reading -----------------------------------------------------------------------------------------------------


@needs_landlock
async def test_X09_a_confined_command_cannot_read_worker_supervisor_or_other_databases(house: ServerHarness) -> None:
    neighbour = Path((await house.worker(house.neighbour.workspace))["path"])
    workspace = await confined(house)
    worker = (await workspace.worker()).pid
    for pid in (worker, house.server.pid):
        for name in ("environ", "mem", "maps", "auxv", "io"):
            answer = await output_of(workspace, f"head -c 1 /proc/{pid}/{name} > /dev/null; echo rc=$?")
            assert "rc=0" not in answer, (pid, name, answer)
        assert "rc=0" not in await output_of(workspace, f"ls -l /proc/{pid}/fd/0; echo rc=$?")
    runtime = house.server.runtime_dir
    log = runtime / "workers" / f"{workspace.id}.log"
    table = house.root / "s" / "bulkhead" / "roster.db"
    other = next(neighbour.glob(".bulkhead/*.db"))
    for path in (log, table, other, runtime / "epoch"):
        assert path.exists(), path
        for command in (f"cat {path} > /dev/null", f"cp {path} ./stolen", f"ln {path} ./stolen"):
            assert "rc=0" not in await output_of(workspace, f"{command}; echo rc=$?"), (path, command)
    readable = f"cat /etc/passwd /proc/self/environ /proc/cpuinfo {neighbour.parent}/outside > /dev/null"
    (neighbour.parent / "outside").write_text("readable")
    assert "rc=0" in await output_of(workspace, f"{readable}; echo rc=$?")


# --- T07: killing and removing ----------------------------------------------------------------------------------------


@needs_landlock
async def test_T07_a_confined_command_can_signal_only_its_own_processes(house: ServerHarness) -> None:
    if abi() < 6:
        pytest.skip("this kernel's Landlock does not hold signals (version 6, Linux 6.12)")
    workspace = await confined(house)
    worker = await workspace.worker()
    signal_all = (
        "for p in /proc/[0-9]*; do p=${p#/proc/}; kill -0 $p 2> /dev/null && echo may $p; done; "
        "sleep 100 & kill -0 $! && kill $! && echo own; kill -9 $PPID; echo rc=$?"
    )
    answer = await output_of(workspace, signal_all)
    assert "own" in answer
    assert "rc=0" not in answer
    may = {int(line.split()[1]) for line in answer.splitlines() if line.startswith("may ")}
    assert len(may) <= 2, "the command may signal processes other than its own"
    assert not may & {worker.pid, house.server.pid, os.getpid()}
    for pid in (house.server.pid, worker.pid):
        assert "rc=0" not in await output_of(workspace, f"kill -9 {pid}; echo rc=$?")
    for path in (house.server.runtime_dir, house.root / "s"):
        assert "rc=0" not in await output_of(workspace, f"rm -rf {path}; echo rc=$?")
    assert (house.server.runtime_dir / "epoch").exists()
    assert worker.is_alive
    await workspace.works()


async def test_T07_a_worker_that_is_killed_by_its_command_is_replaced(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    worker = await workspace.worker()
    run = await workspace.prompt(bash("kill -9 $PPID; sleep 1000"))
    end = await workspace.ended(run)
    assert end["error"]
    assert (await workspace.run(run))["outcome"] == "interrupted"
    await worker.gone()
    await workspace.works()


@pytest.mark.house(neighbour=False)
async def test_T07_a_run_whose_command_kills_the_supervisor_ends_in_order(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    worker = await workspace.worker()
    run = await workspace.prompt(bash(f"kill -9 {house.server.pid}; echo done > done; cat done"))
    await eventually(lambda: (workspace.path / "done").exists(), what="the command to continue", timeout_s=10)
    await house.server.ended()
    await house.server.restart()
    assert (await workspace.worker()).pid == worker.pid
    await eventually(
        lambda: _has_ended(workspace, run), timeout_s=15, what="the run to end", state=lambda: house.server.log[-2000:]
    )
    assert "done" in (await result(workspace))["content"]
    await workspace.works_with_new_stream()


async def _has_ended(workspace: WorkspaceFixture, run: str) -> bool:
    return (await workspace.run(run))["state"] == "ended"


async def test_T07_a_database_that_is_moved_by_a_command_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    row = await house.worker(workspace.id)
    moved = house.root / "moved"
    assert "rc=0" in await output_of(workspace, f"echo here && mv .bulkhead {moved}; echo rc=$?")
    prompt = {"session_id": workspace.session, "prompt": "/say never"}
    for _ in range(2):
        refused = await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", prompt)
        assert (refused.status, refused.code) == (503, "storage_failed")
    assert (await house.worker(workspace.id))["generation"] == row["generation"]
    moved.rename(workspace.path / ".bulkhead")
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works_with_new_stream()


@pytest.mark.house(limits={"evict_idle_s": 0.4})  # housekeeping, which checks the files, runs four times in this period
async def test_T07_a_runtime_directory_that_is_removed_by_a_command_is_restored(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    runtime = house.server.runtime_dir
    before = {path.name for path in runtime.iterdir()}
    zygote = (runtime / "zygote.sock").readlink()
    run = await workspace.prompt(bash(f"rm -rf {runtime}"))
    await workspace.ended(run)
    await workspace.works()  # the worker's connection does not need the file
    await eventually(lambda: (runtime / "router.sock").exists(), timeout_s=10, what="a new socket")
    # Only needed here: the tests share a zygote, while a server is still connected to a zygote of its own.
    (runtime / "zygote.sock").symlink_to(zygote)
    assert {path.name for path in runtime.iterdir()} >= before - {"token"}
    modes = {path.name: oct(path.lstat().st_mode & 0o77) for path in runtime.iterdir() if not path.is_symlink()}
    assert {name: mode for name, mode in modes.items() if mode != "0o0"} == {}
    await (await house.workspace("fresh")).works()
    again = await asyncio.to_thread(house.server.run_another)
    assert again.returncode == 3, "another server must not start in the same directory"
    await (await workspace.worker()).kill()

    async def replaced() -> bool:
        row = await house.worker(workspace.id)
        return bool(row["state"] == "ready" and row["generation"] == 2)

    await eventually(replaced, timeout_s=10, what="a new worker", state=lambda: house.server.log[-2000:])
    await workspace.works()
