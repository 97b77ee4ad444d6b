"""Fault matrix 5: the supervisor dies or is told to leave; runs belong to their workers and go on or end in order."""

import asyncio
import json
import signal
import subprocess

import pytest

from tests.support.client import texts
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.processes import parent_of


async def test_S01_killed_while_three_workspaces_stream(house: House) -> None:
    rooms = [await house.room(f"w{n}", model="openai") for n in range(3)]
    runs = []
    for room in rooms:
        runs.append(await room.streaming("before "))
        room.watcher.resumes = True
    workers = [await room.worker() for room in rooms]
    house.bystander.may_reconnect = True
    await house.server.kill9()
    for _, call in runs:
        await call.tokens("meanwhile ")
    await house.server.restart()
    for (_, call), word in zip(runs, ("one", "two", "three"), strict=True):
        await call.reply(word)
    for room, (run, _), word in zip(rooms, runs, ("one", "two", "three"), strict=True):
        assert (await room.ended(run))["text"] == f"before meanwhile {word}"
        assert texts(await room.last_assistant()) == f"before meanwhile {word}"
    for room, worker in zip(rooms, workers, strict=True):
        assert (await room.worker()).identity == worker.identity, "not the same worker"
        assert (await house.worker(room.id))["restarts"] == 0
    await rooms[0].works()


async def test_S01_killed_twice_in_a_row(house: House) -> None:
    room = await house.room(model="openai")
    run, call = await room.streaming("before ")
    worker = await room.worker()
    room.watcher.resumes = True
    house.bystander.may_reconnect = True
    for _ in range(2):
        await house.server.kill9()
        await house.server.restart()
    await call.reply("after")
    assert (await room.ended(run))["text"] == "before after"
    assert (await room.worker()).identity == worker.identity


async def test_S06_a_second_supervisor_refuses(house: House) -> None:
    room = await house.room()
    second = await asyncio.to_thread(house.server.run_another)
    assert second.returncode == 3, second
    assert str(house.server.pid) in second.stderr
    await room.works()


async def test_S10_a_bad_configuration_stops_the_start(house: House) -> None:
    second = await asyncio.to_thread(house.server.run_another, "--host", "gopher://here")
    assert second.returncode == 2, second
    assert len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert "gopher://here" in second.stderr


@pytest.mark.parametrize("moment", ["idle", "M3", "M4"])
async def test_S07_told_to_leave(house: House, moment: str) -> None:
    room = await house.room(model="openai" if moment == "M3" else "script", yolo=True)
    worker = await room.worker()
    watched, run = [worker], ""
    if moment == "M3":
        run, _ = await room.streaming()
    if moment == "M4":
        pipe = house.pipe()
        command = f"trap '' TERM; sleep 1001 & echo $$ $! > {pipe.path}; wait; sleep 1002"
        run, children = await room.tool_running(command, pipe)
        watched += children
    house.notify.forget()
    house.server.send(signal.SIGTERM)
    await house.notify.wait("STOPPING=1")
    assert await room.watcher.over() == "clean"
    assert room.watcher.retry_ms > 0, "the stream never said when to come back"
    assert await house.server.ended() == 0
    assert [process.pid for process in watched if process.is_alive] == []
    if run:
        [row] = house.stored(room).runs
        assert (row.id, row.outcome) == (run, "cancelled")


@pytest.mark.house(bystander=False)
async def test_S07_told_to_leave_while_a_worker_starts(house: House) -> None:
    client = house.new_client()
    path = house.directory("w", "script")
    house.failpoints.arm("worker.before_ready", times=10)
    creating = asyncio.ensure_future(client.post("/v1/workspaces", {"path": str(path), "client_id": client.client_id}))
    hit = await house.failpoints.reached("worker.before_ready")
    worker = house.hold(hit.pid)
    house.server.send(signal.SIGTERM)
    answer = await creating
    assert answer.status == 503, answer
    assert await house.server.ended(within_s=8.0) == 0
    assert not worker.is_alive


@pytest.mark.house(zygote="own", bystander=False)
async def test_S07_told_to_leave_before_its_zygote_is_warm(house: House) -> None:
    assert await house.server.stop() == 0  # judged: nothing of the house is left, the zygote included


@pytest.mark.house(zygote="own")
async def test_S07_the_zygote_ends_with_the_server_that_started_it(house: House) -> None:
    room = await house.room()
    await room.works()
    assert len(house.leftovers()) >= 3  # two workers and their zygote
    assert await house.server.stop() == 0
    await eventually(lambda: house.leftovers() == [], what="an empty house", state=house.leftovers)


async def test_S08_told_to_leave_three_times(house: House) -> None:
    room = await house.room(model="openai")
    run, _ = await room.streaming()
    house.failpoints.arm("close.c", workspace=room.id)
    house.server.send(signal.SIGTERM)
    hit = await house.failpoints.reached("close.c")
    house.server.send(signal.SIGTERM)
    house.server.send(signal.SIGINT)
    hit.release()
    assert await house.server.ended() == 0
    [row] = house.stored(room).runs
    assert (row.id, row.outcome) == (run, "cancelled")


async def test_S11_the_record_of_a_reused_pid(house: House) -> None:
    room = await house.room()
    worker = await room.worker()
    house.bystander.may_reconnect = True
    room.watcher.resumes = True
    await house.server.kill9()
    await worker.kill()
    record_path = house.server.runtime_dir / "workers" / f"{room.id}.json"
    record = json.loads(record_path.read_text())
    assert record["pid"] == worker.pid
    with subprocess.Popen(["sleep", "1000"], env={}) as stranger:
        try:
            record_path.write_text(json.dumps(record | {"pid": stranger.pid}))
            await house.server.restart()
            row = await house.worker(room.id)
            assert row["pid"] != stranger.pid, "a stranger was adopted"
            await room.works()
            assert stranger.poll() is None, "a stranger was killed"
        finally:
            stranger.kill()


@pytest.mark.house(zygote="own")
async def test_S15_the_zygote_dies(house: House) -> None:
    room = await house.room()
    worker = await room.worker()
    [zygote] = [house.hold(pid) for pid, _ in house.leftovers() if parent_of(pid) == house.server.pid]
    await zygote.kill()
    await room.works()
    assert (await room.worker()).identity == worker.identity, "the zygote's end touched a worker"
    second = await house.room("second")
    await second.works()
