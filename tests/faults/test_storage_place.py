"""Fault matrix 7: a database that may not be written, is damaged, or is not where it was."""

import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients.http_client import Response, parts_of, texts
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


class Frozen:
    """A directory on a file system of its own that can be made read-only, for root as well."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self.path = mount / "data"

    def freeze(self) -> None:
        """Nothing can be written any more. Nobody may have a file open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self._mount)], check=True)

    def thaw(self) -> None:
        """As before."""
        subprocess.run(["mount", "-o", "remount,rw", str(self._mount)], check=True)


@pytest.fixture
def frozen(short_root: Path) -> Iterator[Frozen]:
    mount = Path(tempfile.mkdtemp(dir=short_root))
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(mount)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"needs the privilege to mount a file system: {mounted.stderr.strip()}")
    try:
        yield Frozen(mount)
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@contextmanager
def immutable(path: Path) -> Iterator[Callable[[], None]]:
    """A file that nobody can write, root included; yields how to give it back."""
    changed = subprocess.run(["chattr", "+i", str(path)], capture_output=True, text=True, check=False)
    if changed.returncode != 0:
        pytest.skip(f"needs the privilege to make a file immutable: {changed.stderr.strip()}")

    def give_back() -> None:
        subprocess.run(["chattr", "-i", str(path)], check=True)

    try:
        yield give_back
    finally:
        give_back()


async def stopped(
    house: ServerHarness, workspace: WorkspaceFixture, *, crash: bool, fails: bool = False
) -> Callable[[], None]:
    """End the worker, by force or in order, and hold its successor before it is started; returns what lets it go."""
    worker = await workspace.worker()
    house.failpoints.arm("wake.before_spawn")
    asked: asyncio.Future[Response] | None = None
    if crash:
        await worker.kill()
    else:
        asked = asyncio.ensure_future(workspace.client.post(f"/v1/workspaces/{workspace.id}/restart"))
    hit = await house.failpoints.reached("wake.before_spawn")
    if asked is not None:
        asked.add_done_callback(lambda done: done.result().expect(503 if fails else 200))
    return hit.release


async def reads_but_does_not_store(
    house: ServerHarness, workspace: WorkspaceFixture, reason: str, *, skip: int
) -> None:
    """`failed` with its reason is seen everywhere; what is stored can be read, and nothing can be stored."""
    assert (await workspace.watcher.state("failed", skip=skip))["reason"] == reason
    row = await house.worker(workspace.id)
    assert (row["state"], row["reason"]) == ("failed", reason), row
    assert len(await workspace.messages()) == 2
    sessions = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(200).json()
    assert [session["id"] for session in sessions] == [workspace.session]
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say one", "r-refused")
    assert (refused.status, refused.code) == (503, "storage_failed"), refused.body
    assert "restart the workspace" in refused.json()["message"] or reason == "read-only"
    assert (await workspace.client.post(f"/v1/workspaces/{workspace.id}/sessions", {"title": "new"})).expect(503)
    again = await house.worker(workspace.id)
    assert (again["pid"], again["restarts"]) == (row["pid"], row["restarts"]), "it does not stay"


async def repaired(workspace: WorkspaceFixture, *, skip: int) -> None:
    """The worker finds by itself that it may write, and leaves; the next request has one that does."""
    await workspace.watcher.state("asleep", skip=skip)
    await workspace.works()


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_database_that_is_read_only(house: ServerHarness, crash: bool) -> None:
    workspace = await house.workspace()
    await workspace.works()
    let_go = await stopped(house, workspace, crash=crash)
    database = workspace.data_dir / "workspace.db"
    seen = len(workspace.watcher.seen)
    with immutable(database):
        before = digest(database)
        let_go()
        await reads_but_does_not_store(house, workspace, "read-only", skip=seen)
        seen = len(workspace.watcher.seen)
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
        await reads_but_does_not_store(house, workspace, "read-only", skip=seen)
        assert digest(database) == before
        seen = len(workspace.watcher.seen)
    await repaired(workspace, skip=seen)


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_file_system_that_is_read_only(frozen: Frozen, house: ServerHarness, crash: bool) -> None:
    workspace = await house.workspace(data_dir=str(frozen.path))
    await workspace.works()
    let_go = await stopped(house, workspace, crash=crash)
    frozen.freeze()
    seen = len(workspace.watcher.seen)
    let_go()
    await reads_but_does_not_store(house, workspace, "read-only", skip=seen)
    seen = len(workspace.watcher.seen)
    frozen.thaw()
    await repaired(workspace, skip=seen)


