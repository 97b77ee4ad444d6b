"""The local model itself: llama.cpp and its file in a process of their own. Skipped where they are not installed."""

import pytest

from protocol.local_model import is_installed
from tests.support.eventually import eventually
from tests.support.harness.local_model import ON, LocalModelFixture
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import state_of

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs the local model: make local-model")
PATIENT_S = 45.0
"""It yields to everything else on this machine, and loads 90 MB first."""
AT_ONCE = {"model_retry_delay_s": 0.0, "model_retry_delay_s_max": 0.0}
SHORT = "What is the capital of France?"
LONG = "Write a long story about a ship."


async def first_words(workspace: WorkspaceFixture) -> None:
    await workspace.watcher.wait(
        lambda e: e.kind == "message" and e.payload["role"] == "assistant" and " " in _text(e.payload),
        what="the first words",
        timeout_s=PATIENT_S,
    )


def _text(message: dict[str, list[dict[str, dict[str, str]]]]) -> str:
    return "".join(part["data"].get("text", "") for part in message["parts"])


@pytest.mark.house(env=ON, start=False)
async def test_a_prompt_is_answered_piece_by_piece(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(real=True)
    workspace = await side.workspace(max_tokens=40)
    end = await workspace.ended(await workspace.prompt(SHORT), PATIENT_S)
    assert "error" not in end, end
    assert end["text"]
    shown = [e for e in workspace.watcher.seen if e.kind == "message" and e.payload["role"] == "assistant"]
    assert len(shown) > 3, "it came at once, not as a stream"
    session = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")).expect(200).json()
    )
    assert session["prompt_tokens"] > 10
    assert session["cost"] == 0


@pytest.mark.house(env=ON, start=False)
async def test_two_workspaces_share_one_real_process(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(real=True)
    one, two = await side.workspace("one", max_tokens=20), await side.workspace("two", max_tokens=20)
    runs = [await one.prompt(SHORT), await two.prompt(SHORT)]
    ends = [await one.ended(runs[0], PATIENT_S), await two.ended(runs[1], PATIENT_S)]
    assert all("error" not in end and end["text"] for end in ends), ends
    assert house.server.log.count("local model starting") == 1
    assert side.process().is_alive


@pytest.mark.house(env=ON, start=False, limits=AT_ONCE)
async def test_kill_9_in_the_middle_of_a_real_answer(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(real=True)
    workspace = await side.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    await side.process().kill()
    retrying = await workspace.watcher.wait(
        lambda e: e.kind == "agent_event" and e.payload["type"] == "retrying", what="a second attempt"
    )
    assert "error" not in retrying.payload
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run, PATIENT_S)).get("cancelled") is True
    end = await workspace.ended(await workspace.prompt(SHORT), PATIENT_S)
    assert "error" not in end, end


@pytest.mark.house(env=ON, start=False, limits={"local_model_idle_s": 1.0})
async def test_a_cancel_frees_it_and_it_leaves_when_idle(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(real=True)
    workspace = await side.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    process = side.process()
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run)).get("cancelled") is True
    await process.gone(15.0)
    await eventually(lambda: not side.record.exists(), what="its record is gone")
    assert "left in order" in house.server.log


@pytest.mark.house(env=ON, start=False)
async def test_the_service_ends_in_the_middle_of_a_real_answer(house: ServerHarness) -> None:
    side = LocalModelFixture(house)
    await side.start(real=True)
    workspace = await side.workspace(max_tokens=300)
    run = await workspace.prompt(LONG)
    await first_words(workspace)
    process = side.process()
    house.neighbour.was_ended = True
    assert await house.server.stop() == 0
    assert (await workspace.ended(run)).get("cancelled") is True
    assert state_of(process.pid) == ""
    left = {path.name for path in house.server.runtime_dir.iterdir()}
    assert left.isdisjoint({"model.sock", "model-in.sock", "local-model.json"}), left
