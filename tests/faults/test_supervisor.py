"""Kill the supervisor, end it with SIGTERM, or start it with bad settings; runs continue or end in order."""

import asyncio
import json
import signal
import subprocess

import pytest

from tests.support.clients.http_client import texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import parent_of


async def test_S01_runs_continue_when_the_server_is_killed_while_three_workspaces_stream(house: ServerHarness) -> None:
    workspaces = [await house.workspace(f"w{n}", model="openai") for n in range(3)]
    runs = []
    for workspace in workspaces:
        runs.append(await workspace.streaming("before "))
        workspace.watcher.resumes = True
    workers = [await workspace.worker() for workspace in workspaces]
    house.neighbour.may_reconnect = True
    await house.server.kill9()
    for _, call in runs:
        await call.tokens("meanwhile ")
    await house.server.restart()
    for (_, call), word in zip(runs, ("one", "two", "three"), strict=True):
        await call.reply(word)
    for workspace, (run, _), word in zip(workspaces, runs, ("one", "two", "three"), strict=True):
        assert (await workspace.ended(run))["text"] == f"before meanwhile {word}"
        assert texts(await workspace.last_assistant()) == f"before meanwhile {word}"
    for workspace, worker in zip(workspaces, workers, strict=True):
        assert (await workspace.worker()).identity == worker.identity, "not the same worker"
        assert (await house.worker(workspace.id))["restarts"] == 0
    await workspaces[0].works()


async def test_S01_a_run_continues_when_the_server_is_killed_twice(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("before ")
    worker = await workspace.worker()
    workspace.watcher.resumes = True
    house.neighbour.may_reconnect = True
    for _ in range(2):
        await house.server.kill9()
        await house.server.restart()
    await call.reply("after")
    assert (await workspace.ended(run))["text"] == "before after"
    assert (await workspace.worker()).identity == worker.identity


async def test_S06_a_second_supervisor_refuses_to_start(house: ServerHarness) -> None:
    workspace = await house.workspace()
    second = await asyncio.to_thread(house.server.run_another)
    assert second.returncode == 3, second
    assert str(house.server.pid) in second.stderr
    await workspace.works()


BAD_FILES = {
    "no JSON": ("{", "bulkhead.json"),
    "no object": ("[]", "bulkhead.json"),
    "not UTF-8": (b"\xff{}", "bulkhead.json"),
    "deep": ("[" * 100_000, "bulkhead.json"),
    "unknown key": ('{"server": {"hots": "unix:///a"}}', "hots"),
    "wrong type": ('{"server": {"idle_exit": "soon"}}', "idle_exit"),
    "wrong choice": ('{"server": {"on_last_detach": "explode"}}', "on_last_detach"),
    "unknown limit": ('{"server": {"limits": {"drain_seconds": 1}}}', "drain_seconds"),
    "limit of a wrong type": ('{"server": {"limits": {"drain_s": "long"}}}', "drain_s"),
    "negative limit": ('{"server": {"limits": {"drain_s": -1}}}', "drain_s"),
    "path with NUL": ('{"server": {"host": "unix:///a\\u0000b"}}', "NUL"),
}
BAD_ARGUMENTS = (
    ("--host", "gopher://here"),
    ("--host", "here"),
    ("--host", "unix://relative.sock"),
    ("--host", "unix:///" + "x" * 200),
    ("--host", "tcp://127.0.0.1"),
    ("--host", "tcp://:8600"),
    ("--host", "tcp://127.0.0.1:http"),
    ("--host", "tcp://127.0.0.1:65536"),
    ("--host", "tcp://a..b:8600"),
    ("--idle-exit", "-1"),
    ("--idle-exit", "nan"),
    ("--log-level", "loud"),
    ("--config", "/nowhere/bulkhead.json"),
    ("--runtime-dir", "/dev/null/r"),
    ("--state-dir", "/dev/null/s"),
    ("--runtime-dir", "/" + "r" * 200),
    ("--what",),
)


def check_refused(finished: "subprocess.CompletedProcess[str]", hint: str) -> None:
    """Check that the start was refused with exit code 2 and one line on stderr that contains `hint`."""
    assert finished.returncode == 2, finished
    assert len(finished.stderr.strip().splitlines()) == 1, finished.stderr
    assert hint in finished.stderr
    assert finished.stdout == ""


@pytest.mark.parametrize("what", BAD_FILES)
@pytest.mark.house(start=False, neighbour=False)
async def test_S10_a_bad_file_stops_the_start(house: ServerHarness, what: str) -> None:
    text, hint = BAD_FILES[what]
    path = house.root / "c" / "bulkhead" / "bulkhead.json"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_refused(await asyncio.to_thread(house.server.run_another), hint)
    assert not (house.server.runtime_dir / "supervisor.lock").exists()


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=lambda arguments: " ".join(arguments)[:40])
@pytest.mark.house(start=False, neighbour=False)
async def test_S10_bad_arguments_stop_the_start(house: ServerHarness, arguments: tuple[str, ...]) -> None:
    check_refused(await asyncio.to_thread(house.server.run_another, *arguments), arguments[-1][:40])
    assert not (house.server.runtime_dir / "router.sock").exists()


