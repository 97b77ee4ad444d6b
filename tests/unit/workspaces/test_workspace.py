"""One workspace: calls to its worker, crashes of the worker, eviction, and the end of claims."""

import asyncio
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict, Unavailable
from protocol.ids import ClientId, SessionId
from protocol.messages import Answer
from tests.support.harness.stub_worker import workspace_at

A = ClientId("a")
LOST = Unavailable("lost", code="worker_lost")


async def test_the_response_of_the_worker_is_forwarded_undecoded(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [Answer(call_id="1", status=202, body=b"not even json")]
    answer = await workspace.call("prompt.submit", body=b"\xff")
    assert (answer.status, answer.body) == (202, b"not even json")
    await workspace.close("end")


async def test_W01_a_lost_prompt_is_not_repeated_by_the_server(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [LOST, Answer(call_id="2")]
    with pytest.raises(Unavailable) as lost:
        await workspace.call("prompt.submit")
    assert (lost.value.code, lost.value.retry_after_s) == ("worker_lost", 1.0)
    assert driver.operations == ["prompt.submit"]
    await workspace.close("end")


async def test_a_safe_operation_is_repeated_once_on_the_next_worker(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [LOST, Answer(call_id="2", body=b"[]"), LOST, LOST]
    assert (await workspace.call("session.list")).body == b"[]"
    with pytest.raises(Unavailable):
        await workspace.call("session.list")
    await workspace.close("end")


async def test_W19_a_prompt_refused_by_a_closing_worker_is_accepted_by_the_next(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [Conflict("closing", code="workspace_closing"), Answer(call_id="2", status=202)]
    assert (await workspace.call("prompt.submit")).status == 202
    await workspace.close("end")


async def test_the_error_of_an_operation_reaches_the_caller(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.answers = [BadInput("empty", code="empty_prompt")]
    with pytest.raises(BadInput):
        await workspace.call("prompt.submit")
    await workspace.close("end")


async def test_H05_a_workspace_whose_directory_is_missing_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    workspace, driver = workspace_at(tmp_path / "p")
    driver.state = "asleep"
    (tmp_path / "p").rmdir()
    with pytest.raises(Conflict, match="missing"):
        await workspace.call("session.list")
    assert driver.state == "asleep"
    await workspace.close("end")


async def test_a_call_that_must_not_wake_starts_no_worker(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.state = "asleep"
    with pytest.raises(Unavailable):
        await workspace.call("session.list", wakes=False)
    assert driver.state == "asleep"
    await workspace.close("end")


async def test_P11_a_worker_is_evicted_only_after_a_heartbeat_later_than_the_last_call(tmp_path: Path) -> None:
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


async def test_P11_an_open_call_prevents_the_eviction(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, evict_idle_s=0.0)
    driver.answers = [Answer(call_id="1")]

    async def try_to_evict() -> None:
        workspace.observe()
        assert workspace.is_used
        with pytest.raises(Conflict) as refused:
            await workspace.evict()
        assert refused.value.code == "busy"

    driver.before_answer = try_to_evict
    await workspace.call("session.list")
    assert driver.closed == []
    await workspace.close("end")


async def test_an_idle_worker_can_be_evicted_by_hand(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    await workspace.evict()
    await workspace.evict()
    assert driver.closed == ["evicted by hand"]
    await workspace.close("end")


async def test_a_stream_is_a_claim_from_open_to_close(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, evict_idle_s=0.0, detach_grace_s=0.0)
    with workspace.attached(A, cursor=None, cursor_is_bad=False, wants_ids=False, wants_deltas=False):
        workspace.view(A, SessionId("s"))
        assert workspace.status().clients == 1
        workspace.observe()
        await asyncio.sleep(0)
        assert driver.closed == []
    with pytest.raises(Conflict):
        workspace.view(A, SessionId("s"))
    await asyncio.sleep(0.001)  # the detach grace is 0 s
    assert not workspace.is_used
    await workspace.close("end")


async def test_the_create_grace_ends_by_a_timer(tmp_path: Path) -> None:
    workspace, _ = workspace_at(tmp_path, create_grace_s=0.02)
    workspace.claim(A)
    assert workspace.is_used
    async with asyncio.timeout(5):
        while workspace.is_used:  # noqa: ASYNC110 - a timer inside, nothing to await
            await asyncio.sleep(0.005)
    await workspace.close("end")


async def test_by_default_the_worker_continues_after_the_last_client(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    workspace.claim(A)
    workspace.release(A)
    await asyncio.sleep(0)
    assert driver.closed == []
    await workspace.close("end")


async def test_with_cancel_on_last_detach_the_last_client_closes_the_worker(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path, cancel_on_last_detach=True)
    workspace.claim(A)
    workspace.retire(A)
    await asyncio.sleep(0)
    assert driver.closed == ["last client left"]
    await workspace.close("end")


async def test_detach_all_keeps_the_worker_and_ends_the_streams(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    with workspace.attached(A, cursor=None, cursor_is_bad=False, wants_ids=False, wants_deltas=False) as stream:
        await workspace.detach_all()
        assert await stream.next_chunk(1.0) is None
    assert driver.closed == ["left"]


async def test_S07_a_waiting_request_does_not_restart_a_closing_worker(tmp_path: Path) -> None:
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


async def test_a_caller_that_is_cancelled_gets_its_cancellation(tmp_path: Path) -> None:
    workspace, driver = workspace_at(tmp_path)
    driver.state = "starting"
    driver.is_slow = True
    waiting = asyncio.ensure_future(workspace.call("session.list"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await workspace.close("end")
