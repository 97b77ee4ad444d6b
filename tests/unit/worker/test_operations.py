"""The worker's operation table, its reply cache, and its lease from the supervisor."""

import asyncio
import logging

import msgspec
import pytest

from protocol.api.agent import Prompt
from protocol.base.clock import SystemClock
from protocol.errors import CODES, Conflict
from protocol.ids import Epoch
from protocol.limits import DEFAULT_LIMITS
from protocol.messages import Answer, Call
from protocol.operations import Operation
from worker.operations.reply_cache import CachedReply, ReplyCache
from worker.operations.table import Handler, OperationRequest, OperationResponse, OperationTable
from worker.supervisor_lease import SupervisorLease

OPERATIONS = {"do": Operation("do", is_safe=False), "bound": Operation("bound", is_safe=True, is_bound=True)}


async def respond_empty(request: OperationRequest) -> OperationResponse:
    return OperationResponse()


def table(handler: Handler) -> OperationTable:
    return OperationTable(
        {"do": handler, "bound": respond_empty},
        limits=DEFAULT_LIMITS,
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        operations=OPERATIONS,
    )


async def answer_of(handler: Handler, *, body: bytes = b"", timeout_s: float = 5.0, operation: str = "do") -> Answer:
    call = Call(call_id="c7", epoch=Epoch(1), operation=operation, args={"sid": "s"}, body=body, within_s=timeout_s)
    return await table(handler).run(call)


async def error_of(
    handler: Handler, *, body: bytes = b"", timeout_s: float = 5.0, operation: str = "do"
) -> tuple[str, int, str]:
    answer = await answer_of(handler, body=body, timeout_s=timeout_s, operation=operation)
    assert answer.error is not None
    assert answer.status == answer.error.status
    return answer.error.code, answer.status, answer.error.message


async def test_a_handler_gets_the_request_and_its_response_is_the_answer() -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        assert request == OperationRequest({"sid": "s"}, b"body", "c7")
        return OperationResponse(b"{}", status=202)

    assert await answer_of(do, body=b"body") == Answer(call_id="c7", status=202, body=b"{}")


async def test_the_error_of_a_handler_is_the_answer() -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        raise Conflict("cannot: it is busy", code="busy")

    assert await error_of(do) == ("busy", CODES["busy"][1], "cannot: it is busy")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"prompt": 5}', "field `prompt`"),
        (b'{"attachments": [{"file_name": 1}]}', "field `attachments"),
        (b"{", "truncated"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "\\ud800"}', "request"),
        (b'{"x":' + b"[" * 100_000, "nested|recursion"),
        (b'{"prompt": NaN}', "request"),
    ],
)
async def test_C09_an_invalid_body_is_bad_input(body: bytes, words: str) -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        msgspec.json.decode(request.body, type=Prompt)
        return OperationResponse()

    code, status, message = await error_of(do, body=body)
    assert (code, status) == ("bad_input", 400)
    assert any(word in message for word in words.split("|")), message


async def test_an_operation_past_its_deadline_says_that_its_outcome_is_unknown() -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        await asyncio.sleep(60)
        return OperationResponse()

    code, status, message = await error_of(do, timeout_s=0.01)
    assert (code, status) == ("deadline", 504)
    assert "cannot tell" in message


async def test_S16_a_bug_is_an_internal_error_with_an_id_and_its_traceback_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        raise TimeoutError("the secret detail")

    with caplog.at_level(logging.ERROR):
        code, status, message = await error_of(do)
    assert (code, status) == ("internal", 500)
    assert "c7" in message
    assert "secret" not in message
    assert any(record.exc_info for record in caplog.records)


async def test_an_unknown_operation_is_answered_with_an_error() -> None:
    assert (await error_of(respond_empty, operation="other"))[:2] == ("not_found", 404)


async def test_a_cancellation_is_passed_on() -> None:
    async def do(request: OperationRequest) -> OperationResponse:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await answer_of(do)


def test_a_table_with_missing_or_additional_handlers_is_refused() -> None:
    log = logging.getLogger("bulkhead.test")
    for handlers in ({}, {"do": respond_empty}, {"do": respond_empty, "bound": respond_empty, "more": respond_empty}):
        with pytest.raises(ValueError, match="cannot offer"):
            OperationTable(handlers, limits=DEFAULT_LIMITS, clock=SystemClock(), log=log, operations=OPERATIONS)


def test_the_table_knows_which_operations_are_bound_to_their_caller() -> None:
    assert table(respond_empty).is_bound("bound")
    assert not table(respond_empty).is_bound("do")
    assert not table(respond_empty).is_bound("other")


# --- replies --------------------------------------------------------------------------------------------------------


def test_Z07_a_call_begins_once_and_keeps_its_answer() -> None:
    replies = ReplyCache(count_max=10, bytes_max=1000)
    assert replies.begin("a") is CachedReply.NEW
    assert replies.begin("a") is CachedReply.RUNNING
    answer = Answer(call_id="a", body=b"x")
    replies.finished(answer)
    assert replies.begin("a") is answer
    assert replies.running == 0


def test_a_dropped_call_may_begin_again() -> None:
    replies = ReplyCache(count_max=10, bytes_max=1000)
    replies.begin("a")
    replies.dropped("a")
    assert replies.begin("a") is CachedReply.NEW


def test_the_kept_answers_are_bounded_by_count_and_bytes() -> None:
    replies = ReplyCache(count_max=2, bytes_max=10)
    for call_id in "abc":
        replies.begin(call_id)
        replies.finished(Answer(call_id=call_id, body=b"123"))
    assert replies.begin("a") is CachedReply.NEW
    assert isinstance(replies.begin("b"), Answer)
    replies.begin("big")
    replies.finished(Answer(call_id="big", body=b"x" * 100))
    assert len(replies) == 1  # larger than the limit, kept while it is the newest
    assert isinstance(replies.begin("big"), Answer)
    replies.finished(Answer(call_id="a", body=b""))
    assert (len(replies), replies.kept_bytes) == (1, 0)


# --- lease ---------------------------------------------------------------------------------------------------------


def test_S14_an_idle_worker_without_a_supervisor_exits_after_its_lease() -> None:
    lease = SupervisorLease(supervisor_lease_s=60.0, now=0.0)
    assert not any(lease.is_over(open_runs=0, now=float(now)) for now in range(60))
    assert lease.is_over(open_runs=0, now=60.0)


def test_S14_an_open_run_is_finished_before_the_worker_exits() -> None:
    lease = SupervisorLease(supervisor_lease_s=60.0, now=0.0)
    assert not any(lease.is_over(open_runs=1, now=float(now)) for now in range(600))
    assert lease.is_over(open_runs=0, now=600.0)


def test_a_message_of_the_supervisor_renews_the_lease() -> None:
    lease = SupervisorLease(supervisor_lease_s=60.0, now=0.0)
    for now in range(600):
        if now % 50 == 0:
            lease.heard(float(now))
        assert not lease.is_over(open_runs=0, now=float(now))


def test_H01_a_pause_of_the_worker_itself_does_not_end_the_lease() -> None:
    lease = SupervisorLease(supervisor_lease_s=60.0, now=0.0)
    assert not lease.is_over(open_runs=0, now=7200.0)
    assert not any(lease.is_over(open_runs=0, now=7200.0 + now) for now in range(60))
    assert lease.is_over(open_runs=0, now=7260.0)
