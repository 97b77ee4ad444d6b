"""What goes along with a request: limits, sampling, effort, thinking, and free options, for each way of speaking."""

from typing import Any

import pytest

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from worker.models.request_options import Wire, effort_of, may_cache, merge, settings_for

THINKER = Model(id="m", can_reason=True, default_max_tokens=5000)
LEVELS = Model(
    id="m",
    can_reason=True,
    default_max_tokens=5000,
    reasoning_levels=["low", "high"],
    default_reasoning_effort="high",
)
OLD_CLAUDE = {"supports_thinking": True}
NEW_CLAUDE = {
    "supports_thinking": True,
    "anthropic_supports_effort": True,
    "anthropic_disallows_budget_thinking": True,
    "anthropic_disallows_sampling_settings": True,
}


def made(wire: Wire, model: Model = THINKER, **changes: Any) -> dict[str, Any]:
    profile = changes.pop("profile", {})
    provider = ProviderConfig(**{"id": "p", "type": "openai-compat"} | changes.pop("provider", {}))
    max_tokens, caches = changes.pop("max_tokens", 0), changes.pop("caches", False)
    return settings_for(
        wire,
        model,
        provider,
        SelectedModel(model="m", provider="p", **changes),
        profile=profile,
        max_tokens=max_tokens,
        headers={},
        caches=caches,
    )


@pytest.mark.parametrize(
    ("asked", "selected", "default", "sent"), [(40, 9, 5, 40), (0, 9, 5, 9), (0, 0, 5, 5), (0, 0, 0, None)]
)
def test_the_nearest_bound_of_the_answer_counts_and_none_is_not_sent(
    asked: int, selected: int, default: int, sent: int | None
) -> None:
    selected_model = SelectedModel(model="m", provider="p", max_tokens=selected)
    provider = ProviderConfig(id="p", type="openai-compat")
    found = settings_for(
        "chat",
        Model(id="m", default_max_tokens=default),
        provider,
        selected_model,
        profile={},
        max_tokens=asked,
        headers={},
        caches=False,
    )
    assert found.get("max_tokens") == sent


@pytest.mark.parametrize(
    ("model", "wanted", "effort"),
    [
        (Model(id="m", reasoning_levels=["low"]), "low", ""),  # it cannot reason
        (LEVELS, "low", "low"),
        (LEVELS, "medium", "high"),  # not one of its levels
        (LEVELS, "", "high"),
        (Model(id="m", can_reason=True, reasoning_levels=["low", "high"]), "", "low"),
        (Model(id="m", can_reason=True, reasoning_levels=["low"], default_reasoning_effort="odd"), "", "low"),
        (THINKER, "medium", "medium"),
        (THINKER, "very much", ""),
        (THINKER, "", ""),
    ],
)
def test_the_effort_is_one_that_the_model_knows(model: Any, wanted: str, effort: str) -> None:
    assert effort_of(model, SelectedModel(model="m", provider="p", reasoning_effort=wanted)) == effort


def test_sampling_comes_from_the_selected_model_then_from_the_catalogue() -> None:
    model = Model(id="m", options={"temperature": 0.1, "top_p": 0.2})
    found = made("chat", model, temperature=0.0)
    assert (found["temperature"], found["top_p"]) == (0.0, 0.2)


def test_options_are_merged_deeply_and_the_selected_model_wins() -> None:
    model = Model(id="m", options={"provider_options": {"a": {"x": 1, "y": 1, "z": 1}, "user": "catalogue"}})
    found = made(
        "chat",
        model,
        provider={"provider_options": {"a": {"y": 2, "z": 2}}, "extra_body": {"b": 1}},
        provider_options={"a": {"z": 3}, "user": "selected"},
    )
    assert found["extra_body"] == {"a": {"x": 1, "y": 2, "z": 3}, "b": 1}
    assert found["openai_user"] == "selected"
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_openai_reasons_with_summaries_and_keeps_nothing() -> None:
    found = made("responses", reasoning_effort="high", temperature=0.5)
    assert (found["openai_reasoning_effort"], found["openai_reasoning_summary"]) == ("high", "auto")
    assert found["openai_store"] is False
    assert "temperature" not in found, "a model that reasons refuses it"
    plain = made("responses", Model(id="m"), reasoning_effort="high", temperature=0.5)
    assert "openai_reasoning_effort" not in plain
    assert "openai_reasoning_summary" not in plain
    assert plain["temperature"] == 0.5
    told = made("responses", provider_options={"reasoning_summary": "detailed", "store": True})
    assert (told["openai_reasoning_summary"], told["openai_store"]) == ("detailed", True)


