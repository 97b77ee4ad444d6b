"""A worker killed at each moment of a run's life (M0 to M8), and what the next one makes of it."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocol.exit_codes import EXIT_STORAGE
from protocol.ids import Epoch
from protocol.limits import Limits
from protocol.messages import Shutdown
from tests.support.harness.failpoints import Failpoints
from tests.support.harness.one_worker import OneWorker, WorkerProcess, open_one_worker


@asynccontextmanager
async def open_moments(
    path: Path, limits: Limits | None = None
) -> AsyncGenerator[tuple[OneWorker, Failpoints, dict[str, str]], None]:
    async with open_one_worker(path, limits or Limits()) as stage, Failpoints(path / "fail.sock") as failpoints:
        yield stage, failpoints, {"BULKHEAD_FAILPOINTS": str(path / "fail.sock")}


async def ready(worker: WorkerProcess) -> WorkerProcess:
    await worker.until(lambda: worker.listener.readies)
    return worker


async def test_W01_killed_before_the_commit(tmp_path: Path) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm("prompt.before_commit")
            asking = asyncio.ensure_future(worker.submit(session_id, "/say hi", "key"))
            (await failpoints.reached("prompt.before_commit")).release("kill")
            assert await worker.exit_code() == -signal.SIGKILL
            asking.cancel()
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert await worker.ask("run.list") == []
            assert await worker.submit(session_id, "/say hi", "key") == "key"
            assert (await worker.ended("key"))["text"] == "hi"


@pytest.mark.parametrize("point", ["prompt.after_commit", "run.before_start"])
async def test_W02_W03_killed_between_commit_and_start(tmp_path: Path, point: str) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm(point)
            asking = asyncio.ensure_future(worker.submit(session_id, "/say hi", "key"))
            (await failpoints.reached(point)).release("kill")
            await worker.exit_code()
            asking.cancel()
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert worker.listener.readies[0].requeued == ["key"]
            assert worker.listener.readies[0].interrupted == []
            assert (await worker.ended("key"))["text"] == "hi"
            assert await worker.submit(session_id, "/say hi", "key") == "key"
            assert len(await worker.ask("session.messages", sid=session_id)) == 2


async def test_W07_killed_after_the_end_was_committed_and_before_it_was_told(tmp_path: Path) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm("terminal.after_commit")
            await worker.submit(session_id, "/say hi", "key")
            (await failpoints.reached("terminal.after_commit")).release("kill")
            await worker.exit_code()
            assert worker.listener.completes() == {}
            last = worker.listener.numbered[-1].number
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == []
            answer = await worker.link.call("events.since", args={"number": str(last), "count": "50"})
            assert answer.body.count(b'"run_complete"') == 1
            assert b'"text":"hi"' in answer.body
            assert (await worker.ask("run.get", run="key"))["outcome"] == "completed"


async def test_W08_killed_while_the_end_is_written(tmp_path: Path) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm("flush.mid")
            await worker.submit(session_id, "/say hi", "key")
            (await failpoints.reached("flush.mid")).release("kill")
            await worker.exit_code()
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == ["key"]
            told = await worker.ask("run.get", run="key")
            assert (told["state"], told["outcome"]) == ("ended", "interrupted")


@pytest.mark.parametrize("point", ["close.a", "close.b", "close.c", "close.d", "close.e"])
async def test_W09_killed_in_each_stage_of_the_close(tmp_path: Path, point: str) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            await worker.submit(session_id, "/hang", "key")
            await worker.until(lambda: any(b'"assistant"' in event.data for event in worker.listener.numbered))
            failpoints.arm(point)
            worker.link.send(Shutdown(epoch=Epoch(1), reason="test", drain_s=5, flush_s=5))
            (await failpoints.reached(point)).release("kill")
            assert await worker.exit_code() == -signal.SIGKILL
        async with stage.worker(env=env) as worker:
            await ready(worker)
            told = await worker.ask("run.get", run="key")
            assert told["state"] == "ended"
            if point == "close.a":
                assert told["outcome"] == "interrupted"
            if point in ("close.d", "close.e"):
                assert told["outcome"] == "cancelled"
            log = await worker.link.call("events.since", args={"number": "0", "count": "500"})
            assert log.body.count(b'"type":"run_complete"') == 1


async def test_W17_a_poisonous_prompt_is_given_up_and_the_others_are_served(tmp_path: Path) -> None:
    async with open_moments(tmp_path, Limits(poison_deaths_max=2)) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm("run.before_start", "kill", times=2)
            asking = asyncio.ensure_future(worker.submit(session_id, "/say poison", "poison"))
            await worker.exit_code()
            asking.cancel()
        async with stage.worker(env=env) as worker:
            assert await worker.exit_code() == -signal.SIGKILL
        async with stage.worker(env=env) as worker:
            await ready(worker)
            told = await worker.ask("run.get", run="poison")
            assert (told["outcome"], told["cause"]) == ("failed", "crashed_repeatedly")
            await worker.submit(session_id, "/say fine", "fine")
            assert (await worker.ended("fine"))["text"] == "fine"


async def test_killed_before_ready_recovers_once(tmp_path: Path) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            await worker.submit(session_id, "/hang", "key")
            await worker.until(lambda: any(b'"assistant"' in event.data for event in worker.listener.numbered))
            worker.process.kill()
            await worker.exit_code()
        failpoints.arm("worker.before_ready", "kill")
        async with stage.worker(env=env) as worker:
            assert await worker.exit_code() == -signal.SIGKILL
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert (await worker.ask("run.get", run="key"))["outcome"] == "interrupted"
            log = await worker.link.call("events.since", args={"number": "0", "count": "500"})
            assert log.body.count(b'"type":"run_complete"') == 1


async def test_D02_an_error_of_the_disk_ends_the_worker_and_the_file_decides(tmp_path: Path) -> None:
    async with open_moments(tmp_path) as (stage, failpoints, env):
        async with stage.worker(env=env) as worker:
            await ready(worker)
            session_id = await worker.session()
            failpoints.arm("flush.mid", "error:EIO")
            await worker.submit(session_id, "/say hi", "key")
            assert await worker.exit_code() == EXIT_STORAGE
        async with stage.worker(env=env) as worker:
            await ready(worker)
            assert (await worker.ask("run.get", run="key"))["outcome"] == "interrupted"


async def test_a_cancel_that_arrives_before_the_commit_covers_the_prompt(tmp_path: Path) -> None:
    """Scenario 12 of 1.13: hold the work before its dispatch, cancel, let it go."""

    async with open_moments(tmp_path) as (stage, failpoints, env), stage.worker(env=env) as worker:
        await ready(worker)
        session_id = await worker.session()
        failpoints.arm("prompt.after_commit")
        asking = asyncio.ensure_future(worker.submit(session_id, "/say hi", "key"))
        hit = await failpoints.reached("prompt.after_commit")
        cancelling = asyncio.ensure_future(worker.ask("prompt.cancel", sid=session_id))
        await asyncio.wait({cancelling}, timeout=0.05)
        hit.release()
        assert await asking == "key"
        await cancelling
        assert worker.listener.completes()["key"]["cancelled"] is True
        rows = await worker.ask("session.messages", sid=session_id)
        assert [row["role"] for row in rows] == ["user", "assistant"]
        assert rows[1]["parts"][0]["data"]["reason"] == "canceled"
