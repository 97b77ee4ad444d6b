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
from tests.support.harness.server_harness import House, Room


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


async def stopped(house: House, room: Room, *, crash: bool, fails: bool = False) -> Callable[[], None]:
    """End the worker, by force or in order, and hold its successor before it is started; returns what lets it go."""
    worker = await room.worker()
    house.failpoints.arm("wake.before_spawn")
    asked: asyncio.Future[Response] | None = None
    if crash:
        await worker.kill()
    else:
        asked = asyncio.ensure_future(room.client.post(f"/v1/workspaces/{room.id}/restart"))
    hit = await house.failpoints.reached("wake.before_spawn")
    if asked is not None:
        asked.add_done_callback(lambda done: done.result().expect(503 if fails else 200))
    return hit.release


async def reads_but_does_not_store(house: House, room: Room, reason: str, *, skip: int) -> None:
    """`failed` with its reason is seen everywhere; what is stored can be read, and nothing can be stored."""
    assert (await room.watcher.state("failed", skip=skip))["reason"] == reason
    row = await house.worker(room.id)
    assert (row["state"], row["reason"]) == ("failed", reason), row
    assert len(await room.messages()) == 2
    sessions = (await room.client.get(f"/v1/workspaces/{room.id}/sessions")).expect(200).json()
    assert [session["id"] for session in sessions] == [room.session]
    refused = await room.client.submit(room.id, room.session, "/say one", "r-refused")
    assert (refused.status, refused.code) == (503, "storage_failed"), refused.body
    assert "restart the workspace" in refused.json()["message"] or reason == "read-only"
    assert (await room.client.post(f"/v1/workspaces/{room.id}/sessions", {"title": "new"})).expect(503)
    again = await house.worker(room.id)
    assert (again["pid"], again["restarts"]) == (row["pid"], row["restarts"]), "it does not stay"


async def repaired(room: Room, *, skip: int) -> None:
    """The worker finds by itself that it may write, and leaves; the next request has one that does."""
    await room.watcher.state("asleep", skip=skip)
    await room.works()


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_database_that_is_read_only(house: House, crash: bool) -> None:
    room = await house.room()
    await room.works()
    let_go = await stopped(house, room, crash=crash)
    database = room.data_dir / "workspace.db"
    seen = len(room.watcher.seen)
    with immutable(database):
        before = digest(database)
        let_go()
        await reads_but_does_not_store(house, room, "read-only", skip=seen)
        seen = len(room.watcher.seen)
        (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
        await reads_but_does_not_store(house, room, "read-only", skip=seen)
        assert digest(database) == before
        seen = len(room.watcher.seen)
    await repaired(room, skip=seen)


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "crashed"])
async def test_D03_a_file_system_that_is_read_only(frozen: Frozen, house: House, crash: bool) -> None:
    room = await house.room(data_dir=str(frozen.path))
    await room.works()
    let_go = await stopped(house, room, crash=crash)
    frozen.freeze()
    seen = len(room.watcher.seen)
    let_go()
    await reads_but_does_not_store(house, room, "read-only", skip=seen)
    seen = len(room.watcher.seen)
    frozen.thaw()
    await repaired(room, skip=seen)