def test_anthropic_thinks_with_a_budget_within_the_bound_of_the_answer() -> None:
    found = made("anthropic", think=True, temperature=0.5, profile=OLD_CLAUDE)
    assert found["anthropic_thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert found["anthropic_betas"] == ["interleaved-thinking-2025-05-14"]
    assert "temperature" not in found
    assert found["max_tokens"] == 5000
    small = made("anthropic", Model(id="m", can_reason=True, default_max_tokens=1000), think=True, profile=OLD_CLAUDE)
    assert small["max_tokens"] == 3000, "the budget is a part of the bound"
    told = made("anthropic", provider_options={"thinking": {"budget_tokens": 4096}}, profile=OLD_CLAUDE)
    assert told["anthropic_thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert "anthropic_thinking" not in made("anthropic", profile=OLD_CLAUDE)
    assert "anthropic_thinking" not in made("anthropic", Model(id="m"), think=True, profile=OLD_CLAUDE)


def test_newer_models_of_anthropic_take_an_effort_and_no_budget() -> None:
    found = made("anthropic", reasoning_effort="low", temperature=0.5, profile=NEW_CLAUDE)
    assert found["thinking"] == "low"
    assert "anthropic_thinking" not in found
    assert "temperature" not in found
    assert made("anthropic", think=True, profile=NEW_CLAUDE)["anthropic_thinking"] == {"type": "adaptive"}


def test_other_ways_of_thinking() -> None:
    assert made("openrouter", reasoning_effort="low")["openrouter_reasoning"] == {"enabled": True, "effort": "low"}
    assert made("openrouter")["openrouter_usage"] == {"include": True}
    vercel = made("chat", think=True, provider={"type": "vercel"})
    assert vercel["extra_body"] == {"reasoning": {"enabled": True}}
    assert made("chat", reasoning_effort="low")["openai_reasoning_effort"] == "low"
    assert made("chat", think=True, provider={"id": "zai"})["extra_body"] == {
        "thinking": {"type": "enabled"},
        "tool_stream": True,
    }
    assert made("chat", think=True, provider={"id": "alibaba-cn"})["extra_body"] == {"enable_thinking": True}
    gemini = made("google", Model(id="gemini-2.5-pro", can_reason=True), think=True)
    assert gemini["google_thinking_config"] == {"thinking_budget": 2000, "include_thoughts": True}
    newer = made("google", Model(id="gemini-3.8-flash", can_reason=True), reasoning_effort="high")
    assert newer["google_thinking_config"] == {"thinking_level": "high", "include_thoughts": True}


@pytest.mark.parametrize("name", ["BULKHEAD_DISABLE_ANTHROPIC_CACHE", "CRUSH_DISABLE_ANTHROPIC_CACHE"])
def test_cache_markers_can_be_switched_off(name: str) -> None:
    assert may_cache({})
    assert may_cache({name: "0"})
    assert not may_cache({name: "TRUE"})
    assert made("anthropic", caches=True)["anthropic_cache_messages"] is True
    assert "anthropic_cache_messages" not in made("anthropic")
    assert made("bedrock", caches=True)["bedrock_cache_messages"] is True
    assert "anthropic_cache_messages" not in made("chat", caches=True)
    gateway = {"providerOptions": {"gateway": {"caching": "auto"}}}
    assert made("chat", caches=True, provider={"type": "vercel"})["extra_body"] == gateway
    assert "extra_body" not in made("chat", provider={"type": "vercel"})
    order = {"provider_options": {"providerOptions": {"gateway": {"order": ["vertex"]}}}}
    told = made("chat", caches=True, provider={"type": "vercel"} | order)
    assert told["extra_body"]["providerOptions"]["gateway"] == {"caching": "auto", "order": ["vertex"]}
