"""Test what a Claude model is asked for: thinking, effort, the limit of the answer, sampling."""

from typing import Any

import pytest

from tests.support.recorded_requests.cases import Case
from tests.unit.models.recorded_requests import context_of
from worker.models.wires.anthropic_models import abilities_of
from worker.models.wires.anthropic_options import AnthropicOptions, anthropic_options

OLD, NEW = "claude-sonnet-4-5", "claude-opus-4-8"
BETA = "interleaved-thinking-2025-05-14"


def options(
    model_id: str, *, reasons: bool = True, limit: int = 5000, extra: Any = None, **selected: Any
) -> AnthropicOptions:
    model = {"id": model_id, "can_reason": reasons, "default_max_tokens": limit}
    case = Case(model=model, selected=selected, provider={"extra_body": extra or {}})
    return anthropic_options(context_of(case, "anthropic"))


def test_an_older_model_gets_a_thinking_budget_within_the_limit_of_the_answer() -> None:
    thinking = options(OLD, think=True, temperature=0.5)
    assert thinking.fields == {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    assert thinking.betas == {BETA}
    assert not thinking.samples
    assert thinking.max_tokens(0) == 5000
    assert thinking.max_tokens(10) == 2010, "the limit includes the thinking budget"
    assert options(OLD, think=True, limit=1000).max_tokens(0) == 3000
    configured = options(OLD, provider_options={"thinking": {"budget_tokens": 4096}})
    assert configured.fields == {"thinking": {"type": "enabled", "budget_tokens": 4096}}
    assert options(OLD, reasoning_effort="high").fields == thinking.fields


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"think": True, "reasons": False},
        {"reasoning_effort": "none"},
        {"provider_options": {"effort": "none"}},
        {"provider_options": {"thinking": {"type": "disabled"}}, "think": True},
    ],
)
def test_thinking_is_not_asked_for(changes: dict[str, Any]) -> None:
    for name in (OLD, NEW):
        assert options(name, **changes).fields == {}
    assert options(OLD, temperature=0.5, **changes).samples


def test_a_newer_model_gets_an_effort_and_no_sampling_parameters() -> None:
    effort = options(NEW, reasoning_effort="low", temperature=0.5, extra={"top_k": 3, "a": 1})
    assert effort.fields == {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    assert (effort.extra, effort.samples, effort.betas) == ({"a": 1}, False, frozenset())
    assert options(NEW, think=True).fields == {"thinking": {"type": "adaptive"}}


@pytest.mark.parametrize(
    ("model_id", "efforts"),
    [
        (NEW, ["low", "low", "medium", "high", "xhigh", "max"]),
        ("claude-sonnet-4-6", ["low", "low", "medium", "high", "max", "max"]),
        ("claude-opus-4-5", ["low", "low", "medium", "high", "high", "high"]),
    ],
)
def test_an_effort_that_a_model_does_not_know_becomes_the_nearest_one(model_id: str, efforts: list[str]) -> None:
    abilities = abilities_of(model_id)
    levels = ["minimal", "low", "medium", "high", "xhigh", "max"]
    assert [abilities.effort(level) for level in levels] == efforts


@pytest.mark.parametrize(
    ("model_id", "limit", "betas", "sent"),
    [
        (NEW, 0, [], 128_000),
        (NEW, 200_000, [], 128_000),
        (NEW, 200_000, ["output-300k-2026-03-24"], 200_000),
        (OLD, 0, [], 64_000),
        ("claude-3-7-sonnet", 0, [], 4096),
        ("kimi-k2", 0, [], 16_384),
        ("kimi-k2", 200_000, [], 200_000),
    ],
)
def test_the_limit_of_the_answer_is_at_most_that_of_the_model(
    model_id: str, limit: int, betas: list[str], sent: int
) -> None:
    assert options(model_id, limit=limit, provider_options={"betas": betas}).max_tokens(0) == sent


def test_configured_betas_replace_those_that_thinking_needs() -> None:
    assert options(OLD, think=True, provider_options={"betas": []}).betas == frozenset()
    assert options(OLD, think=True, provider_options={"betas": ["other"]}).betas == {"other"}
