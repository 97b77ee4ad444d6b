"""Test that a supervisor restart does not affect runs: workers stay and are adopted, streams resume by id (P7, S09)."""

import signal

from tests.support.clients.http_client import texts
from tests.support.harness.server_harness import ServerHarness


async def test_S09_a_restart_leaves_the_workers_and_their_runs(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    assert workspace.watcher.ends in ([], ["clean"])
    assert worker.is_alive
    await call.tokens("meanwhile ")  # no client is connected; the worker stores it
    await house.server.restart()
    await call.reply("after")
    end = await workspace.ended(run)
    assert end["text"] == "before meanwhile after"
    assert (await workspace.worker()).identity == worker.identity
    assert workspace.watcher.ends == ["clean"]
    assert (await house.worker(workspace.id))["restarts"] == 0


async def test_the_end_of_a_run_without_a_supervisor_is_reported_after_the_restart(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    await call.reply("after")
    await call.wait_closed()
    await house.server.restart()
    assert (await workspace.ended(run))["text"] == "before after"
    assert texts(await workspace.last_assistant()) == "before after"


async def test_an_idle_worker_is_adopted_too(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    await house.server.restart()
    assert (await workspace.worker()).identity == worker.identity
    await workspace.works()
