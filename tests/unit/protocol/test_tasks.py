"""Owned background tasks, and work that survives the cancellation of its caller."""

import asyncio
import logging

import pytest

from protocol.base.tasks import TaskOwner, run_shielded

LOG = logging.getLogger("bulkhead.test")


async def test_close_cancels_all_tasks() -> None:
    owner = TaskOwner("test", LOG)
    tasks = [owner.start(asyncio.sleep(60), f"t{n}") for n in range(3)]
    await asyncio.sleep(0)
    assert len(owner) == 3
    await owner.close()
    assert all(task.cancelled() for task in tasks)
    assert len(owner) == 0
    with pytest.raises(RuntimeError, match="closed"):
        owner.start(asyncio.sleep(0), "late")


async def test_an_error_of_a_task_that_is_not_awaited_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("not awaited")

    owner = TaskOwner("test", LOG)
    with caplog.at_level(logging.ERROR):
        task = owner.start(fail(), "fails")
        await asyncio.wait({task})
        await asyncio.sleep(0)
        await owner.close()
    assert any(record.message == "task failed" and record.exc_info for record in caplog.records)


async def test_run_shielded_returns_the_result_or_raises_the_error(caplog: pytest.LogCaptureFixture) -> None:
    async def work(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "done"

    owner = TaskOwner("test", LOG)
    assert await run_shielded(work(None), owner=owner, timeout_s=1.0, name="w") == "done"
    with pytest.raises(ValueError, match="no"):
        await run_shielded(work(ValueError("no")), owner=owner, timeout_s=1.0, name="w")
    await owner.close()
    assert not caplog.records, "the caller got the error"


async def test_run_shielded_finishes_the_work_although_its_caller_is_cancelled_twice() -> None:
    owner = TaskOwner("test", LOG)
    begun, release = asyncio.Event(), asyncio.Event()
    written: list[str] = []

    async def write() -> None:
        begun.set()
        await release.wait()
        written.append("row")

    caller = asyncio.ensure_future(run_shielded(write(), owner=owner, timeout_s=5.0, name="write"))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert written == ["row"]
    await owner.close()


async def test_run_shielded_times_out_and_the_work_continues(caplog: pytest.LogCaptureFixture) -> None:
    owner = TaskOwner("test", LOG)
    release, written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await release.wait()
        written.set()
        raise ValueError("too late")

    with pytest.raises(TimeoutError, match="settle"):
        await run_shielded(write(), owner=owner, timeout_s=0.01, name="write")
    release.set()
    await written.wait()
    await owner.close()
    assert [record.message for record in caplog.records] == ["task failed"]
