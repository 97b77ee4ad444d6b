"""Test the real local model, llama.cpp in a separate process. Skipped where it is not installed."""

import pytest

from protocol.local_model import is_installed
from tests.support.eventually import eventually
from tests.support.harness.local_model import ON, LocalModelFixture
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import state_of

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs the local model: make local-model")
ANSWER_S = 45.0
"""Timeout of an answer: the model runs at low priority, and loads 90 MB first."""
AT_ONCE = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}
SHORT = "What is the capital of France?"
LONG = "Write a long story about a ship."


async def first_words(workspace: WorkspaceFixture) -> None:
    await workspace.watcher.wait(
        lambda e: e.kind == "message" and e.payload["role"] == "assistant" and " " in _text(e.payload),
        what="the first words",
        timeout_s=ANSWER_S,
    )


def _text(message: dict[str, list[dict[str, dict[str, str]]]]) -> str:
    return "".join(part["data"].get("text", "") for part in message["parts"])


@pytest.mark.house(env=ON, start=False)
async def test_an_answer_is_streamed(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(real=True)
    workspace = await local_model.workspace(max_tokens=40)
    end = await workspace.ended(await workspace.prompt(SHORT), ANSWER_S)
    assert "error" not in end, end
    assert end["text"]
    shown = [e for e in workspace.watcher.seen if e.kind == "message" and e.payload["role"] == "assistant"]
    assert len(shown) > 3, "the answer was not streamed"
    session = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")).expect(200).json()
    )
    assert session["prompt_tokens"] > 10
    assert session["cost"] == 0


@pytest.mark.house(env=ON, start=False)
async def test_two_workspaces_share_one_real_process(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(real=True)
    one, two = await local_model.workspace("one", max_tokens=20), await local_model.workspace("two", max_tokens=20)
    runs = [await one.prompt(SHORT), await two.prompt(SHORT)]
    ends = [await one.ended(runs[0], ANSWER_S), await two.ended(runs[1], ANSWER_S)]
    assert all("error" not in end and end["text"] for end in ends), ends
    assert house.server.log.count("local model starting") == 1
    assert local_model.process().is_alive


@pytest.mark.house(env=ON, start=False, limits=AT_ONCE)
async def test_a_real_answer_is_retried_when_the_model_process_is_killed(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(real=True)
    workspace = await local_model.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    await local_model.process().kill()
    retrying = await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="a second attempt"
    )
    assert "error" not in retrying.payload
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run, ANSWER_S)).get("cancelled") is True
    end = await workspace.ended(await workspace.prompt(SHORT), ANSWER_S)
    assert "error" not in end, end


@pytest.mark.house(env=ON, start=False, limits={"local_model_idle_s": 1.0})
async def test_the_model_process_exits_when_idle_after_a_cancel(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(real=True)
    workspace = await local_model.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    process = local_model.process()
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run)).get("cancelled") is True
    await process.gone(15.0)
    await eventually(lambda: not local_model.record.exists(), what="the record of the model process is removed")
    assert "left in order" in house.server.log


@pytest.mark.house(env=ON, start=False)
async def test_stopping_the_service_during_a_real_answer_ends_the_model_process(house: ServerHarness) -> None:
    local_model = LocalModelFixture(house)
    await local_model.start(real=True)
    workspace = await local_model.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    process = local_model.process()
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    assert (await workspace.ended(run)).get("cancelled") is True
    assert state_of(process.pid) == ""
    remaining_files = {path.name for path in house.server.runtime_dir.iterdir()}
    assert remaining_files.isdisjoint({"model.sock", "model-in.sock", "local-model.json"}), remaining_files
