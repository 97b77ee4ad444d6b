"""The database thread: group commit, numbers, a full disk, a busy file, a file that is no database."""

import asyncio
import hashlib
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from protocol.api.agent import RunComplete
from protocol.api.session import Session
from protocol.errors import LimitReached, Unavailable
from protocol.limits import Limits
from tests.support.harness.store import StoreListener, open_database
from tests.support.run_coroutine import run
from worker.store import events as event_rows
from worker.store import sessions
from worker.store.database import Transaction
from worker.store.database_file import StorageUnusable
from worker.store.migrations import SchemaNewer


def build_session(name: str = "s1", title: str = "") -> Session:
    return Session(id=name, title=title, created_at=1, updated_at=1)


def creating(session: Session):  # type: ignore[no-untyped-def]
    def job(transaction: Transaction) -> str:
        sessions.create(transaction.connection, session)
        transaction.emit(session, "created", session_id=session.id)
        return session.id

    return job


def test_what_is_written_is_read_after_reopening(tmp_path: Path) -> None:
    async def story() -> None:
        database = await open_database(tmp_path / "workspace.db")
        log_id = database.log_id
        await database.write(creating(build_session()))
        assert await database.close(5)
        again = await open_database(tmp_path / "workspace.db")
        assert again.log_id == log_id
        assert again.last_number == 1
        found = await again.read(lambda connection: sessions.get(connection, "s1"))
        assert found is not None
        await again.close(5)
        assert os.stat(tmp_path / "workspace.db").st_mode & 0o777 == 0o600

    run(story())


def test_events_are_numbered_without_holes_and_heard_before_the_caller_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard)

        def bad(transaction: Transaction) -> None:
            transaction.emit(build_session("bad"), "created")
            raise ValueError("a bad job")

        jobs = [creating(build_session(f"s{n}")) for n in range(40)]
        jobs.insert(7, bad)
        results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
        assert isinstance(results[7], ValueError)
        assert [event.number for event in heard.events] == list(range(1, 41))
        assert database.last_number == 40
        kept = await database.read(lambda connection: event_rows.since(connection, 0, 100))
        assert kept == heard.events
        assert b'"type":"created"' in heard.events[0].data
        await database.close(5)

    run(story())


def test_the_hook_of_a_job_comes_before_its_events_and_both_before_the_caller(tmp_path: Path) -> None:
    async def story() -> None:
        order: list[str] = []
        database = await open_database(tmp_path / "workspace.db")
        database._on_commit = lambda events: order.append("events")
        await database.write(creating(build_session()), on_commit=lambda _: order.append("hook"))
        order.append("caller")
        assert order == ["hook", "events", "caller"]
        await database.close(5)

    run(story())


def test_a_second_run_complete_of_one_run_is_impossible(tmp_path: Path) -> None:
    async def story() -> None:
        database = await open_database(tmp_path / "workspace.db")

        def end(transaction: Transaction) -> None:
            transaction.emit(RunComplete(session_id="s1", message_id="m1"), run_id="r1")

        await database.write(end)
        with pytest.raises(Exception, match="UNIQUE"):
            await database.write(end)
        assert database.last_number == 1
        await database.close(5)

    run(story())


def test_old_events_are_pruned_and_a_cursor_before_them_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
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

    run(story())


def test_events_are_bounded_by_their_bytes_too(tmp_path: Path) -> None:
    async def story() -> None:
        limits = Limits(events_kept=100_000, events_kept_bytes=40_000)
        database = await open_database(tmp_path / "workspace.db", limits=limits)

        def many(transaction: Transaction) -> None:
            for _ in range(600):
                transaction.emit(build_session(), "updated")

        await database.write(many)
        found = await database.read(lambda connection: event_rows.since(connection, 590, 10))
        assert found is not None
        size = len(found[0].data)
        oldest = 600 - 40_000 // size
        assert await database.read(lambda connection: event_rows.since(connection, oldest - 1, 1)) is None
        kept = await database.read(lambda connection: event_rows.since(connection, oldest, 1000))
        assert kept is not None
        assert sum(len(event.data) for event in kept) <= 40_000
        await database.close(5)

    run(story())


async def fill(database, pages: int) -> None:  # type: ignore[no-untyped-def]
    """Let the file have `pages` pages more and no others."""

    def job(transaction: Transaction) -> None:
        count = transaction.connection.execute(text("PRAGMA page_count")).scalar_one()
        transaction.connection.execute(text(f"PRAGMA max_page_count = {count + pages}"))

    await database.write(job)


