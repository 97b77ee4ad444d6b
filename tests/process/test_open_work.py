"""Test what happens to accepted prompts when workers or the whole server end: what waits is kept and runs."""

import asyncio
import json
import signal

import pytest

from tests.support.clients.http_client import texts
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


async def queue(workspace: WorkspaceFixture, *names: str) -> list[str]:
    """Send prompts that wait behind the active run; return their run ids."""
    return [await workspace.prompt(f"prompt {name}", name) for name in names]


async def ends(house: ServerHarness, workspace: WorkspaceFixture) -> dict[str, str]:
    """Wait until no run of the workspace is open, without any client; return the outcome of each run, in order."""

    def closed() -> bool:
        return all(row.state == "ended" for row in house.stored(workspace).runs)

    await eventually(closed, what="the end of all runs", timeout_s=20.0)
    return {row.id: row.outcome for row in house.stored(workspace).runs}


async def answer_all(house: ServerHarness, count: int) -> None:
    """Answer the next requests to the model, one after the other."""
    for number in range(count):
        await (await house.provider.next_call()).reply(f"answer {number}")


async def kill_everything(house: ServerHarness) -> None:
    """End the server and all that it started, as a power cut does."""
    pids = [house.server.pid, *(pid for pid, _ in house.leftovers())]
    processes = [house.hold(pid) for pid in pids]
    for process in processes:
        process.send(signal.SIGKILL)
    assert await house.server.ended() == -signal.SIGKILL
    for process in processes:
        await process.gone()


async def test_S20_a_stopped_server_runs_at_its_next_start_what_waited(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    active, _ = await workspace.streaming("begun")
    waiting = await queue(workspace, "b", "a", "c")
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    stored = {row.id: (row.state, row.outcome) for row in house.stored(workspace).runs}
    assert stored == {active: ("ended", "cancelled")} | dict.fromkeys(waiting, ("accepted", ""))
    await house.server.restart()
    row = await house.worker(workspace.id)
    assert row["open_runs"] >= 1, "the status must show the open runs before the worker reports"
    await answer_all(house, 3)
    assert list(await ends(house, workspace)) == [active, *waiting]
    prompts = [texts(message) for message in await workspace.messages() if message["role"] == "user"]
    assert prompts == ["tell me a story", "prompt b", "prompt a", "prompt c"]


async def test_S20_stop_cancels_what_waits_only_on_request(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    active, _ = await workspace.streaming("begun")
    waiting = await queue(workspace, "one", "two")
    house.server.send(signal.SIGUSR2)
    assert await house.server.ended() == 0
    outcomes = {row.id: row.outcome for row in house.stored(workspace).runs}
    assert outcomes == dict.fromkeys([active, *waiting], "cancelled")


async def test_S20_a_worker_that_leaves_with_waiting_prompts_is_started_again(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    active, _ = await workspace.streaming("begun")
    waiting = await queue(workspace, "one", "two")
    worker = await workspace.worker()
    worker.send(signal.SIGTERM)
    await worker.gone()
    await answer_all(house, 2)
    assert await ends(house, workspace) == {active: "cancelled"} | dict.fromkeys(waiting, "completed")


async def test_S20_a_restart_of_the_worker_keeps_what_waits(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    active, _ = await workspace.streaming("begun")
    waiting = await queue(workspace, "one", "two")
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/restart", timeout_s=20)).expect(200)
    await answer_all(house, 2)
    assert await ends(house, workspace) == {active: "cancelled"} | dict.fromkeys(waiting, "completed")


@pytest.mark.house(neighbour=False)
async def test_S21_after_a_power_cut_accepted_prompts_run_without_a_visitor(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    active, _ = await workspace.streaming("begun")
    waiting = await queue(workspace, "b", "a")
    await kill_everything(house)
    await house.server.restart()
    await answer_all(house, 2)
    assert await ends(house, workspace) == {active: "interrupted"} | dict.fromkeys(waiting, "completed")


@pytest.mark.house(neighbour=False)
async def test_S21_a_run_whose_answer_was_just_sent_is_ended_after_a_power_cut(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, _ = await workspace.streaming("begun")
    await kill_everything(house)
    for name in ("epoch", "token", "supervisor.lock"):  # a runtime directory in memory is empty after a reboot
        (house.server.runtime_dir / name).unlink(missing_ok=True)
    await house.server.restart()
    assert await ends(house, workspace) == {run: "interrupted"}


@pytest.mark.house(neighbour=False)
async def test_S21_several_workspaces_are_woken_after_a_power_cut(house: ServerHarness) -> None:
    workspaces = [await house.workspace(name, model="openai") for name in ("w1", "w2", "w3", "w4", "w5", "w6")]
    runs = [await workspace.streaming("begun") for workspace in workspaces]
    await kill_everything(house)
    await house.server.restart()
    outcomes = await asyncio.gather(*(ends(house, workspace) for workspace in workspaces))
    assert outcomes == [{run: "interrupted"} for run, _ in runs]


async def test_S21_a_killed_worker_and_supervisor_leave_a_mark_and_a_clean_stop_leaves_none(
    house: ServerHarness,
) -> None:
    workspace = await house.workspace()
    marks = house.server.state_dir / "owing.json"
    assert not marks.exists() or workspace.id not in json.loads(marks.read_text())
    await workspace.ended(await workspace.prompt("/say hello"))
    assert workspace.id in json.loads(marks.read_text())
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    assert json.loads(marks.read_text()) == {}


async def test_S21_a_damaged_list_of_open_work_does_not_stop_the_start(house: ServerHarness) -> None:
    workspace = await house.workspace()
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    for damaged in ("{", "[1]", '{"../x": 1, "w": "many"}', ""):
        (house.server.state_dir / "owing.json").write_text(damaged)
        await house.server.restart()
        assert await house.server.stop() == 0
    await house.server.restart()
    await workspace.works_with_new_stream()
