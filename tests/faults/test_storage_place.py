"""Make the database read-only, damage it, move it or give it a newer schema (D03, D04, D05, D10, D11)."""

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
    """Directory on a file system of its own, which can be made read-only for root as well."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self.path = mount / "data"

    def freeze(self) -> None:
        """Make the file system read-only; no process may have a file open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self._mount)], check=True)

    def thaw(self) -> None:
        """Make the file system writable again."""
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
    """Make a file read-only, for root as well; yield a function that makes it writable again."""
    changed = subprocess.run(["chattr", "+i", str(path)], capture_output=True, text=True, check=False)
    if changed.returncode != 0:
        pytest.skip(f"needs the privilege to make a file immutable: {changed.stderr.strip()}")

    def restore() -> None:
        subprocess.run(["chattr", "-i", str(path)], check=True)

    try:
        yield restore
    finally:
        restore()


async def stopped(
    house: ServerHarness, workspace: WorkspaceFixture, *, crash: bool, fails: bool = False
) -> Callable[[], None]:
    """End the worker, by force or in order, and hold the start of the next one; return a function that releases it."""
    worker = await workspace.worker()
    house.failpoints.arm("wake.before_spawn")
    restart: asyncio.Future[Response] | None = None
    if crash:
        await worker.kill()
    else:
        restart = asyncio.ensure_future(workspace.client.post(f"/v1/workspaces/{workspace.id}/restart"))
    hit = await house.failpoints.reached("wake.before_spawn")
    if restart is not None:
        restart.add_done_callback(lambda done: done.result().expect(503 if fails else 200))
    return hit.release


async def check_readable_only(house: ServerHarness, workspace: WorkspaceFixture, reason: str, *, skip: int) -> None:
    """Check that `failed` and its reason are shown, that stored data can be read, and that writes are refused."""
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
    assert (again["pid"], again["restarts"]) == (row["pid"], row["restarts"]), "the worker was replaced"


async def check_repaired(workspace: WorkspaceFixture, *, skip: int) -> None:
    """Wait until the worker notices that it may write and leaves; check that the next one works."""
    await workspace.watcher.state("asleep", skip=skip)
    await workspace.works()


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_workspace_with_a_read_only_database_fails_and_can_be_read(
    house: ServerHarness, crash: bool
) -> None:
    workspace = await house.workspace()
    await workspace.works()
    release = await stopped(house, workspace, crash=crash)
    database = workspace.data_dir / "workspace.db"
    seen = len(workspace.watcher.seen)
    with immutable(database):
        before = digest(database)
        release()
        await check_readable_only(house, workspace, "read-only", skip=seen)
        seen = len(workspace.watcher.seen)
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
        await check_readable_only(house, workspace, "read-only", skip=seen)
        assert digest(database) == before
        seen = len(workspace.watcher.seen)
    await check_repaired(workspace, skip=seen)


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_workspace_on_a_read_only_file_system_fails_and_can_be_read(
    frozen: Frozen, house: ServerHarness, crash: bool
) -> None:
    workspace = await house.workspace(data_dir=str(frozen.path))
    await workspace.works()
    release = await stopped(house, workspace, crash=crash)
    frozen.freeze()
    seen = len(workspace.watcher.seen)
    release()
    await check_readable_only(house, workspace, "read-only", skip=seen)
    seen = len(workspace.watcher.seen)
    frozen.thaw()
    await check_repaired(workspace, skip=seen)