def test_D01_a_full_disk_refuses_prompts_but_not_the_end_of_a_run(tmp_path: Path) -> None:
    async def story() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard)
        await fill(database, 0)
        big = build_session(title="x" * 30_000)
        with pytest.raises(LimitReached) as caught:
            await database.write(creating(big))
        assert caught.value.code == "storage_full"
        assert caught.value.status == 507
        assert database.degraded == "storage full"
        assert await database.read(sessions.top_level) == []

        await database.write(creating(build_session(title="x" * 8_000)), is_ending=True)
        assert len(await database.read(sessions.top_level)) == 1
        assert heard.fatal == []

        await fill(database, 1000)
        database._probed_at = -10.0
        await database.write(creating(build_session("s2")))
        assert database.degraded == ""  # the reserve is whole again, by itself
        await database.close(5)

    run(story())


def test_D01_a_big_job_on_a_full_disk_does_not_take_the_small_ones_with_it(tmp_path: Path) -> None:
    async def story() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard)
        await fill(database, 2)
        jobs = [
            creating(build_session("small")),
            creating(build_session("big", title="x" * 100_000)),
            creating(build_session("tiny")),
        ]
        results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
        assert results[0] == "small"
        assert isinstance(results[1], LimitReached)
        assert results[2] == "tiny"
        assert [event.number for event in heard.events] == [1, 2]
        await database.close(5)

    run(story())


def test_D07_another_process_holds_the_write_lock(tmp_path: Path) -> None:
    async def story() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard, Limits(storage_busy_s=0.05))
        other = sqlite3.connect(tmp_path / "workspace.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            await database.write(creating(build_session()))
        assert caught.value.code == "storage_busy"
        other.execute("ROLLBACK")
        other.close()
        assert await database.write(creating(build_session())) == "s1"
        assert heard.fatal == []
        await database.close(5)

    run(story())


def test_D04_a_file_that_is_no_database_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    path.write_bytes(b"this is not a database at all" * 100)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StorageUnusable, match="left as it is"):
        run(open_database(path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_D11_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
        other.execute("CREATE TABLE future (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(SchemaNewer, match="version 99"):
        run(open_database(path))
    assert path.read_bytes() == before


def test_D05_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    async def story() -> None:
        database = await open_database(tmp_path / "workspace.db")
        path = tmp_path / "workspace.db"
        assert await database.write(creating(build_session())) == "s1"
        assert database.failed == ""
        os.rename(path, tmp_path / "elsewhere.db")
        with pytest.raises(Unavailable, match="moved or replaced") as caught:
            await database.write(creating(build_session("s2")))
        assert (caught.value.code, caught.value.retryable) == ("storage_failed", False)
        assert database.failed == "storage moved"
        assert [found.id for found in await database.read(sessions.top_level)] == ["s1"]
        log = tmp_path / "workspace.db-wal"
        assert log.stat().st_size == 0, "whatever is put at the path would get our changes"
        await database.write(creating(build_session("end")), is_ending=True)  # what has begun may still end
        assert log.stat().st_size == 0
        os.rename(tmp_path / "elsewhere.db", path)
        assert await database.write(creating(build_session("s3"))) == "s3"
        assert database.failed == ""
        await database.close(5)

    run(story())


def test_a_broken_write_is_fatal_and_its_caller_learns_that_the_outcome_is_unknown(tmp_path: Path) -> None:
    async def story() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard)

        def broken(transaction: Transaction) -> None:
            raise OSError(5, "Input/output error")

        with pytest.raises(Unavailable) as caught:
            await database.write(broken)
        assert caught.value.code == "storage_failed"
        await asyncio.sleep(0)
        assert len(heard.fatal) == 1
        with pytest.raises(Unavailable):
            await database.read(sessions.top_level)
        await database.close(5)

    run(story())


def test_the_pragmas_are_those_of_the_house(tmp_path: Path) -> None:
    async def story() -> None:
        database = await open_database(tmp_path / "workspace.db")

        def ask(connection) -> dict[str, object]:  # type: ignore[no-untyped-def]
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "journal_size_limit")
            return {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

        assert await database.read(ask) == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 5000,
            "journal_size_limit": 16777216,
        }
        await database.close(5)

    run(story())


def test_todos_survive_the_file(tmp_path: Path) -> None:
    async def story() -> None:
        database = await open_database(tmp_path / "workspace.db")
        await database.write(creating(build_session()))
        todos = msgspec.json.decode(b'[{"content":"a","status":"pending"}]', type=Session.__annotations__["todos"])
        await database.write(lambda t: sessions.put(t.connection, "s1", title=None, cost=None, todos=todos, now=7))
        found = await database.read(lambda connection: sessions.get(connection, "s1"))
        assert found is not None
        assert found.todos == todos
        assert found.updated_at == 7
        await database.close(5)

    run(story())
