"""Test the requests of Anthropic's Messages API."""

import json
from typing import Any

import pytest

from tests.support.recorded_requests.cases import Case
from tests.support.recorded_requests.histories import call, result, row, user
from tests.unit.models.recorded_requests import Difference, check_requests, context_of
from worker.models.wires.anthropic import AnthropicWire

DIFFERENCES = (
    Difference(
        "an empty text in a tool result is refused",
        r"body\.messages\.\d+\.content\.\d+\.content",
        "ends_with_results.*",
    ),
    Difference(
        "thinking without its signature is refused, and as a text it teaches the model to write such texts",
        r"body\.messages",
        "(thinking_of_one_item_signed_last|unsigned_thinking).*",
    ),
    Difference("a union of one type is sent as it is", r"body\.tools\.1[23]\..*", "all tools"),
    Difference("titles are removed at every level", r"body\.tools\.(19|22)\..*\.title", "all tools"),
    Difference("version 2026-10-21 refuses sampling parameters", r"headers\.anthropic-version", "sampling.*"),
    Difference("the limit must be greater than the thinking budget", r"body\.max_tokens", "effort .* claude-opus-4-5"),
    Difference(
        "with a budget, thinking between calls needs it", r"headers\.anthropic-beta", "effort .* claude-opus-4-5"
    ),
    Difference(
        "the library repeated a refused request with this field; we send it in the first one",
        r"headers\.anthropic-beta|body\.thinking",
        ".*thinking.* of claude-opus-5-5",
    ),
    Difference("a server without a key gets no made-up one", r"headers\.authorization", "no key"),
)


def test_requests_equal_the_recorded_ones() -> None:
    check_requests("anthropic", AnthropicWire, DIFFERENCES)


def body_of(case: Case) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(AnthropicWire(context_of(case, "anthropic")).request(case.request()).body)
    return body


def test_arguments_with_half_a_surrogate_pair_are_sent_with_a_question_mark() -> None:
    body = body_of(Case([user("hi"), row("assistant", call("c1", '{"a": "x\\ud83d"}')), row("tool", result("c1"))]))
    assert body["messages"][1]["content"][0]["input"] == {"a": "x?"}


@pytest.mark.parametrize("arguments", ["", "[1]", "{", "null", '{"a": NaN'])
def test_arguments_that_are_no_object_are_sent_as_an_empty_one(arguments: str) -> None:
    body = body_of(Case([user("hi"), row("assistant", call("c1", arguments)), row("tool", result("c1"))]))
    assert body["messages"][1]["content"][0]["input"] == {}


def test_an_explicit_setting_of_stale_thinking_is_kept() -> None:
    thinking = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}
    case = Case(model={"id": "claude-opus-5-5"}, provider={"extra_body": {"thinking": thinking}})
    request = AnthropicWire(context_of(case, "anthropic")).request(case.request())
    assert json.loads(request.body)["thinking"] == thinking
    assert request.headers["anthropic-beta"] == "thinking-binding-controls-2026-08-01"