async def test_D03_a_run_that_a_crash_left_open_ends_when_the_database_is_writable(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("kept so far")
    release = await stopped(house, workspace, crash=True)
    await call.wait_closed()
    seen = len(workspace.watcher.seen)
    with immutable(workspace.data_dir / "workspace.db"):
        release()
        assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "read-only"
        assert (await workspace.run(run))["state"] == "active", (
            "a run whose end cannot be stored must not be shown as ended"
        )
        assert "kept so far" in texts(await workspace.last_assistant())
    await workspace.watcher.state("asleep", skip=seen)
    assert len(await workspace.messages()) == 2  # wakes the workspace
    assert (await workspace.ended(run))["error"]
    assert (await workspace.run(run))["outcome"] == "interrupted"
    await workspace.works()


@pytest.mark.parametrize("what", ["header", "pages"])
async def test_D04_a_damaged_database_fails_the_workspace_and_is_left_as_it_is(house: ServerHarness, what: str) -> None:
    workspace = await house.workspace()
    await workspace.works()
    release = await stopped(house, workspace, crash=False, fails=True)
    database = workspace.data_dir / "workspace.db"
    intact = database.read_bytes()
    offset = 0 if what == "header" else 4096
    database.write_bytes(intact[:offset] + b"\xa5" * (len(intact) - offset))
    before, seen = digest(database), len(workspace.watcher.seen)
    release()
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    response = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions")
    assert (response.status, response.code) == (503, "worker_failed")
    assert (await house.worker(workspace.id))["restarts"] == 1, "the worker is started again and again"
    assert digest(database) == before
    database.write_bytes(intact)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    assert len(await workspace.messages()) == 2
    await workspace.works()


async def test_D04_damage_that_is_found_while_reading_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    release = await stopped(house, workspace, crash=False)
    database = workspace.data_dir / "workspace.db"
    intact = database.read_bytes()
    [(root, size)] = rows(
        database, "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'messages'"
    )
    assert isinstance(root, int)
    assert isinstance(size, int)
    database.write_bytes(intact[: (root - 1) * size] + b"\xa5" * size + intact[root * size :])
    seen = len(workspace.watcher.seen)
    release()
    await workspace.watcher.state("ready", skip=seen)
    response = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/messages")
    assert response.status == 503, response.body
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    database.write_bytes(intact)
    for suffix in ("-wal", "-shm"):  # those of the damaged database
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


@pytest.mark.parametrize("how", ["moved back", "replaced"])
async def test_D05_a_database_that_is_moved_while_open_fails_the_workspace(house: ServerHarness, how: str) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    database, aside = workspace.data_dir / "workspace.db", workspace.data_dir / "aside.db"
    seen = len(workspace.watcher.seen)
    house.failpoints.arm("run.before_start", workspace=workspace.id)
    run = await workspace.prompt("/say too late")
    hit = await house.failpoints.reached("run.before_start")
    if how == "replaced":  # as by restoring a backup
        copy(database, workspace.data_dir / "copy.db")
    os.rename(database, aside)
    if how == "replaced":
        os.rename(workspace.data_dir / "copy.db", database)
    hit.release()
    assert "moved or replaced" in (await workspace.ended(run))["error"]
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say two", "r-refused")
    assert (refused.status, refused.code) == (503, "storage_failed"), refused.body
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "storage moved"
    row = await house.worker(workspace.id)
    assert (row["state"], row["reason"], row["restarts"]) == ("failed", "storage moved", 0)
    assert len(await workspace.messages()) >= 2, "reading must still work"
    assert "r-refused" not in {row[0] for row in rows(aside, "SELECT id FROM runs")}
    seen = len(workspace.watcher.seen)
    if how == "moved back":
        os.rename(aside, database)
        await workspace.watcher.state("ready", skip=seen)
        assert (await workspace.worker()).pid == worker.pid
        assert (await workspace.run(run))["outcome"] == "failed"
        await workspace.works()
    else:
        await workspace.watcher.close()
        house.client_log.streams.remove(workspace.watcher.stream)  # its events are in the file that was moved away
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
        await workspace.works_with_new_stream()
        assert (await workspace.run(run))["outcome"] == "completed", (
            "the copy contains the prompt, which had not started"
        )


async def test_D05_a_database_that_is_removed_while_open_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    for path in workspace.data_dir.iterdir():
        path.unlink()
    seen = len(workspace.watcher.seen)
    assert len(await workspace.messages()) == 2
    await check_readable_only(house, workspace, "storage moved", skip=seen)
    await workspace.watcher.close()
    house.client_log.workspaces.pop(workspace.id)  # what was acknowledged has been deleted on purpose
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
    """Copy a whole database with the backup of SQLite."""
    reader, writer = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reader.backup(writer)
    finally:
        reader.close()
        writer.close()


async def test_D10_a_tool_that_reads_the_database_keeps_its_locks(house: ServerHarness) -> None:
    """Check that neither a tool nor the file tracker drops the locks of the database, not even through a hard link.

    Closing any descriptor of a file drops all POSIX locks that the process holds on it, those of SQLite too. Another
    program that then opens and closes the database takes itself for the last user and removes the log.
    """
    workspace = await house.workspace()
    await workspace.works()
    log = workspace.data_dir / "workspace.db-wal"
    link = workspace.path / "harmless.txt"
    link.hardlink_to(workspace.data_dir / "workspace.db")
    for name in (".bulkhead/workspace.db", ".bulkhead/workspace.db-shm", "harmless.txt"):
        await workspace.ended(await workspace.prompt("/tool view " + json.dumps({"file_path": name})))
        [result] = [part for message in (await workspace.messages())[-3:] for part in parts_of(message, "tool_result")]
        assert "the database of this workspace" in result["content"], result
        body = {"session_id": workspace.session, "path": name}
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/filetracker/read", body)).expect(200)
    assert log.stat().st_size > 0, "the log is empty: the test would prove nothing"
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


async def test_D11_a_database_with_a_newer_schema_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    release = await stopped(house, workspace, crash=False, fails=True)
    database = workspace.data_dir / "workspace.db"
    [(version,)] = rows(database, "PRAGMA user_version")
    rows(database, "PRAGMA user_version = 1000")
    before, seen = digest(database), len(workspace.watcher.seen)
    release()
    assert (await workspace.watcher.state("failed", skip=seen))["reason"] == "database has a newer schema"
    response = await workspace.client.submit(workspace.id, workspace.session, "/say one", "r-refused")
    assert (response.status, response.code) == (503, "worker_failed")
    assert (await house.worker(workspace.id))["restarts"] == 1, "the worker is started again and again"
    assert digest(database) == before
    rows(database, f"PRAGMA user_version = {version}")
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


async def test_D05_the_next_supervisor_shows_that_the_database_was_moved(house: ServerHarness) -> None:
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
    states = [event.payload["state"] for event in workspace.watcher.seen[seen:] if event.kind == "workspace_state"]
    assert "ready" not in states, states
    os.rename(workspace.data_dir / "aside.db", workspace.data_dir / "workspace.db")
    await workspace.watcher.state("ready", skip=seen)
    await workspace.works()
