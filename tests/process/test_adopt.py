"""A restart of the supervisor is invisible to runs: workers stay, are found, and streams go on by id (P7, S09)."""

import signal

from tests.support.clients.http_client import texts
from tests.support.harness.server_harness import House


async def test_S09_a_restart_leaves_the_workers_and_their_runs(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("before ")
    worker = await room.worker()
    room.watcher.resumes = True
    house.bystander.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    assert room.watcher.ends in ([], ["clean"])
    assert worker.is_alive
    await call.tokens("meanwhile ")  # nobody listens; the worker stores it
    await house.server.restart()
    await call.reply("after")
    end = await room.ended(run)
    assert end["text"] == "before meanwhile after"
    assert (await room.worker()).identity == worker.identity
    assert room.watcher.ends == ["clean"]
    assert (await house.worker(room.id))["restarts"] == 0


async def test_a_run_that_ends_while_nobody_is_there_is_told_later(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("before ")
    room.watcher.resumes = True
    house.bystander.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    await call.reply("after")
    await call.left()
    await house.server.restart()
    assert (await room.ended(run))["text"] == "before after"
    assert texts(await room.last_assistant()) == "before after"


async def test_an_idle_worker_is_adopted_too(house: House) -> None:
    room = await house.room()
    worker = await room.worker()
    room.watcher.resumes = True
    house.bystander.may_reconnect = True
    house.server.send(signal.SIGHUP)
    assert await house.server.ended() == 0
    await house.server.restart()
    assert (await room.worker()).identity == worker.identity
    await room.works()
