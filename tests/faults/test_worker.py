"""Kill a worker, stop it or let it fail to start; its workspace recovers and no other one is affected."""

import asyncio
import json
import signal

import pytest

from tests.support.clients.http_client import Response, finish_of, parts_of, texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import Process

HUNG_S = 1.0
QUICK_BEATS = {"heartbeat_interval_s": 0.1, "heartbeat_lost_s": HUNG_S}


async def test_W01_killed_before_the_prompt_is_committed(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    house.failpoints.arm("prompt.before_commit", workspace=workspace.id)
    response = asyncio.ensure_future(workspace.client.submit(workspace.id, workspace.session, "/say once", "r1"))
    hit = await house.failpoints.reached("prompt.before_commit")
    assert hit.pid == worker.pid
    await worker.kill()
    lost = await response
    assert lost.expect(503).code == "worker_lost"
    assert int(lost.headers["retry-after"]) >= 1
    await workspace.watcher.state("ready", skip=len(workspace.watcher.seen))
    assert house.stored(workspace).runs == []
    assert await workspace.prompt("/say once", "r1") == "r1"
    assert (await workspace.ended("r1"))["text"] == "once"
    assert len(house.stored(workspace).runs) == 1


async def test_W02_killed_between_commit_and_202(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    house.failpoints.arm("prompt.after_commit", workspace=workspace.id)
    response = asyncio.ensure_future(workspace.client.submit(workspace.id, workspace.session, "/say once", "r1"))
    await house.failpoints.reached("prompt.after_commit")
    await worker.kill()
    assert (await response).expect(503).code == "worker_lost"
    assert [run.id for run in house.stored(workspace).runs] == ["r1"], "the prompt was not durable before its 202"
    assert await workspace.prompt("/say once", "r1") == "r1"
    assert (await workspace.ended("r1"))["text"] == "once"
    assert len([m for m in await workspace.messages() if m["role"] == "user"]) == 1, "it ran twice"


async def test_W03_killed_before_the_run_starts(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    house.failpoints.arm("run.before_start", workspace=workspace.id)
    run = await workspace.prompt("/say by itself")
    await house.failpoints.reached("run.before_start")
    await worker.kill()
    assert (await workspace.ended(run))["text"] == "by itself"
    assert (await workspace.worker()).pid != worker.pid


async def test_W04_killed_while_streaming(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("half a story")
    worker = await workspace.worker()
    await worker.kill()
    assert "signal 9" in (await workspace.watcher.state("restarting"))["reason"]
    end = await workspace.ended(run)
    await call.wait_closed()
    await check_interrupted(workspace, run, end, "half a story")
    await workspace.works()


async def test_W05_killed_while_a_tool_runs(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    command = f"sleep 1001 & (sleep 1002 & echo $$ $! > {pipe.path}; wait) & wait"
    run, children = await workspace.tool_running(command, pipe)
    worker = await workspace.worker()
    await worker.kill()
    end = await workspace.ended(run)
    for child in children:
        await child.gone(timeout_s=2.0)
    assert "nterrupted" in end["error"]
    [call] = [part for message in await workspace.messages() for part in parts_of(message, "tool_call")]
    [result] = [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]
    assert result["tool_call_id"] == call["id"]
    assert result["is_error"] is True
    await workspace.works()


async def test_W05_the_history_stays_valid_after_a_kill_while_a_tool_runs(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    pipe = house.pipe()
    run = await workspace.prompt("run something long")
    command = {"description": "long", "command": f"echo $$ > {pipe.path}; sleep 1000"}
    call = await house.provider.next_call()
    await call.tool_call("call-1", "bash", command)
    await call.finish()
    child = house.hold(int(await pipe.line()))
    await (await workspace.worker()).kill()
    await workspace.ended(run)
    await child.gone(timeout_s=2.0)
    await workspace.works()  # the provider checks each request: a result for every call


async def test_W07_killed_before_the_stored_end_is_published(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    house.failpoints.arm("terminal.after_commit", workspace=workspace.id)
    run = await workspace.prompt("/say published once")
    await house.failpoints.reached("terminal.after_commit")
    await worker.kill()
    assert [r.state for r in house.stored(workspace).runs] == ["ended"]
    assert [e for e in workspace.watcher.seen if e.kind == "run_complete"] == []
    end = await workspace.ended(run)
    assert end["text"] == "published once"
    assert "error" not in end
    await workspace.works()


@pytest.mark.parametrize("stage", ["a", "b", "c", "d", "e"])
async def test_W09_killed_in_each_stage_of_the_shutdown(house: ServerHarness, stage: str) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming("until then")
    worker = await workspace.worker()
    house.failpoints.arm(f"close.{stage}", workspace=workspace.id)
    house.server.send(signal.SIGTERM)
    await house.failpoints.reached(f"close.{stage}")
    await worker.kill()
    assert await house.server.ended() == 0
    await workspace.watcher.close()
    house.neighbour.was_ended = True
    await house.server.restart()
    _, answer = await workspace.messages()  # wakes the worker, which recovers first
    assert texts(answer) == "until then"
    outcome = (await workspace.run(run))["outcome"]
    assert outcome == "interrupted" if stage == "a" else outcome in ("cancelled", "interrupted")
    assert len([e for e in house.stored(workspace).events if e.kind == "run_complete"]) == 1
    await workspace.works_with_new_stream()


@pytest.mark.house(limits=QUICK_BEATS)
async def test_W11_a_worker_that_is_stopped_past_the_limit_is_replaced(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming("frozen")
    worker = await workspace.worker()
    await stop(worker)
    async with asyncio.timeout(20.0):  # no request hangs
        answers = await asyncio.gather(*(ask(workspace) for _ in range(5)))
    # A read is repeated on the replacement; a prompt is not, it gets 503 and may be sent again with its run id.
    assert {answer.status for answer in answers} <= {200, 503}
    lost = await workspace.watcher.state("restarting")
    assert lost["reason"] == "hung"
    await worker.gone()
    await check_interrupted(workspace, run, await workspace.ended(run), "frozen")
    await workspace.works()


@pytest.mark.house(limits=QUICK_BEATS)
async def test_W11_a_prompt_to_a_stopped_worker_gets_503(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    await stop(worker)
    lost = await workspace.client.submit(workspace.id, workspace.session, "/say late", "r1")
    assert lost.expect(503).code == "worker_lost"
    assert "retry-after" in lost.headers
    assert await workspace.prompt("/say late", "r1") == "r1"
    assert (await workspace.ended("r1"))["text"] == "late"


@pytest.mark.house(limits={"heartbeat_interval_s": 0.1, "heartbeat_lost_s": 30.0})
async def test_W11_a_worker_that_continues_before_the_limit_stays(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    await stop(worker)
    response = asyncio.ensure_future(ask(workspace))
    await call.tokens("while ")
    worker.send(signal.SIGCONT)
    (await response).expect(200)
    await call.reply("after")
    assert (await workspace.ended(run))["text"] == "before while after"
    assert (await workspace.worker()).identity == worker.identity
    assert workspace.watcher.ends == []


@pytest.mark.house(limits={"drain_s": 1.0, "flush_s": 1.0, "exit_s": 1.0})
async def test_W11_a_worker_that_is_stopped_while_draining_is_killed(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming("stuck")
    worker = await workspace.worker()
    house.failpoints.arm("close.c", "stop", workspace=workspace.id)
    house.server.send(signal.SIGTERM)
    await house.failpoints.reached("close.c")
    assert await house.server.ended(timeout_s=8.0) == 0
    assert not worker.is_alive
    await workspace.watcher.close()
    house.neighbour.was_ended = True
    await house.server.restart()
    await workspace.messages()
    assert (await workspace.run(run))["outcome"] in ("cancelled", "interrupted")


async def test_W14_a_native_crash_leaves_a_traceback_in_the_log(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming("crash")
    worker = await workspace.worker()
    worker.send(signal.SIGSEGV)
    await worker.gone()
    assert (await workspace.watcher.state("restarting"))["reason"] == "signal 11"
    await check_interrupted(workspace, run, await workspace.ended(run), "crash")
    log = (house.server.runtime_dir / "workers" / f"{workspace.id}.log").read_text()
    assert "Segmentation fault" in log, "faulthandler left no trace"
    await workspace.works()


async def test_W15_an_exit_with_0_outside_of_a_shutdown_counts_as_a_crash(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("gone ")
    worker = await workspace.worker()
    house.failpoints.arm("events.before_send", "exit0", workspace=workspace.id)
    await call.tokens("silently")
    await worker.gone()
    assert (await workspace.watcher.state("restarting"))["reason"] == "exit 0"
    await check_interrupted(workspace, run, await workspace.ended(run), "gone ")
    await workspace.works()


@pytest.mark.parametrize("action", ["kill", "raise"])
async def test_W16_a_worker_that_dies_at_every_start_fails_the_workspace(house: ServerHarness, action: str) -> None:
    workspace = await house.workspace()
    before = len(workspace.watcher.seen)
    house.failpoints.arm("worker.before_ready", action, workspace=workspace.id, times=1000)
    await (await workspace.worker()).kill()
    failed = await workspace.watcher.state("failed", skip=before)
    assert failed["reason"]
    spawned = house.failpoints.counts[("worker.before_ready", workspace.id)]
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say hi")
    assert refused.expect(503).code == "worker_failed"
    assert failed["reason"] in refused.json()["message"]
    # The Crush client takes 503 to its first request for the end of the server, and puts its own in its place.
    body = {"path": str(workspace.path), "client_id": workspace.client.client_id}
    created = (await workspace.client.post("/v1/workspaces", body)).expect(504)
    assert created.code == "worker_failed"
    assert failed["reason"] in created.json()["message"]
    row = await house.worker(workspace.id)
    assert (row["state"], row["pid"]) == ("failed", None)
    assert spawned == 3, "the first worker and two replacements: the third death within the period ends the restarts"
    assert house.failpoints.counts[("worker.before_ready", workspace.id)] == spawned, (
        "the worker is started again and again"
    )
    house.failpoints.disarm()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


@pytest.mark.house(limits={"start_deadline_s": 1.0, "wake_deadline_s": 8.0})
async def test_W16_a_worker_that_never_says_hello_fails_the_workspace(house: ServerHarness) -> None:
    workspace = await house.workspace()
    before = len(workspace.watcher.seen)
    house.failpoints.arm("worker.before_ready", workspace=workspace.id, times=1000)
    await (await workspace.worker()).kill()
    failed = await workspace.watcher.state("failed", skip=before, timeout_s=20.0)
    assert "not ready" in failed["reason"]
    house.failpoints.disarm()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart")).expect(200)
    await workspace.works()


async def stop(worker: Process) -> None:
    """Send SIGSTOP; return when the kernel reports the process as stopped."""
    worker.send(signal.SIGSTOP)
    await eventually(lambda: worker.state == "T", what="state T")


async def ask(workspace: WorkspaceFixture) -> Response:
    """Send a request that needs the worker."""
    return await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")


async def check_interrupted(workspace: WorkspaceFixture, run: str, end: dict[str, object], text: str) -> None:
    """Check that the run ended `interrupted` with its cause, and that the text which clients had seen is kept."""
    assert "cancelled" not in end
    assert "nterrupted" in str(end["error"])
    answer = await workspace.last_assistant()
    assert texts(answer).startswith(text), "the partial text was not kept"
    assert (finish_of(answer) or {})["reason"] == "error"
    row = await workspace.run(run)
    assert (row["outcome"], row["cause"]) == ("interrupted", "worker_died"), json.dumps(row)
