"""Fault matrix 7: errors of the disk, a log that was lost, and a database that another process holds."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients.http_client import texts
from tests.support.harness.server_harness import House
from tests.support.processes import Process

QUICK = {"storage_busy_s": 0.2}


def no_more_bytes(worker: Process, database: Path) -> None:
    """From now on the process cannot make any file longer: SQLite gets an error of the disk, not a full one."""
    size = database.with_name(database.name + "-wal").stat().st_size
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Another process, this one, holds the write lock."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


async def test_D02_a_write_error_when_a_prompt_comes(house: House) -> None:
    room = await house.room()
    await room.works()
    worker = await room.worker()
    seen = len(room.watcher.seen)
    no_more_bytes(worker, room.data_dir / "workspace.db")
    asked = await room.client.submit(room.id, room.session, "/say once " + "x" * 100_000, "r-key")
    assert asked.status == 503, asked.body
    assert asked.code in ("storage_failed", "worker_lost")
    assert int(asked.headers["retry-after"]) >= 1
    await worker.gone()
    assert (await room.watcher.state("restarting", skip=seen))["reason"] == "storage failed"
    await room.watcher.state("ready", skip=seen)
    assert await room.prompt("/say once " + "x" * 100_000, "r-key") == "r-key"
    await room.ended("r-key")
    assert [run.id for run in house.stored(room).runs].count("r-key") == 1
    await room.works()


async def test_D02_a_write_error_while_streaming(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("kept ")
    worker = await room.worker()
    seen = len(room.watcher.seen)
    no_more_bytes(worker, room.data_dir / "workspace.db")
    await call.tokens("x" * 200_000)
    await worker.gone()
    await call.left()
    await room.watcher.state("ready", skip=seen)
    assert (await room.ended(run))["error"]
    assert (await room.run(run))["outcome"] == "interrupted"
    await room.works()


async def test_D06_the_log_was_removed_after_a_crash(house: House) -> None:
    room = await house.room()
    await room.works()
    worker = await room.worker()
    house.failpoints.arm("wake.before_spawn")
    await worker.kill()
    hit = await house.failpoints.reached("wake.before_spawn")
    for side in ("-wal", "-shm"):
        (room.data_dir / f"workspace.db{side}").unlink()
    seen = len(room.watcher.seen)
    hit.release()
    house.resets_are_fine = True
    await room.watcher.wait(lambda event: event.is_reset, what="reset", skip=seen)
    await room.watcher.close()
    # What was only in the log is gone, and nobody can tell more than that.
    house.diary.streams.remove(room.watcher.stream)
    house.diary.workspaces.pop(room.id)
    room.session = await room.client.create_session(room.id)
    await room.works_unwatched()


@pytest.mark.house(limits=QUICK)
async def test_D07_another_process_holds_the_write_lock_when_a_prompt_comes(house: House) -> None:
    room = await house.room()
    await room.works()
    worker = await room.worker()
    with held(room.data_dir / "workspace.db"):
        refused = await room.client.submit(room.id, room.session, "/say one", "r-busy")
        assert (refused.status, refused.code) == (503, "storage_busy"), refused.body
        assert int(refused.headers["retry-after"]) >= 1
        assert len(await room.messages()) == 2, "reading does not go on"
    assert "r-busy" not in {run.id for run in house.stored(room).runs}
    await room.works()
    assert (await room.worker()).identity == worker.identity


@pytest.mark.house(limits=QUICK)
async def test_D07_another_process_holds_the_write_lock_while_streaming(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("one ")
    worker = await room.worker()
    other = await room.client.create_session(room.id)
    with held(room.data_dir / "workspace.db"):
        await call.tokens("two ")
        await room.watcher.text(room.session, "two")  # shown, and to be stored when that is possible
        assert (await room.client.submit(room.id, other, "/say one", "r-busy")).expect(503).code == "storage_busy"
    await call.tokens("three")
    await call.left()  # it ends visibly, rather than going on with what may not be stored
    assert "another process holds the database" in (await room.ended(run))["error"]
    row = await room.run(run)
    assert (row["outcome"], row["cause"]) == ("failed", "storage"), row
    assert texts(await room.last_assistant()).startswith("one two ")
    assert (await room.worker()).identity == worker.identity
    await room.works()


@pytest.mark.house(limits=QUICK)
async def test_D07_another_process_does_not_let_go_of_the_write_lock(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("kept ")
    with held(room.data_dir / "workspace.db"):
        await call.finish()
        await room.watcher.state("restarting")  # the file decides, when it can be had
    assert (await room.ended(run))["error"]
    assert (await room.run(run))["outcome"] == "interrupted"
    await room.works()
