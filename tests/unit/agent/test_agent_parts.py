"""Small pure parts of the agent: usage, loops, retries, failures, instructions."""

import pytest

from protocol.api.message import (
    BinaryData,
    BinaryPart,
    Message,
    TextData,
    TextPart,
    ToolCallData,
    ToolResultData,
)
from protocol.api.provider import Model
from protocol.limits import Limits
from tests.unit.agent.agent_harness import user
from worker.agent.loop_detection import LoopDetector
from worker.agent.usage import estimate, measure
from worker.models.client import Category, Tokens
from worker.models.failures import DETAIL_LENGTH_MAX, TITLES, category_of_status, failure
from worker.models.retry import delay_before_retry

LIMITS = Limits(model_retries_max=3, model_retry_delay_s=5.0, model_retry_delay_s_max=60.0)
EMPTY = Message(id="a", session_id="s", role="assistant", parts=[])
PRICED = Model(id="m", cost_per_1m_in=3.0, cost_per_1m_out=15.0, cost_per_1m_in_cached=3.75, cost_per_1m_out_cached=0.3)


def test_W_32_the_gauge_counts_all_input_and_the_cost_prices_each_kind() -> None:
    tokens = Tokens(input=1000, output=2000, cache_read=100_000, cache_write=10_000)
    usage = measure(PRICED, tokens, request=[user("x")], system="", answer=EMPTY, ended="completed")
    assert (usage.prompt_tokens, usage.completion_tokens) == (111_000, 2000)
    assert usage.cost == pytest.approx(0.003 + 0.03 + 0.03 + 0.0375)
    flat = measure(PRICED, tokens, request=[], system="", answer=EMPTY, ended="completed", is_flat_rate=True)
    assert flat.cost == 0


def test_missing_usage_is_estimated_from_bytes_and_costs_nothing() -> None:
    answer = Message(id="a", session_id="s", role="assistant", parts=[TextPart(TextData(text="é" * 8))])
    usage = measure(PRICED, Tokens(), request=[user("12345")], system="123", answer=answer, ended="cancelled")
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost) == (3, 4, 0.0)
    snapshot = Message(id="u", session_id="s", role="user", parts=[BinaryPart(BinaryData(data=b"x" * 9_000_000))])
    assert estimate([snapshot]) == 1000


def test_an_attempt_that_never_reached_the_provider_counts_nothing() -> None:
    usage = measure(PRICED, Tokens(), request=[user("12345")], system="", answer=EMPTY, ended="failed")
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)


def test_a_loop_needs_ten_steps_and_more_than_five_repeats() -> None:
    call = [ToolCallData(id="c", name="ls", input="{}")]
    result = {"c": ToolResultData(tool_call_id="c", name="ls", content="same")}
    watch = LoopDetector()
    assert [watch.step(call, result) for _ in range(10)] == [False] * 9 + [True]
    watch = LoopDetector()
    other = {"c": ToolResultData(tool_call_id="c", name="ls", content="other")}
    assert not any(watch.step(call, result if n % 2 else other) for n in range(20))
    watch = LoopDetector()
    assert not any(watch.step([], {}) for _ in range(20))


def test_the_delay_doubles_up_to_its_bound_and_ends() -> None:
    error = failure("overloaded", "x")
    assert [delay_before_retry(error, n, LIMITS) for n in (1, 2, 3, 4)] == [5.0, 10.0, 20.0, None]
    assert delay_before_retry(failure("auth", "x"), 1, LIMITS) is None


@pytest.mark.parametrize(("asked", "delay"), [(7.0, 7.0), (0.5, 0.5), (59.9, 59.9), (60.0, 5.0), (0.0, 5.0), (-1, 5.0)])
def test_retry_after_is_obeyed_below_a_minute(asked: float | int, delay: float) -> None:
    assert delay_before_retry(failure("rate_limit", "x", retry_after_s=asked), 1, LIMITS) == delay


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (400, "bad_request"),
        (401, "auth"),
        (402, "quota"),
        (403, "auth"),
        (404, "not_found"),
        (413, "context_overflow"),
        (429, "rate_limit"),
        (500, "server"),
        (502, "server"),
        (503, "overloaded"),
        (529, "overloaded"),
        (418, "bad_request"),
    ],
)
def test_statuses_have_categories(status: int, category: str) -> None:
    assert category_of_status(status) == category


@pytest.mark.parametrize("category", list(TITLES))
def test_every_category_has_a_title_and_a_rule(category: Category) -> None:
    error = failure(category, "")
    assert error.title == error.message == TITLES[category]
    assert error.retryable == (category in ("rate_limit", "overloaded", "server", "network", "stream_cut"))
    assert error.info().details["category"] == category


def test_retryable_statuses_and_the_word_of_the_provider() -> None:
    assert failure("bad_request", "x", status=408).retryable
    assert failure("bad_request", "x", status=409).retryable
    assert not failure("bad_request", "x", status=422).retryable
    assert not failure("server", "x", hint=False).retryable
    assert failure("auth", "x", hint=True).retryable


def test_L01_texts_are_freed_of_secrets_and_cut() -> None:
    error = failure("auth", "bad key sk-12345678 " + "x" * 5000, code="sk-12345678", secrets=("sk-12345678",))
    assert "sk-1234" not in error.message + error.provider_code + str(error.info())
    assert len(error.message) == DETAIL_LENGTH_MAX
