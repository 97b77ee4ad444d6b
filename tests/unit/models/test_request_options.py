"""Test the options of a request for each interface: limits, sampling, effort, thinking and free options."""

from typing import Any

import pytest
from worker.models.request_options import Wire, effort_of, may_cache, merge, settings_for

from protocol.api.provider import Model, ProviderConfig, SelectedModel

REASONING = Model(id="m", can_reason=True, default_max_tokens=5000)
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


def options(wire: Wire, model: Model = REASONING, **changes: Any) -> dict[str, Any]:
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
    ("requested", "selected", "default", "sent"), [(40, 9, 5, 40), (0, 9, 5, 9), (0, 0, 5, 5), (0, 0, 0, None)]
)
def test_the_most_specific_limit_of_the_answer_is_sent(
    requested: int, selected: int, default: int, sent: int | None
) -> None:
    selected_model = SelectedModel(model="m", provider="p", max_tokens=selected)
    provider = ProviderConfig(id="p", type="openai-compat")
    settings = settings_for(
        "chat",
        Model(id="m", default_max_tokens=default),
        provider,
        selected_model,
        profile={},
        max_tokens=requested,
        headers={},
        caches=False,
    )
    assert settings.get("max_tokens") == sent


@pytest.mark.parametrize(
    ("model", "configured", "effort"),
    [
        (Model(id="m", reasoning_levels=["low"]), "low", ""),  # this model cannot reason
        (LEVELS, "low", "low"),
        (LEVELS, "medium", "high"),  # not one of its levels
        (LEVELS, "", "high"),
        (Model(id="m", can_reason=True, reasoning_levels=["low", "high"]), "", "low"),
        (Model(id="m", can_reason=True, reasoning_levels=["low"], default_reasoning_effort="odd"), "", "low"),
        (REASONING, "medium", "medium"),
        (REASONING, "very much", ""),
        (REASONING, "", ""),
    ],
)
def test_the_effort_is_a_level_that_the_model_supports(model: Model, configured: str, effort: str) -> None:
    assert effort_of(model, SelectedModel(model="m", provider="p", reasoning_effort=configured)) == effort


def test_sampling_of_the_selected_model_overrides_that_of_the_catalogue() -> None:
    model = Model(id="m", options={"temperature": 0.1, "top_p": 0.2})
    settings = options("chat", model, temperature=0.0)
    assert (settings["temperature"], settings["top_p"]) == (0.0, 0.2)


def test_options_are_merged_deeply_and_the_selected_model_wins() -> None:
    model = Model(id="m", options={"provider_options": {"a": {"x": 1, "y": 1, "z": 1}, "user": "catalogue"}})
    settings = options(
        "chat",
        model,
        provider={"provider_options": {"a": {"y": 2, "z": 2}}, "extra_body": {"b": 1}},
        provider_options={"a": {"z": 3}, "user": "selected"},
    )
    assert settings["extra_body"] == {"a": {"x": 1, "y": 2, "z": 3}, "b": 1}
    assert settings["openai_user"] == "selected"
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_openai_is_asked_for_reasoning_summaries_and_not_to_store_anything() -> None:
    settings = options("responses", reasoning_effort="high", temperature=0.5)
    assert (settings["openai_reasoning_effort"], settings["openai_reasoning_summary"]) == ("high", "auto")
    assert settings["openai_store"] is False
    assert "temperature" not in settings, "a reasoning model refuses a temperature"
    plain = options("responses", Model(id="m"), reasoning_effort="high", temperature=0.5)
    assert "openai_reasoning_effort" not in plain
    assert "openai_reasoning_summary" not in plain
    assert plain["temperature"] == 0.5
    overridden = options("responses", provider_options={"reasoning_summary": "detailed", "store": True})
    assert (overridden["openai_reasoning_summary"], overridden["openai_store"]) == ("detailed", True)


def test_anthropic_gets_a_thinking_budget_within_the_limit_of_the_answer() -> None:
    settings = options("anthropic", think=True, temperature=0.5, profile=OLD_CLAUDE)
    assert settings["anthropic_thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert settings["anthropic_betas"] == ["interleaved-thinking-2025-05-14"]
    assert "temperature" not in settings
    assert settings["max_tokens"] == 5000
    small = options(
        "anthropic", Model(id="m", can_reason=True, default_max_tokens=1000), think=True, profile=OLD_CLAUDE
    )
    assert small["max_tokens"] == 3000, "the limit includes the thinking budget"
    overridden = options("anthropic", provider_options={"thinking": {"budget_tokens": 4096}}, profile=OLD_CLAUDE)
    assert overridden["anthropic_thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert "anthropic_thinking" not in options("anthropic", profile=OLD_CLAUDE)
    assert "anthropic_thinking" not in options("anthropic", Model(id="m"), think=True, profile=OLD_CLAUDE)


def test_newer_anthropic_models_get_an_effort_instead_of_a_budget() -> None:
    settings = options("anthropic", reasoning_effort="low", temperature=0.5, profile=NEW_CLAUDE)
    assert settings["thinking"] == "low"
    assert "anthropic_thinking" not in settings
    assert "temperature" not in settings
    assert options("anthropic", think=True, profile=NEW_CLAUDE)["anthropic_thinking"] == {"type": "adaptive"}


def test_other_providers_get_their_own_thinking_options() -> None:
    assert options("openrouter", reasoning_effort="low")["openrouter_reasoning"] == {"enabled": True, "effort": "low"}
    assert options("openrouter")["openrouter_usage"] == {"include": True}
    vercel = options("chat", think=True, provider={"type": "vercel"})
    assert vercel["extra_body"] == {"reasoning": {"enabled": True}}
    assert options("chat", reasoning_effort="low")["openai_reasoning_effort"] == "low"
    assert options("chat", think=True, provider={"id": "zai"})["extra_body"] == {
        "thinking": {"type": "enabled"},
        "tool_stream": True,
    }
    assert options("chat", think=True, provider={"id": "alibaba-cn"})["extra_body"] == {"enable_thinking": True}
    gemini = options("google", Model(id="gemini-2.5-pro", can_reason=True), think=True)
    assert gemini["google_thinking_config"] == {"thinking_budget": 2000, "include_thoughts": True}
    newer = options("google", Model(id="gemini-3.8-flash", can_reason=True), reasoning_effort="high")
    assert newer["google_thinking_config"] == {"thinking_level": "high", "include_thoughts": True}


@pytest.mark.parametrize("name", ["BULKHEAD_DISABLE_ANTHROPIC_CACHE", "CRUSH_DISABLE_ANTHROPIC_CACHE"])
def test_cache_markers_can_be_switched_off(name: str) -> None:
    assert may_cache({})
    assert may_cache({name: "0"})
    assert not may_cache({name: "TRUE"})
    assert options("anthropic", caches=True)["anthropic_cache_messages"] is True
    assert "anthropic_cache_messages" not in options("anthropic")
    assert options("bedrock", caches=True)["bedrock_cache_messages"] is True
    assert "anthropic_cache_messages" not in options("chat", caches=True)
    gateway = {"providerOptions": {"gateway": {"caching": "auto"}}}
    assert options("chat", caches=True, provider={"type": "vercel"})["extra_body"] == gateway
    assert "extra_body" not in options("chat", provider={"type": "vercel"})
    order = {"provider_options": {"providerOptions": {"gateway": {"order": ["vertex"]}}}}
    overridden = options("chat", caches=True, provider={"type": "vercel"} | order)
    assert overridden["extra_body"]["providerOptions"]["gateway"] == {"caching": "auto", "order": ["vertex"]}
