"""Test the database thread: group commit, event numbers, a full disk, a busy file, a file that is not a database."""

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, text

from protocol.api.agent import RunComplete
from protocol.api.session import Session
from protocol.errors import LimitReached, Unavailable
from protocol.limits import Limits
from tests.support.harness.store import StoreListener, open_database
from worker.store import events as event_rows
from worker.store.database import Database, Transaction
from worker.store.database_file import StorageUnusable
from worker.store.migrations import SchemaNewer
from worker.store.tables import sessions


def build_session(name: str = "s1", title: str = "") -> Session:
    return Session(id=name, title=title, created_at=1, updated_at=1)


def create(session: Session) -> Callable[[Transaction], str]:
    def job(transaction: Transaction) -> str:
        sessions.create(transaction.connection, session)
        transaction.emit(session, "created", session_id=session.id)
        return session.id

    return job


async def test_written_rows_are_read_after_reopening(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")
    log_id = database.log_id
    await database.write(create(build_session()))
    assert await database.close(5)
    reopened = await open_database(tmp_path / "workspace.db")
    assert reopened.log_id == log_id
    assert reopened.last_number == 1
    session = await reopened.read(lambda connection: sessions.get(connection, "s1"))
    assert session is not None
    await reopened.close(5)
    assert os.stat(tmp_path / "workspace.db").st_mode & 0o777 == 0o600


def _moved(path: Path) -> Path:
    return path.rename(path.with_name("moved"))


def _copied(path: Path) -> Path:
    return Path(shutil.copytree(path, path.with_name("copy")))


def _copied_with_times(path: Path) -> Path:
    subprocess.run(["cp", "-a", path, path.with_name("copy")], check=True)
    return path.with_name("copy")


def _restored(path: Path) -> Path:
    """Restore a backup at the former place, where the file may get its former inode number."""
    backup = shutil.copytree(path, path.with_name("backup"))
    shutil.rmtree(path)
    return Path(shutil.copytree(backup, path))


def _hard_linked(path: Path) -> Path:
    place = path.with_name("linked")
    place.mkdir()
    os.link(path / "workspace.db", place / "workspace.db")
    return place


@pytest.mark.parametrize(
    ("change", "is_same"),
    [(_moved, True), (_hard_linked, True), (_copied, False), (_copied_with_times, False), (_restored, False)],
)
async def test_the_event_log_of_a_copy_has_an_id_of_its_own(
    tmp_path: Path, change: Callable[[Path], Path], is_same: bool
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    database = await open_database(folder / "workspace.db")
    log_id = database.log_id
    await database.write(create(build_session()))
    await database.close(5)
    place = change(folder)
    ids = []
    for _ in range(2):
        database = await open_database(place / "workspace.db")
        ids.append(database.log_id)
        assert database.last_number == 1
        await database.close(5)
    assert ids[0] == ids[1]
    assert (ids[0] == log_id) is is_same


async def test_a_file_of_earlier_code_keeps_the_id_of_its_event_log(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")
    await database.close(5)
    raw = sqlite3.connect(tmp_path / "workspace.db")
    raw.execute("DELETE FROM meta WHERE key = 'file'")
    raw.commit()
    raw.close()
    for _ in range(2):
        reopened = await open_database(tmp_path / "workspace.db")
        assert reopened.log_id == database.log_id
        await reopened.close(5)


async def test_events_are_numbered_without_gaps_and_published_before_the_write_returns(tmp_path: Path) -> None:
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener)

    def fail(transaction: Transaction) -> None:
        transaction.emit(build_session("bad"), "created")
        raise ValueError("this job fails")

    jobs: list[Callable[[Transaction], object]] = [create(build_session(f"s{n}")) for n in range(40)]
    jobs.insert(7, fail)
    results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
    assert isinstance(results[7], ValueError)
    assert [event.number for event in listener.events] == list(range(1, 41))
    assert database.last_number == 40
    kept = await database.read(lambda connection: event_rows.since(connection, 0, 100))
    assert kept == listener.events
    assert b'"type":"created"' in listener.events[0].data
    await database.close(5)


async def test_the_commit_callback_runs_before_the_events_and_both_before_the_write_returns(tmp_path: Path) -> None:
    order: list[str] = []
    database = await open_database(tmp_path / "workspace.db")
    database._on_commit = lambda events: order.append("events")
    await database.write(create(build_session()), on_commit=lambda _: order.append("hook"))
    order.append("caller")
    assert order == ["hook", "events", "caller"]
    await database.close(5)


async def test_a_second_run_complete_of_one_run_violates_a_unique_index(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")

    def end(transaction: Transaction) -> None:
        transaction.emit(RunComplete(session_id="s1", message_id="m1"), run_id="r1")

    await database.write(end)
    with pytest.raises(Exception, match="UNIQUE"):
        await database.write(end)
    assert database.last_number == 1
    await database.close(5)


async def test_old_events_are_pruned_and_a_cursor_before_them_is_refused(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db", limits=Limits(events_kept=10))

    def many(transaction: Transaction) -> None:
        for _ in range(600):
            transaction.emit(build_session(), "updated")

    await database.write(many)
    assert await database.read(lambda connection: event_rows.since(connection, 0, 1)) is None
    assert await database.read(lambda connection: event_rows.since(connection, 601, 1)) is None
    tail = await database.read(lambda connection: event_rows.since(connection, 598, 10))
    assert tail is not None
    assert [event.number for event in tail] == [599, 600]
    assert await database.read(lambda connection: event_rows.since(connection, 600, 10)) == []
    await database.close(5)


async def test_kept_events_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    limits = Limits(events_kept=100_000, events_kept_bytes=40_000)
    database = await open_database(tmp_path / "workspace.db", limits=limits)

    def many(transaction: Transaction) -> None:
        for _ in range(600):
            transaction.emit(build_session(), "updated")

    await database.write(many)
    newest = await database.read(lambda connection: event_rows.since(connection, 590, 10))
    assert newest is not None
    size = len(newest[0].data)
    oldest = 600 - 40_000 // size
    assert await database.read(lambda connection: event_rows.since(connection, oldest - 1, 1)) is None
    kept = await database.read(lambda connection: event_rows.since(connection, oldest, 1000))
    assert kept is not None
    assert sum(len(event.data) for event in kept) <= 40_000
    await database.close(5)


async def limit_growth(database: Database, pages: int) -> None:
    """Let the file grow by at most `pages` pages."""

    def job(transaction: Transaction) -> None:
        count = transaction.connection.execute(text("PRAGMA page_count")).scalar_one()
        transaction.connection.execute(text(f"PRAGMA max_page_count = {count + pages}"))

    await database.write(job)


async def test_D01_a_full_disk_refuses_prompts_but_not_the_end_of_a_run(tmp_path: Path) -> None:
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener)
    await limit_growth(database, 0)
    big = build_session(title="x" * 30_000)
    with pytest.raises(LimitReached) as caught:
        await database.write(create(big))
    assert caught.value.code == "storage_full"
    assert caught.value.status == 507
    assert database.degraded == "storage full"
    assert await database.read(sessions.top_level) == []

    await database.write(create(build_session(title="x" * 8_000)), is_ending=True)
    assert len(await database.read(sessions.top_level)) == 1
    assert listener.fatal == []

    await limit_growth(database, 1000)
    database._probed_at = -10.0
    await database.write(create(build_session("s2")))
    assert database.degraded == ""  # the reserve was refilled without a restart
    await database.close(5)


async def test_D01_a_big_job_that_finds_the_disk_full_does_not_fail_the_small_jobs_beside_it(
    tmp_path: Path,
) -> None:
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener)
    await limit_growth(database, 2)
    jobs = [
        create(build_session("small")),
        create(build_session("big", title="x" * 100_000)),
        create(build_session("tiny")),
    ]
    results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
    assert results[0] == "small"
    assert isinstance(results[1], LimitReached)
    assert results[2] == "tiny"
    assert [event.number for event in listener.events] == [1, 2]
    await database.close(5)


async def test_D07_a_write_is_refused_while_another_process_holds_the_write_lock(tmp_path: Path) -> None:
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener, Limits(storage_busy_s=0.05))
    other = sqlite3.connect(tmp_path / "workspace.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        await database.write(create(build_session()))
    assert caught.value.code == "storage_busy"
    other.execute("ROLLBACK")
    other.close()
    assert await database.write(create(build_session())) == "s1"
    assert listener.fatal == []
    await database.close(5)


async def test_D04_a_file_that_is_not_a_database_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    path.write_bytes(b"this is not a database at all" * 100)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StorageUnusable, match="left as it is"):
        await open_database(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


async def test_D11_a_file_with_a_newer_schema_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
        other.execute("CREATE TABLE future (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(SchemaNewer, match="version 99"):
        await open_database(path)
    assert path.read_bytes() == before


async def test_D05_writes_are_refused_while_the_file_is_moved_or_replaced(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")
    path = tmp_path / "workspace.db"
    assert await database.write(create(build_session())) == "s1"
    assert database.failed == ""
    os.rename(path, tmp_path / "elsewhere.db")
    with pytest.raises(Unavailable, match="moved or replaced") as caught:
        await database.write(create(build_session("s2")))
    assert (caught.value.code, caught.value.retryable) == ("storage_failed", False)
    assert database.failed == "storage moved"
    assert [session.id for session in await database.read(sessions.top_level)] == ["s1"]
    log = tmp_path / "workspace.db-wal"
    assert log.stat().st_size == 0, "a new file at the path would get the changes meant for the old one"
    await database.write(create(build_session("end")), is_ending=True)  # a run that has begun may still end
    assert log.stat().st_size == 0
    os.rename(tmp_path / "elsewhere.db", path)
    assert await database.write(create(build_session("s3"))) == "s3"
    assert database.failed == ""
    await database.close(5)


async def test_a_failed_write_is_fatal_and_fails_its_caller_with_storage_failed(tmp_path: Path) -> None:
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener)

    def broken(transaction: Transaction) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(Unavailable) as caught:
        await database.write(broken)
    assert caught.value.code == "storage_failed"
    await asyncio.sleep(0)
    assert len(listener.fatal) == 1
    with pytest.raises(Unavailable):
        await database.read(sessions.top_level)
    await database.close(5)


async def test_the_database_is_opened_with_the_expected_pragmas(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")

    def pragmas(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "journal_size_limit")
        return {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

    assert await database.read(pragmas) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "journal_size_limit": 16777216,
    }
    await database.close(5)


async def test_todos_are_stored_and_read_back(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "workspace.db")
    await database.write(create(build_session()))
    todos = msgspec.json.decode(b'[{"content":"a","status":"pending"}]', type=Session.__annotations__["todos"])
    await database.write(lambda t: sessions.put(t.connection, "s1", title=None, cost=None, todos=todos, now=7))
    session = await database.read(lambda connection: sessions.get(connection, "s1"))
    assert session is not None
    assert session.todos == todos
    assert session.updated_at == 7
    await database.close(5)
