"""Tasks that somebody owns, and the detached write."""

import asyncio
import logging

import pytest

from protocol.base.tasks import TaskOwner, run_shielded

LOG = logging.getLogger("bulkhead.test")


async def test_close_ends_every_task() -> None:
    owner = TaskOwner("test", LOG)
    tasks = [owner.start(asyncio.sleep(60), f"t{n}") for n in range(3)]
    await asyncio.sleep(0)
    assert len(owner) == 3
    await owner.close()
    assert all(task.cancelled() for task in tasks)
    assert len(owner) == 0
    with pytest.raises(RuntimeError, match="closed"):
        owner.start(asyncio.sleep(0), "late")


async def test_an_error_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("nobody sees me")

    async def main() -> None:
        owner = TaskOwner("test", LOG)
        task = owner.start(fail(), "fails")
        await asyncio.wait({task})
        await asyncio.sleep(0)
        await owner.close()

    with caplog.at_level(logging.ERROR):
        await main()
    assert any(record.message == "task failed" and record.exc_info for record in caplog.records)


async def test_settle_gives_the_result_and_the_error_of_the_work(caplog: pytest.LogCaptureFixture) -> None:
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
    assert not caplog.records, "its caller was told"


async def test_settle_finishes_although_its_caller_is_cancelled_twice() -> None:
    owner = TaskOwner("test", LOG)
    begun, go_on = asyncio.Event(), asyncio.Event()
    written: list[str] = []

    async def write() -> None:
        begun.set()
        await go_on.wait()
        written.append("row")

    caller = asyncio.ensure_future(run_shielded(write(), owner=owner, timeout_s=5.0, name="write"))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert written == ["row"]
    await owner.close()


async def test_settle_past_its_time_is_unknown_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    owner = TaskOwner("test", LOG)
    go_on, written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await go_on.wait()
        written.set()
        raise ValueError("nobody hears me")

    with pytest.raises(TimeoutError, match="settle"):
        await run_shielded(write(), owner=owner, timeout_s=0.01, name="write")
    go_on.set()
    await written.wait()
    await owner.close()
    assert [record.message for record in caplog.records] == ["task failed"]
