"""Make writes to the disk fail, remove the write-ahead log, or lock the database in another process (D02, D06, D07)."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients.http_client import texts
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import Process

QUICK = {"storage_busy_s": 0.2}


def forbid_growth(worker: Process, database: Path) -> None:
    """Forbid the worker to make any file longer: SQLite gets an I/O error, not one of a full disk."""
    size = database.with_name(database.name + "-wal").stat().st_size
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the write lock of the database in this process, which is not the worker."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


async def test_D02_a_write_error_on_a_prompt_replaces_the_worker(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    seen = len(workspace.watcher.seen)
    forbid_growth(worker, workspace.data_dir / "workspace.db")
    response = await workspace.client.submit(workspace.id, workspace.session, "/say once " + "x" * 100_000, "r-key")
    assert response.status == 503, response.body
    assert response.code in ("storage_failed", "worker_lost")
    assert int(response.headers["retry-after"]) >= 1
    await worker.gone()
    assert (await workspace.watcher.state("restarting", skip=seen))["reason"] == "storage failed"
    await workspace.watcher.state("ready", skip=seen)
    assert await workspace.prompt("/say once " + "x" * 100_000, "r-key") == "r-key"
    await workspace.ended("r-key")
    assert [run.id for run in house.stored(workspace).runs].count("r-key") == 1
    await workspace.works()


async def test_D02_a_write_error_during_a_run_replaces_the_worker(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("kept ")
    worker = await workspace.worker()
    seen = len(workspace.watcher.seen)
    forbid_growth(worker, workspace.data_dir / "workspace.db")
    await call.tokens("x" * 200_000)
    await worker.gone()
    await call.wait_closed()
    await workspace.watcher.state("ready", skip=seen)
    assert (await workspace.ended(run))["error"]
    assert (await workspace.run(run))["outcome"] == "interrupted"
    await workspace.works()


async def test_D06_a_log_that_is_removed_after_a_crash_resets_the_stream(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    house.failpoints.arm("wake.before_spawn")
    await worker.kill()
    hit = await house.failpoints.reached("wake.before_spawn")
    for side in ("-wal", "-shm"):
        (workspace.data_dir / f"workspace.db{side}").unlink()
    seen = len(workspace.watcher.seen)
    hit.release()
    house.resets_are_fine = True
    await workspace.watcher.wait(lambda event: event.is_reset, what="reset", skip=seen)
    await workspace.watcher.close()
    # What was only in the log is lost, so the checks after the test have nothing to compare with.
    house.client_log.streams.remove(workspace.watcher.stream)
    house.client_log.workspaces.pop(workspace.id)
    workspace.session = await workspace.client.create_session(workspace.id)
    await workspace.works_with_new_stream()


@pytest.mark.house(limits=QUICK)
async def test_D07_a_prompt_gets_503_while_another_process_holds_the_write_lock(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    with locked(workspace.data_dir / "workspace.db"):
        refused = await workspace.client.submit(workspace.id, workspace.session, "/say one", "r-busy")
        assert (refused.status, refused.code) == (503, "storage_busy"), refused.body
        assert int(refused.headers["retry-after"]) >= 1
        assert len(await workspace.messages()) == 2, "reading must still work"
    assert "r-busy" not in {run.id for run in house.stored(workspace).runs}
    await workspace.works()
    assert (await workspace.worker()).identity == worker.identity


@pytest.mark.house(limits={**QUICK, "snapshot_store_s": 0.0})
async def test_D07_a_run_fails_visibly_when_another_process_holds_the_write_lock(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("one ")
    worker = await workspace.worker()
    other = await workspace.client.create_session(workspace.id)
    with locked(workspace.data_dir / "workspace.db"):
        await call.tokens("two ")
        await workspace.watcher.text(workspace.session, "two")  # shown now, and stored when that is possible
        assert (await workspace.client.submit(workspace.id, other, "/say one", "r-busy")).expect(
            503
        ).code == "storage_busy"
    await call.tokens("three")
    await call.wait_closed()  # the run ends instead of continuing with text that may not be stored
    assert "another process holds the database" in (await workspace.ended(run))["error"]
    row = await workspace.run(run)
    assert (row["outcome"], row["cause"]) == ("failed", "storage"), row
    assert texts(await workspace.last_assistant()).startswith("one two ")
    assert (await workspace.worker()).identity == worker.identity
    await workspace.works()


@pytest.mark.house(limits=QUICK)
async def test_D07_a_worker_that_cannot_store_the_end_of_a_run_is_replaced(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("kept ")
    with locked(workspace.data_dir / "workspace.db"):
        await call.finish()
        await workspace.watcher.state("restarting")  # the next worker recovers from the file once it is unlocked
    assert (await workspace.ended(run))["error"]
    assert (await workspace.run(run))["outcome"] == "interrupted"
    await workspace.works()
