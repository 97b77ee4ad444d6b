"""One workspace: calls to its worker, the worker's death, sleep, and the end of claims."""

import asyncio
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict, Unavailable
from protocol.ids import ClientId, SessionId
from protocol.messages import Answer
from tests.support.harness.stub_worker import workspace_at

A = ClientId("a")
LOST = Unavailable("gone", code="worker_lost")


async def test_answer_goes_through_unread(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [Answer(call_id="1", status=202, body=b"not even json")]
    answer = await workspace.call("prompt.submit", body=b"\xff")
    assert (answer.status, answer.body) == (202, b"not even json")
    await workspace.close("end")


async def test_W01_prompt_is_not_repeated_behind_the_clients_back(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [LOST, Answer(call_id="2")]
    with pytest.raises(Unavailable) as lost:
        await workspace.call("prompt.submit")
    assert (lost.value.code, lost.value.retry_after_s) == ("worker_lost", 1.0)
    assert driver.operations == ["prompt.submit"]
    await workspace.close("end")


async def test_safe_operation_goes_to_the_next_worker_once(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [LOST, Answer(call_id="2", body=b"[]"), LOST, LOST]
    assert (await workspace.call("session.list")).body == b"[]"
    with pytest.raises(Unavailable):
        await workspace.call("session.list")
    await workspace.close("end")


async def test_W19_prompt_that_meets_a_worker_on_its_way_to_sleep_is_accepted_by_the_next(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [Conflict("closing", code="workspace_closing"), Answer(call_id="2", status=202)]
    assert (await workspace.call("prompt.submit")).status == 202
    await workspace.close("end")


async def test_errors_of_an_operation_reach_the_caller(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [BadInput("empty", code="empty_prompt")]
    with pytest.raises(BadInput):
        await workspace.call("prompt.submit")
    await workspace.close("end")


async def test_H05_sleeping_workspace_without_its_directory(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()

    workspace, driver = workspace_at(tmp_path / "p")
    driver.state = "asleep"
    (tmp_path / "p").rmdir()
    with pytest.raises(Conflict, match="missing"):
        await workspace.call("session.list")
    assert driver.state == "asleep"
    await workspace.close("end")


async def test_nothing_is_woken_on_the_way_out(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.state = "asleep"
    with pytest.raises(Unavailable):
        await workspace.call("session.list", wakes=False)
    assert driver.state == "asleep"
    await workspace.close("end")


async def test_P11_sleeps_only_after_a_beat_later_than_the_last_call(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, evict_idle_s=0.0)
    driver.answers = [Answer(call_id="1", status=202)]
    await workspace.call("prompt.submit")
    workspace.observe()
    driver.beat = 11
    workspace.observe()
    await asyncio.sleep(0)
    assert driver.closed == []
    driver.beat, driver.open_runs = 12, 1
    workspace.observe()
    await asyncio.sleep(0)
    assert driver.closed == []
    driver.beat, driver.open_runs = 13, 0
    workspace.observe()
    workspace.observe()
    await asyncio.sleep(0)
    assert driver.closed == ["idle"]
    assert not workspace.is_used
    await workspace.close("end")


async def test_P11_call_under_way_keeps_the_worker(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, evict_idle_s=0.0)
    driver.answers = [Answer(call_id="1")]

    async def look() -> None:
        workspace.observe()
        assert workspace.is_used
        with pytest.raises(Conflict) as refused:
            await workspace.evict()
        assert refused.value.code == "busy"

    driver.before_answer = look
    await workspace.call("session.list")
    assert driver.closed == []
    await workspace.close("end")


async def test_evict_by_hand(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    await workspace.evict()
    await workspace.evict()
    assert driver.closed == ["evicted by hand"]
    await workspace.close("end")


async def test_stream_is_a_claim_from_open_to_close(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, evict_idle_s=0.0, detach_grace_s=0.0)
    with workspace.attached(A, cursor=None, cursor_is_bad=False, wants_ids=False):
        workspace.view(A, SessionId("s"))
        assert workspace.status().clients == 1
        workspace.observe()
        await asyncio.sleep(0)
        assert driver.closed == []
    with pytest.raises(Conflict):
        workspace.view(A, SessionId("s"))
    await asyncio.sleep(0.001)  # the detach grace of no length
    assert not workspace.is_used
    await workspace.close("end")


async def test_holds_run_out_by_themselves(tmp_path: Path) -> None:
    workspace, _ = workspace_at(tmp_path, create_grace_s=0.02)
    workspace.claim(A)
    assert workspace.is_used
    async with asyncio.timeout(5):
        while workspace.is_used:  # noqa: ASYNC110 - a timer inside, nothing to await
            await asyncio.sleep(0.005)
    await workspace.close("end")


async def test_last_client_leaving_changes_nothing_by_default(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    workspace.claim(A)
    workspace.release(A)
    await asyncio.sleep(0)
    assert driver.closed == []
    await workspace.close("end")


async def test_last_client_leaving_ends_the_work_where_that_is_asked_for(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, cancel_on_last_detach=True)
    workspace.claim(A)
    workspace.retire(A)
    await asyncio.sleep(0)
    assert driver.closed == ["last client left"]
    await workspace.close("end")


async def test_detach_leaves_the_worker_and_ends_the_streams(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    with workspace.attached(A, cursor=None, cursor_is_bad=False, wants_ids=False) as stream:
        await workspace.detach_all()
        assert await stream.next_chunk(1.0) is None
    assert driver.closed == ["left"]


async def test_S07_waiting_request_does_not_bring_a_closing_worker_back(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.state = "starting"
    driver.is_slow = True
    waiting = asyncio.ensure_future(workspace.call("session.list"))
    await asyncio.sleep(0)
    await workspace.close("server shuts down")
    with pytest.raises(Unavailable) as refused:
        await waiting
    assert refused.value.code == "server_exiting"
    with pytest.raises(Unavailable):
        await workspace.call("session.list")
    workspace.wake()
    assert driver.state == "asleep"


async def test_caller_that_gives_up_waiting_is_not_told_a_lie(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.state = "starting"
    driver.is_slow = True
    waiting = asyncio.ensure_future(workspace.call("session.list"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await workspace.close("end")
