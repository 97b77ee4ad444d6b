"""Test the process of the local model under a real supervisor: started on demand, shared, replaced and stopped.

A stub replaces the model, so that a test can make it start slowly, die or hang.
"""

import signal
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.harness.local_model import ON, LocalModelFixture, answer
from tests.support.harness.server_harness import ServerHarness

AT_ONCE = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}


@pytest.mark.house(env=ON, start=False, neighbour=False)
async def test_the_local_model_is_the_default_and_starts_with_the_first_prompt(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(default=None)
    workspace = await house.workspace()
    info = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/agent")).expect(200).json()
    assert (info["model_cfg"]["provider"], info["model_cfg"]["model"]) == ("local", "smollm2")
    assert info["model"]["context_window"] == 4096
    assert not local_model.record.exists(), "the model process was started before the first prompt"
    keys = (await answer(workspace, "/keys")).split()
    assert "messages" in keys
    assert "tools" not in keys, "tools were offered to a model without tool calls"
    assert str(local_model.process().pid) == await answer(workspace, "/pid")


@pytest.mark.house(env=ON, start=False)
async def test_two_workspaces_share_one_process(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    one, two = await local_model.workspace("one"), await local_model.workspace("two")
    run = await one.prompt("/hold")
    await one.watcher.text(one.session, "one two")
    assert await answer(two, "/pid") == str(local_model.process().pid)
    local_model.go()
    assert (await one.ended(run))["text"] == "one two three"


@pytest.mark.house(env=ON, start=False)
async def test_a_prompt_waits_for_a_slow_start_of_the_model_process(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    local_model.mode.write_text("slow")
    await local_model.start()
    workspace = await local_model.workspace()
    run = await workspace.prompt("/say worth waiting for")
    await eventually(local_model.record.exists, what="the record of the model process")
    slow = local_model.process()
    local_model.mode.write_text("ok")
    assert (await workspace.ended(run))["text"] == "worth waiting for"
    assert slow.is_alive


@pytest.mark.house(env=ON, start=False, limits={"local_model_start_s": 1.0, "model_first_event_s": 20.0})
async def test_a_model_process_that_never_becomes_ready_is_replaced(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    local_model.mode.write_text("slow")
    await local_model.start()
    workspace = await local_model.workspace()
    run = await workspace.prompt("/say at last")
    await eventually(local_model.record.exists, what="the record of the model process")
    await local_model.process().gone()
    local_model.mode.write_text("ok")
    assert (await workspace.ended(run))["text"] == "at last"


@pytest.mark.house(env=ON, start=False, limits=AT_ONCE)
async def test_an_answer_is_retried_when_the_model_process_is_killed(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    workspace = await local_model.workspace()
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    await local_model.process().kill()
    local_model.go()
    end = await workspace.ended(run)
    assert end["text"] == "one two three", "the answer was not requested again, or text is doubled"
    await workspace.works()


@pytest.mark.house(env=ON, start=False, limits={**AT_ONCE, "local_model_lost_s": 2.0})
async def test_a_model_process_that_hangs_is_killed_and_replaced(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    workspace = await local_model.workspace()
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    hung = local_model.process()
    hung.send(signal.SIGSTOP)
    await hung.gone(10.0)
    local_model.go()
    assert (await workspace.ended(run))["text"] == "one two three"
    assert "hung" in house.server.log


@pytest.mark.house(env=ON, start=False, limits={"model_retries_max": 0, "restart_period_s": 2.0})
async def test_a_failed_start_is_reported_with_its_reason_and_tried_again_later(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    local_model.mode.write_text("broken")
    await local_model.start()
    workspace = await local_model.workspace()
    end = await workspace.ended(await workspace.prompt("/say hello"))
    assert "exit code 3" in end["error"], end
    assert "the file of the model is broken" in house.server.log
    local_model.mode.write_text("ok")

    async def is_answered() -> bool:
        return "error" not in await workspace.ended(await workspace.prompt("/say hello"))

    await eventually(is_answered, timeout_s=15.0, what="an answer once the pause is over")


@pytest.mark.house(env=ON, start=False, limits={"local_model_idle_s": 1.0})
async def test_an_idle_model_process_exits_and_is_started_again_on_demand(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    workspace = await local_model.workspace()
    first = await answer(workspace, "/pid")
    await eventually(lambda: not local_model.record.exists(), what="the idle model process has exited")
    assert await answer(workspace, "/pid") != first


@pytest.mark.house(env=ON, start=False)
async def test_the_model_process_ends_with_the_service(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    workspace = await local_model.workspace()
    await answer(workspace, "/say hello")
    process = local_model.process()
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    assert not process.is_alive
    assert not local_model.record.exists()
    assert not (house.server.runtime_dir / "model.sock").exists()


@pytest.mark.house(env=ON, start=False)
async def test_an_answer_survives_a_supervisor_restart_and_the_next_one_uses_a_new_process(
    house: ServerHarness,
) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    house.neighbour.may_reconnect = True
    workspace = await local_model.workspace()
    workspace.watcher.resumes = True
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    old = local_model.process()
    await house.server.kill9()
    await house.server.restart()
    next_run = await workspace.prompt("/pid")
    local_model.go()
    assert (await workspace.ended(run))["text"] == "one two three"
    await old.gone()
    end = await workspace.ended(next_run)
    assert end["text"] == str(local_model.process().pid) != str(old.pid)


@pytest.mark.house(env=ON, start=False, limits={"local_model_leave_s": 0.5})
async def test_the_next_supervisor_ends_a_hanging_model_process(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start()
    house.neighbour.may_reconnect = True
    workspace = await local_model.workspace()
    workspace.watcher.resumes = True
    await answer(workspace, "/say hello")
    hung = local_model.process()
    hung.send(signal.SIGSTOP)
    await house.server.kill9()
    await house.server.restart()
    await hung.gone()
    await workspace.works()


@pytest.mark.house(env={"BULKHEAD_LOCAL_MODEL": "0"}, start=False)
async def test_the_local_model_can_be_switched_off(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(default=None)
    workspace = await house.workspace()
    assert await answer(workspace, "/say scripted") == "scripted"
    assert not local_model.record.exists()
    assert not Path(house.server.runtime_dir / "model.sock").exists()
