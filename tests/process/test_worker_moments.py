"""Test a worker that is killed at a failpoint, and what the next worker recovers (M0 to M8)."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol.exit_codes import EXIT_STORAGE
from protocol.ids import Epoch
from protocol.limits import Limits
from protocol.messages import Shutdown
from tests.support.harness.failpoints import Failpoints
from tests.support.harness.one_worker import MessageListener, OneWorker, WorkerProcess, open_one_worker

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Crash:
    """A worker that died at a failpoint: its session, its exit code and the messages it had sent."""

    session_id: str
    exit_code: int
    messages: MessageListener


@dataclass(frozen=True)
class CrashFixture:
    """One workspace whose workers can be stopped at failpoints."""

    one_worker: OneWorker
    failpoints: Failpoints

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[WorkerProcess, None]:
        """Start the next worker, which may die before it is ready."""
        async with self.one_worker.worker(env={"BULKHEAD_FAILPOINTS": str(self.failpoints.path)}) as worker:
            yield worker

    @asynccontextmanager
    async def ready_worker(self) -> AsyncGenerator[WorkerProcess, None]:
        """Start the next worker and wait until it is ready."""
        async with self.worker() as worker:
            await worker.until(lambda: worker.listener.readies)
            yield worker

    async def crash_at(self, point: str, action: str = "kill") -> Crash:
        """Submit "/say hi" as the run `key` to a new worker, which does `action` at the failpoint and dies of it."""
        async with self.ready_worker() as worker:
            session_id = await worker.session()
            self.failpoints.arm(point)
            submitting = asyncio.ensure_future(worker.submit(session_id, "/say hi", "key"))
            (await self.failpoints.reached(point)).release(action)
            exit_code = await worker.exit_code()
            submitting.cancel()
            return Crash(session_id, exit_code, worker.listener)


@asynccontextmanager
async def open_crashes(path: Path, limits: Limits | None = None) -> AsyncGenerator[CrashFixture, None]:
    """Open a workspace and a failpoint server in `path`."""
    async with (
        open_one_worker(path, limits or Limits()) as one_worker,
        Failpoints(path / "fail.sock") as failpoints,
    ):
        yield CrashFixture(one_worker, failpoints)


async def streaming(worker: WorkerProcess) -> str:
    """Submit a prompt that never ends as the run `key`; return its session once it has an assistant message."""
    session_id = await worker.session()
    await worker.submit(session_id, "/hang", "key")
    await worker.until(lambda: any(b'"assistant"' in event.data for event in worker.listener.numbered))
    return session_id


async def stored_ends(worker: WorkerProcess) -> int:
    """Return how many `run_complete` events the log of the workspace has."""
    log = await worker.link.call("events.since", args={"number": "0", "count": "500"})
    return log.body.count(b'"type":"run_complete"')


async def test_W01_a_prompt_is_not_stored_when_the_worker_is_killed_before_the_commit(tmp_path: Path) -> None:
    async with open_crashes(tmp_path) as crashes:
        crash = await crashes.crash_at("prompt.before_commit")
        assert crash.exit_code == KILLED
        async with crashes.ready_worker() as worker:
            assert await worker.ask("run.list") == []
            assert await worker.submit(crash.session_id, "/say hi", "key") == "key"
            assert (await worker.ended("key"))["text"] == "hi"


@pytest.mark.parametrize("point", ["prompt.after_commit", "run.before_start"])
async def test_W02_W03_a_prompt_killed_between_commit_and_start_runs_in_the_next_worker(
    tmp_path: Path, point: str
) -> None:
    async with open_crashes(tmp_path) as crashes:
        crash = await crashes.crash_at(point)
        assert crash.exit_code == KILLED
        async with crashes.ready_worker() as worker:
            assert worker.listener.readies[0].requeued == ["key"]
            assert worker.listener.readies[0].interrupted == []
            assert (await worker.ended("key"))["text"] == "hi"
            assert await worker.submit(crash.session_id, "/say hi", "key") == "key"
            assert len(await worker.ask("session.messages", sid=crash.session_id)) == 2


async def test_W07_a_committed_end_is_published_once_by_the_next_worker(tmp_path: Path) -> None:
    async with open_crashes(tmp_path) as crashes:
        crash = await crashes.crash_at("terminal.after_commit")
        assert crash.exit_code == KILLED
        assert crash.messages.completes() == {}
        last = crash.messages.numbered[-1].number
        async with crashes.ready_worker() as worker:
            assert worker.listener.readies[0].interrupted == []
            answer = await worker.link.call("events.since", args={"number": str(last), "count": "50"})
            assert answer.body.count(b'"run_complete"') == 1
            assert b'"text":"hi"' in answer.body
            assert (await worker.ask("run.get", run="key"))["outcome"] == "completed"


@pytest.mark.parametrize(("action", "exit_code"), [("kill", KILLED), ("error:EIO", EXIT_STORAGE)], ids=["W08", "D02"])
async def test_W08_D02_a_run_is_interrupted_when_its_end_could_not_be_written(
    tmp_path: Path, action: str, exit_code: int
) -> None:
    async with open_crashes(tmp_path) as crashes:
        crash = await crashes.crash_at("flush.mid", action)
        assert crash.exit_code == exit_code
        async with crashes.ready_worker() as worker:
            assert worker.listener.readies[0].interrupted == ["key"]
            run = await worker.ask("run.get", run="key")
            assert (run["state"], run["outcome"]) == ("ended", "interrupted")


@pytest.mark.parametrize(
    ("point", "outcomes"),
    [
        ("close.a", {"interrupted"}),
        ("close.b", {"interrupted", "cancelled"}),
        ("close.c", {"interrupted", "cancelled"}),
        ("close.d", {"cancelled"}),
        ("close.e", {"cancelled"}),
    ],
)
async def test_W09_a_run_ends_once_when_the_worker_is_killed_during_shutdown(
    tmp_path: Path, point: str, outcomes: set[str]
) -> None:
    async with open_crashes(tmp_path) as crashes:
        async with crashes.ready_worker() as worker:
            await streaming(worker)
            crashes.failpoints.arm(point)
            worker.link.send(Shutdown(epoch=Epoch(1), reason="test", drain_s=5, flush_s=5))
            (await crashes.failpoints.reached(point)).release("kill")
            assert await worker.exit_code() == KILLED
        async with crashes.ready_worker() as worker:
            run = await worker.ask("run.get", run="key")
            assert run["state"] == "ended"
            assert run["outcome"] in outcomes
            assert await stored_ends(worker) == 1


async def test_W17_a_prompt_that_kills_its_worker_repeatedly_fails_and_others_are_served(tmp_path: Path) -> None:
    async with open_crashes(tmp_path, Limits(poison_deaths_max=2)) as crashes:
        async with crashes.ready_worker() as worker:
            session_id = await worker.session()
            crashes.failpoints.arm("run.before_start", "kill", times=2)
            submitting = asyncio.ensure_future(worker.submit(session_id, "/say poison", "poison"))
            await worker.exit_code()
            submitting.cancel()
        async with crashes.worker() as worker:
            assert await worker.exit_code() == KILLED
        async with crashes.ready_worker() as worker:
            run = await worker.ask("run.get", run="poison")
            assert (run["outcome"], run["cause"]) == ("failed", "crashed_repeatedly")
            await worker.submit(session_id, "/say fine", "fine")
            assert (await worker.ended("fine"))["text"] == "fine"


async def test_a_run_ends_once_when_the_next_worker_is_killed_before_it_is_ready(tmp_path: Path) -> None:
    async with open_crashes(tmp_path) as crashes:
        async with crashes.ready_worker() as worker:
            await streaming(worker)
            worker.process.kill()
            await worker.exit_code()
        crashes.failpoints.arm("worker.before_ready", "kill")
        async with crashes.worker() as worker:
            assert await worker.exit_code() == KILLED
        async with crashes.ready_worker() as worker:
            assert (await worker.ask("run.get", run="key"))["outcome"] == "interrupted"
            assert await stored_ends(worker) == 1


async def test_a_cancel_before_the_dispatch_cancels_the_committed_prompt(tmp_path: Path) -> None:
    async with open_crashes(tmp_path) as crashes, crashes.ready_worker() as worker:
        session_id = await worker.session()
        crashes.failpoints.arm("prompt.after_commit")
        submitting = asyncio.ensure_future(worker.submit(session_id, "/say hi", "key"))
        hit = await crashes.failpoints.reached("prompt.after_commit")
        cancelling = asyncio.ensure_future(worker.ask("prompt.cancel", sid=session_id))
        await asyncio.wait({cancelling}, timeout=0.05)
        hit.release()
        assert await submitting == "key"
        await cancelling
        assert worker.listener.completes()["key"]["cancelled"] is True
        rows = await worker.ask("session.messages", sid=session_id)
        assert [row["role"] for row in rows] == ["user", "assistant"]
        assert rows[1]["parts"][0]["data"]["reason"] == "canceled"