async def test_D03_a_run_that_a_crash_left_open_waits_for_the_repair(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("kept so far")
    let_go = await stopped(house, room, crash=True)
    await call.left()
    seen = len(room.watcher.seen)
    with immutable(room.data_dir / "workspace.db"):
        let_go()
        assert (await room.watcher.state("failed", skip=seen))["reason"] == "read-only"
        assert (await room.run(run))["state"] == "active", "it cannot be ended, so nobody may say that it was"
        assert "kept so far" in texts(await room.last_assistant())
    await room.watcher.state("asleep", skip=seen)
    assert len(await room.messages()) == 2  # wakes it
    assert (await room.ended(run))["error"]
    assert (await room.run(run))["outcome"] == "interrupted"
    await room.works()


@pytest.mark.parametrize("what", ["header", "pages"])
async def test_D04_a_database_that_is_damaged(house: House, what: str) -> None:
    room = await house.room()
    await room.works()
    let_go = await stopped(house, room, crash=False, fails=True)
    database = room.data_dir / "workspace.db"
    sound = database.read_bytes()
    offset = 0 if what == "header" else 4096
    database.write_bytes(sound[:offset] + b"\xa5" * (len(sound) - offset))
    before, seen = digest(database), len(room.watcher.seen)
    let_go()
    assert (await room.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    asked = await room.client.get(f"/v1/workspaces/{room.id}/sessions")
    assert (asked.status, asked.code) == (503, "worker_failed")
    assert (await house.worker(room.id))["restarts"] == 1, "it is tried again and again"
    assert digest(database) == before
    database.write_bytes(sound)
    (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
    assert len(await room.messages()) == 2
    await room.works()


async def test_D04_damage_that_is_found_while_reading(house: House) -> None:
    room = await house.room()
    await room.works()
    let_go = await stopped(house, room, crash=False)
    database = room.data_dir / "workspace.db"
    sound = database.read_bytes()
    [(root, size)] = rows(
        database, "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'messages'"
    )
    assert isinstance(root, int)
    assert isinstance(size, int)
    database.write_bytes(sound[: (root - 1) * size] + b"\xa5" * size + sound[root * size :])
    seen = len(room.watcher.seen)
    let_go()
    await room.watcher.state("ready", skip=seen)
    asked = await room.client.get(f"/v1/workspaces/{room.id}/sessions/{room.session}/messages")
    assert asked.status == 503, asked.body
    assert (await room.watcher.state("failed", skip=seen))["reason"] == "corrupt"
    database.write_bytes(sound)
    for side in ("-wal", "-shm"):  # of the damaged one
        database.with_name(database.name + side).unlink(missing_ok=True)
    (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
    await room.works()


@pytest.mark.parametrize("way", ["moved back", "replaced"])
async def test_D05_a_database_that_is_moved_while_it_is_open(house: House, way: str) -> None:
    room = await house.room()
    await room.works()
    worker = await room.worker()
    database, aside = room.data_dir / "workspace.db", room.data_dir / "aside.db"
    seen = len(room.watcher.seen)
    house.failpoints.arm("run.before_start", workspace=room.id)
    run = await room.prompt("/say too late")
    begun = await house.failpoints.reached("run.before_start")
    if way == "replaced":  # as somebody does who brings back a copy
        copy(database, room.data_dir / "copy.db")
    os.rename(database, aside)
    if way == "replaced":
        os.rename(room.data_dir / "copy.db", database)
    begun.release()
    assert "moved or replaced" in (await room.ended(run))["error"]
    refused = await room.client.submit(room.id, room.session, "/say two", "r-refused")
    assert (refused.status, refused.code) == (503, "storage_failed"), refused.body
    assert (await room.watcher.state("failed", skip=seen))["reason"] == "storage moved"
    row = await house.worker(room.id)
    assert (row["state"], row["reason"], row["restarts"]) == ("failed", "storage moved", 0)
    assert len(await room.messages()) >= 2, "reading does not go on"
    assert "r-refused" not in {row[0] for row in rows(aside, "SELECT id FROM runs")}
    seen = len(room.watcher.seen)
    if way == "moved back":
        os.rename(aside, database)
        await room.watcher.state("ready", skip=seen)
        assert (await room.worker()).pid == worker.pid
        assert (await room.run(run))["outcome"] == "failed"
        await room.works()
    else:
        await room.watcher.close()
        house.diary.streams.remove(room.watcher.stream)  # what it saw stands in the file that was moved away
        (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
        await room.works_unwatched()
        assert (await room.run(run))["outcome"] == "completed", "the copy knows of a prompt that had not begun"


async def test_D05_a_database_that_is_removed_while_it_is_open(house: House) -> None:
    room = await house.room()
    await room.works()
    for path in room.data_dir.iterdir():
        path.unlink()
    seen = len(room.watcher.seen)
    assert len(await room.messages()) == 2
    await reads_but_does_not_store(house, room, "storage moved", skip=seen)
    await room.watcher.close()
    house.diary.workspaces.pop(room.id)  # what was told is gone for good, by the will of whoever removed it
    (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
    assert (await room.client.get(f"/v1/workspaces/{room.id}/sessions")).expect(200).json() == []
    room.session = await room.client.create_session(room.id)
    await room.works_unwatched()


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


async def test_D10_a_tool_that_reads_the_database_drops_no_lock(house: House) -> None:
    """Closing any descriptor of a file drops all POSIX locks that the process holds on it, those of SQLite too.

    Another program that then opens and closes the database takes itself for the last one, and removes the log."""
    room = await house.room()
    await room.works()
    log = room.data_dir / "workspace.db-wal"
    link = room.path / "harmless.txt"
    link.hardlink_to(room.data_dir / "workspace.db")
    for name in (".bulkhead/workspace.db", ".bulkhead/workspace.db-shm", "harmless.txt"):
        await room.ended(await room.prompt("/tool view " + json.dumps({"file_path": name})))
        [result] = [each for message in (await room.messages())[-3:] for each in parts_of(message, "tool_result")]
        assert "the database of this workspace" in result["content"], result
        told = {"session_id": room.session, "path": name}
        (await room.client.post(f"/v1/workspaces/{room.id}/filetracker/read", told)).expect(200)
    assert log.stat().st_size > 0, "nothing could be lost"
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs'); c.close()"
    subprocess.run([sys.executable, "-c", script, str(room.data_dir / "workspace.db")], check=True)
    assert log.exists(), "the locks were dropped"
    worker = await room.worker()
    run = await room.prompt("/say stored")
    await room.ended(run)
    seen = len(room.watcher.seen)
    await worker.kill()
    await room.watcher.state("ready", skip=seen)
    await room.works()
    assert (await room.run(run))["outcome"] == "completed"


async def test_D11_a_database_of_newer_code(house: House) -> None:
    room = await house.room()
    await room.works()
    let_go = await stopped(house, room, crash=False, fails=True)
    database = room.data_dir / "workspace.db"
    [(known,)] = rows(database, "PRAGMA user_version")
    rows(database, "PRAGMA user_version = 1000")
    before, seen = digest(database), len(room.watcher.seen)
    let_go()
    assert (await room.watcher.state("failed", skip=seen))["reason"] == "database has a newer schema"
    asked = await room.client.submit(room.id, room.session, "/say one", "r-refused")
    assert (asked.status, asked.code) == (503, "worker_failed")
    assert (await house.worker(room.id))["restarts"] == 1, "it is tried again and again"
    assert digest(database) == before
    rows(database, f"PRAGMA user_version = {known}")
    (await room.client.post(f"/v1/workspaces/{room.id}/restart")).expect(200)
    await room.works()


async def test_D05_a_next_supervisor_learns_that_the_database_was_moved(house: House) -> None:
    room = await house.room()
    await room.works()
    worker = await room.worker()
    os.rename(room.data_dir / "workspace.db", room.data_dir / "aside.db")
    assert len(await room.messages()) == 2
    await room.watcher.state("failed")
    room.watcher.resumes = house.bystander.may_reconnect = True
    seen = len(room.watcher.seen)
    await house.server.kill9()
    await house.server.restart()
    assert len(await room.messages()) == 2
    row = await house.worker(room.id)
    assert (row["state"], row["reason"], row["pid"]) == ("failed", "storage moved", worker.pid)
    told = [event.payload["state"] for event in room.watcher.seen[seen:] if event.kind == "workspace_state"]
    assert "ready" not in told, told
    os.rename(room.data_dir / "aside.db", room.data_dir / "workspace.db")
    await room.watcher.state("ready", skip=seen)
    await room.works()