async def test_D03_a_run_that_a_crash_left_open_waits_for_the_repair(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("kept so far")
    let_go = await stopped(house, workspace, crash=True)
    await call.wait_closed()
    seen = len(workspace.watcher.seen)
    with immutable(workspace.data_dir / "workspace.db"):
        let_go()
        assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "read-only"
        assert (await workspace.run(run))["state"] == "active", "it cannot be ended, so nobody may say that it was"
        assert "kept so far" in texts(await workspace.last_assistant())
    await workspace.watcher.state("asleep", skip=seen)
    assert len(await workspace.messages()) == 2  # wakes it
    assert (await workspace.ended(run))["error"]
    assert (await workspace.run(run))["outcome"] == "interrupted"
    await workspace.works()


@pytest.mark.parametrize("what", ["header", "pages"])
async def test_D04_a_database_that_is_damaged(house: ServerHarness, what: str) -> None:
    workspace = await house.workspace()
    await workspace.works()
    let_go = await stopped(house, workspace, crash=False, fails=True)
    database = workspace.data_dir / "workspace.db"
    sound = database.read_bytes()
    offset = 0 if what == "header" else 4096
    database.write_bytes(sound[:offset] + b"\xa5" * (len(sound) - offset))
    before, seen = digest(database), len(workspace.watcher.seen)
    let_go()
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    asked = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")
    assert (asked.status, asked.code) == (503, "worker_failed")
    assert (await house.worker(workspace.id))["restarts"] == 1, "it is tried again and again"
    assert digest(database) == before
    database.write_bytes(sound)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    assert len(await workspace.messages()) == 2
    await workspace.works()


async def test_D04_damage_that_is_found_while_reading(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    let_go = await stopped(house, workspace, crash=False)
    database = workspace.data_dir / "workspace.db"
    sound = database.read_bytes()
    [(root, size)] = rows(
        database, "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'messages'"
    )
    assert isinstance(root, int)
    assert isinstance(size, int)
    database.write_bytes(sound[: (root - 1) * size] + b"\xa5" * size + sound[root * size :])
    seen = len(workspace.watcher.seen)
    let_go()
    await workspace.watcher.state("ready", skip=seen)
    asked = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/messages")
    assert asked.status == 503, asked.body
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    database.write_bytes(sound)
    for side in ("-wal", "-shm"):  # of the damaged one
        database.with_name(database.name + side).unlink(missing_ok=True)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


@pytest.mark.parametrize("way", ["moved back", "replaced"])
async def test_D05_a_database_that_is_moved_while_it_is_open(house: ServerHarness, way: str) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    database, aside = workspace.data_dir / "workspace.db", workspace.data_dir / "aside.db"
    seen = len(workspace.watcher.seen)
    house.failpoints.arm("run.before_start", workspace=workspace.id)
    run = await workspace.prompt("/say too late")
    begun = await house.failpoints.reached("run.before_start")
    if way == "replaced":  # as somebody does who brings back a copy
        copy(database, workspace.data_dir / "copy.db")
    os.rename(database, aside)
    if way == "replaced":
        os.rename(workspace.data_dir / "copy.db", database)
    begun.release()
    assert "moved or replaced" in (await workspace.ended(run))["error"]
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say two", "r-refused")
    assert (refused.status, refused.code) == (503, "storage_failed"), refused.body
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "storage moved"
    row = await house.worker(workspace.id)
    assert (row["state"], row["reason"], row["restarts"]) == ("failed", "storage moved", 0)
    assert len(await workspace.messages()) >= 2, "reading does not go on"
    assert "r-refused" not in {row[0] for row in rows(aside, "SELECT id FROM runs")}
    seen = len(workspace.watcher.seen)
    if way == "moved back":
        os.rename(aside, database)
        await workspace.watcher.state("ready", skip=seen)
        assert (await workspace.worker()).pid == worker.pid
        assert (await workspace.run(run))["outcome"] == "failed"
        await workspace.works()
    else:
        await workspace.watcher.close()
        house.client_log.streams.remove(workspace.watcher.stream)  # what it saw stands in the file that was moved away
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
        await workspace.works_with_new_stream()
        assert (await workspace.run(run))["outcome"] == "completed", "the copy knows of a prompt that had not begun"


async def test_D05_a_database_that_is_removed_while_it_is_open(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    for path in workspace.data_dir.iterdir():
        path.unlink()
    seen = len(workspace.watcher.seen)
    assert len(await workspace.messages()) == 2
    await reads_but_does_not_store(house, workspace, "storage moved", skip=seen)
    await workspace.watcher.close()
    house.client_log.workspaces.pop(workspace.id)  # what was told is gone for good, by the will of whoever removed it
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    assert (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")).expect(200).json() == []
    workspace.session = await workspace.client.create_session(workspace.id)
    await workspace.works_with_new_stream()


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def copy(source: Path, target: Path) -> None:
    """A whole copy, by SQLite's own means."""
    reader, writer = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reader.backup(writer)
    finally:
        reader.close()
        writer.close()


async def test_D10_a_tool_that_reads_the_database_drops_no_lock(house: ServerHarness) -> None:
    """Closing any descriptor of a file drops all POSIX locks that the process holds on it, those of SQLite too.

    Another program that then opens and closes the database takes itself for the last one, and removes the log."""
    workspace = await house.workspace()
    await workspace.works()
    log = workspace.data_dir / "workspace.db-wal"
    link = workspace.path / "harmless.txt"
    link.hardlink_to(workspace.data_dir / "workspace.db")
    for name in (".bulkhead/workspace.db", ".bulkhead/workspace.db-shm", "harmless.txt"):
        await workspace.ended(await workspace.prompt("/tool view " + json.dumps({"file_path": name})))
        [result] = [each for message in (await workspace.messages())[-3:] for each in parts_of(message, "tool_result")]
        assert "the database of this workspace" in result["content"], result
        told = {"session_id": workspace.session, "path": name}
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/filetracker/read", told)).expect(200)
    assert log.stat().st_size > 0, "nothing could be lost"
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs'); c.close()"
    subprocess.run([sys.executable, "-c", script, str(workspace.data_dir / "workspace.db")], check=True)
    assert log.exists(), "the locks were dropped"
    worker = await workspace.worker()
    run = await workspace.prompt("/say stored")
    await workspace.ended(run)
    seen = len(workspace.watcher.seen)
    await worker.kill()
    await workspace.watcher.state("ready", skip=seen)
    await workspace.works()
    assert (await workspace.run(run))["outcome"] == "completed"


async def test_D11_a_database_of_newer_code(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    let_go = await stopped(house, workspace, crash=False, fails=True)
    database = workspace.data_dir / "workspace.db"
    [(known,)] = rows(database, "PRAGMA user_version")
    rows(database, "PRAGMA user_version = 1000")
    before, seen = digest(database), len(workspace.watcher.seen)
    let_go()
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "database has a newer schema"
    asked = await workspace.client.submit(workspace.id, workspace.session, "/say one", "r-refused")
    assert (asked.status, asked.code) == (503, "worker_failed")
    assert (await house.worker(workspace.id))["restarts"] == 1, "it is tried again and again"
    assert digest(database) == before
    rows(database, f"PRAGMA user_version = {known}")
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


async def test_D05_a_next_supervisor_learns_that_the_database_was_moved(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    os.rename(workspace.data_dir / "workspace.db", workspace.data_dir / "aside.db")
    assert len(await workspace.messages()) == 2
    await workspace.watcher.state("failed")
    workspace.watcher.resumes = house.neighbour.may_reconnect = True
    seen = len(workspace.watcher.seen)
    await house.server.kill9()
    await house.server.restart()
    assert len(await workspace.messages()) == 2
    row = await house.worker(workspace.id)
    assert (row["state"], row["reason"], row["pid"]) == ("failed", "storage moved", worker.pid)
    told = [event.payload["state"] for event in workspace.watcher.seen[seen:] if event.kind == "workspace_state"]
    assert "ready" not in told, told
    os.rename(workspace.data_dir / "aside.db", workspace.data_dir / "workspace.db")
    await workspace.watcher.state("ready", skip=seen)
    await workspace.works()
