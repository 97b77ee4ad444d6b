"""The process of the local model under a real supervisor: started when asked, one for all, replaced, ended.

A stand-in takes the place of the model, so that it starts slowly, dies and hangs when the test wants it.
"""

import signal
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.harness.local_model import ON, LocalModelFixture, answer
from tests.support.harness.server_harness import ServerHarness

AT_ONCE = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}


@pytest.mark.house(env=ON, start=False, neighbour=False)
async def test_without_a_provider_it_answers_and_starts_with_the_first_prompt(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(default=None)
    workspace = await house.workspace()
    info = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/agent")).expect(200).json()
    assert (info["model_cfg"]["provider"], info["model_cfg"]["model"]) == ("local", "smollm2")
    assert info["model"]["context_window"] == 4096
    assert not side.record.exists(), "started although nobody asked it anything"
    keys = (await answer(workspace, "/keys")).split()
    assert "messages" in keys
    assert "tools" not in keys, "it makes no tool calls, and reads slowly"
    assert str(side.process().pid) == await answer(workspace, "/pid")


@pytest.mark.house(env=ON, start=False)
async def test_two_workspaces_share_one_process(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    one, two = await side.workspace("one"), await side.workspace("two")
    held = await one.prompt("/hold")
    await one.watcher.text(one.session, "one two")
    assert await answer(two, "/pid") == str(side.process().pid)
    side.go()
    assert (await one.ended(held))["text"] == "one two three"


@pytest.mark.house(env=ON, start=False)
async def test_a_slow_start_is_waited_for(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    side.mode.write_text("slow")
    await side.start()
    workspace = await side.workspace()
    run = await workspace.prompt("/say worth waiting for")
    await eventually(side.record.exists, what="the process on record")
    slow = side.process()
    side.mode.write_text("ok")
    assert (await workspace.ended(run))["text"] == "worth waiting for"
    assert slow.is_alive


@pytest.mark.house(env=ON, start=False, limits={"local_model_start_s": 1.0, "model_first_event_s": 20.0})
async def test_one_that_never_gets_ready_is_replaced(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    side.mode.write_text("slow")
    await side.start()
    workspace = await side.workspace()
    run = await workspace.prompt("/say at last")
    await eventually(side.record.exists, what="the process on record")
    await side.process().gone()
    side.mode.write_text("ok")
    assert (await workspace.ended(run))["text"] == "at last"


@pytest.mark.house(env=ON, start=False, limits=AT_ONCE)
async def test_killed_in_the_middle_of_an_answer(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    workspace = await side.workspace()
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    await side.process().kill()
    side.go()
    end = await workspace.ended(run)
    assert end["text"] == "one two three", "the answer was asked for again, and nothing is doubled"
    await workspace.works()


@pytest.mark.house(env=ON, start=False, limits={**AT_ONCE, "local_model_lost_s": 2.0})
async def test_one_that_hangs_is_killed_and_replaced(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    workspace = await side.workspace()
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    hung = side.process()
    hung.send(signal.SIGSTOP)
    await hung.gone(10.0)
    side.go()
    assert (await workspace.ended(run))["text"] == "one two three"
    assert "hung" in house.server.log


@pytest.mark.house(env=ON, start=False, limits={"model_retries_max": 0, "restart_period_s": 2.0})
async def test_one_that_cannot_start_is_refused_with_the_reason_and_tried_again_later(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    side.mode.write_text("broken")
    await side.start()
    workspace = await side.workspace()
    end = await workspace.ended(await workspace.prompt("/say hello"))
    assert "exit code 3" in end["error"], end
    assert "the file of the model is broken" in house.server.log
    side.mode.write_text("ok")

    async def is_answered() -> bool:
        return "error" not in await workspace.ended(await workspace.prompt("/say hello"))

    await eventually(is_answered, timeout_s=15.0, what="an answer once the pause is over")


@pytest.mark.house(env=ON, start=False, limits={"local_model_idle_s": 1.0})
async def test_it_leaves_when_nobody_needs_it_and_comes_back(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    workspace = await side.workspace()
    first = await answer(workspace, "/pid")
    await eventually(lambda: not side.record.exists(), what="it left by itself")
    assert await answer(workspace, "/pid") != first


@pytest.mark.house(env=ON, start=False)
async def test_it_ends_with_the_service(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    workspace = await side.workspace()
    await answer(workspace, "/say hello")
    process = side.process()
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    assert not process.is_alive
    assert not side.record.exists()
    assert not (house.server.runtime_dir / "model.sock").exists()


@pytest.mark.house(env=ON, start=False)
async def test_an_answer_outlives_the_supervisor_and_the_next_has_a_process_of_its_own(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    house.neighbour.may_reconnect = True
    workspace = await side.workspace()
    workspace.watcher.resumes = True
    run = await workspace.prompt("/hold")
    await workspace.watcher.text(workspace.session, "one two")
    old = side.process()
    await house.server.kill9()
    await house.server.restart()
    next_run = await workspace.prompt("/pid")
    side.go()
    assert (await workspace.ended(run))["text"] == "one two three"
    await old.gone()
    end = await workspace.ended(next_run)
    assert end["text"] == str(side.process().pid) != str(old.pid)


@pytest.mark.house(env=ON, start=False, limits={"local_model_leave_s": 0.5})
async def test_one_that_hangs_when_its_supervisor_dies_is_ended_by_the_next(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start()
    house.neighbour.may_reconnect = True
    workspace = await side.workspace()
    workspace.watcher.resumes = True
    await answer(workspace, "/say hello")
    hung = side.process()
    hung.send(signal.SIGSTOP)
    await house.server.kill9()
    await house.server.restart()
    await hung.gone()
    await workspace.works()


@pytest.mark.house(env={"BULKHEAD_LOCAL_MODEL": "0"}, start=False)
async def test_it_can_be_switched_off(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(default=None)
    workspace = await house.workspace()
    assert await answer(workspace, "/say scripted") == "scripted"
    assert not side.record.exists()
    assert not Path(house.server.runtime_dir / "model.sock").exists()