@pytest.mark.parametrize("limits", ['{"drain_seconds": 1}', '{"drain_s": "long"}', '{"drain_s": -1}', "[]", "{"])
@pytest.mark.house(start=False, neighbour=False)
async def test_S10_bad_limits_of_the_environment_stop_the_start(house: ServerHarness, limits: str) -> None:
    check_refused(await asyncio.to_thread(house.server.run_another, env={"BULKHEAD_LIMITS": limits}), "BULKHEAD_LIMITS")


async def test_S10_a_start_that_is_refused_affects_no_worker(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("one ")
    check_refused(await asyncio.to_thread(house.server.run_another, "--host", "gopher://here"), "gopher://here")
    await call.reply("two")
    assert (await workspace.ended(run))["text"] == "one two"


@pytest.mark.parametrize("moment", ["idle", "M3", "M4"])
async def test_S07_sigterm_ends_the_server_its_workers_and_their_tools(house: ServerHarness, moment: str) -> None:
    workspace = await house.workspace(model="openai" if moment == "M3" else "script", yolo=True)
    worker = await workspace.worker()
    processes, run = [worker], ""
    if moment == "M3":
        run, _ = await workspace.streaming()
    if moment == "M4":
        pipe = house.pipe()
        command = f"trap '' TERM; sleep 1001 & echo $$ $! > {pipe.path}; wait; sleep 1002"
        run, children = await workspace.tool_running(command, pipe)
        processes += children
    house.notify.forget()
    house.server.send(signal.SIGTERM)
    await house.notify.wait("STOPPING=1")
    assert await workspace.watcher.connection_ended() == "clean"
    assert workspace.watcher.retry_ms > 0, "the stream has sent no `retry`"
    assert await house.server.ended() == 0
    assert [process.pid for process in processes if process.is_alive] == []
    if run:
        [row] = house.stored(workspace).runs
        assert (row.id, row.outcome) == (run, "cancelled")


@pytest.mark.house(neighbour=False)
async def test_S07_sigterm_while_a_worker_starts_ends_both(house: ServerHarness) -> None:
    client = house.new_client()
    path = house.directory("w", "script")
    house.failpoints.arm("worker.before_ready", times=10)
    creating = asyncio.ensure_future(client.post("/v1/workspaces", {"path": str(path), "client_id": client.client_id}))
    hit = await house.failpoints.reached("worker.before_ready")
    worker = house.hold(hit.pid)
    house.server.send(signal.SIGTERM)
    answer = await creating
    assert answer.status == 503, answer
    assert await house.server.ended(timeout_s=8.0) == 0
    assert not worker.is_alive


@pytest.mark.house(zygote="own", neighbour=False)
async def test_S07_sigterm_before_the_zygote_is_ready_ends_both(house: ServerHarness) -> None:
    assert await house.server.stop() == 0  # the checks after the test find no process left, the zygote included


@pytest.mark.house(zygote="own")
async def test_S07_the_zygote_ends_with_the_server_that_started_it(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.works()
    assert len(house.leftovers()) >= 3  # two workers and their zygote
    assert await house.server.stop() == 0
    await eventually(lambda: house.leftovers() == [], what="no process left", state=house.leftovers)


async def test_S08_several_signals_end_the_server_as_one_does(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming()
    house.failpoints.arm("close.c", workspace=workspace.id)
    house.server.send(signal.SIGTERM)
    hit = await house.failpoints.reached("close.c")
    house.server.send(signal.SIGTERM)
    house.server.send(signal.SIGINT)
    hit.release()
    assert await house.server.ended() == 0
    [row] = house.stored(workspace).runs
    assert (row.id, row.outcome) == (run, "cancelled")


async def test_S11_a_process_with_the_pid_of_a_recorded_worker_is_left_alone(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    house.neighbour.may_reconnect = True
    workspace.watcher.resumes = True
    await house.server.kill9()
    await worker.kill()
    record_path = house.server.state_dir / "workers" / f"{workspace.id}.json"
    record = json.loads(record_path.read_text())
    assert record["pid"] == worker.pid
    with subprocess.Popen(["sleep", "1000"], env={}) as unrelated:
        try:
            record_path.write_text(json.dumps(record | {"pid": unrelated.pid}))
            await house.server.restart()
            row = await house.worker(workspace.id)
            assert row["pid"] != unrelated.pid, "an unrelated process was adopted"
            await workspace.works()
            assert unrelated.poll() is None, "an unrelated process was killed"
        finally:
            unrelated.kill()


@pytest.mark.house(zygote="own")
async def test_S15_workers_survive_the_end_of_the_zygote_and_new_ones_start(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    [zygote] = [house.hold(pid) for pid, _ in house.leftovers() if parent_of(pid) == house.server.pid]
    await zygote.kill()
    await workspace.works()
    assert (await workspace.worker()).identity == worker.identity, "the end of the zygote ended a worker"
    second = await house.workspace("second")
    await second.works()


async def test_T07_a_removed_api_socket_is_bound_again(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("on ")
    house.server.socket_path.unlink()
    await eventually(house.server.socket_path.exists, what="the socket made again")
    (await house.new_client().get(f"/v1/workspaces/{workspace.id}/sessions")).expect(200)
    await call.reply("and on")
    assert (await workspace.ended(run))["text"] == "on and on"
    assert (await house.worker(workspace.id))["clients"] == 1, "the open stream must stay open"
    assert "listening again" in house.server.log
