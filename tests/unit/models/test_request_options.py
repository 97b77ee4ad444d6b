"""Test the options of a request for each interface: limits, sampling, effort, thinking and free options."""

import json
from typing import Any

import pytest

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from tests.unit.agent.agent_harness import user
from worker.models.client import ModelRequest
from worker.models.extras.settings import Extra, settings_for
from worker.models.options import effort_of, max_tokens_of, may_cache, merge
from worker.models.wires.anthropic import AnthropicWire
from worker.models.wires.chat import ChatWire
from worker.models.wires.responses import ResponsesWire
from worker.models.wires.wire import WireContext

REASONING = Model(id="m", can_reason=True, default_max_tokens=5000)
LEVELS = Model(
    id="m",
    can_reason=True,
    default_max_tokens=5000,
    reasoning_levels=["low", "high"],
    default_reasoning_effort="high",
)
WIRES = {"chat": ChatWire, "responses": ResponsesWire, "anthropic": AnthropicWire}


def sent(api: str, model: Model = REASONING, **changes: Any) -> dict[str, Any]:
    """Return the body of a request with these options."""
    provider = ProviderConfig(
        **{"id": "p", "type": "openai-compat", "base_url": "http://x"} | changes.pop("provider", {})
    )
    caches = changes.pop("caches", False)
    selected = SelectedModel(model="m", provider="p", **changes)
    wire = WIRES[api](WireContext(model, provider, selected, {}, caches, ()))
    body: dict[str, Any] = json.loads(wire.request(ModelRequest("be good", [user("hi")])).body)
    return body


def settings(extra: Extra, model: Model = REASONING, *, caches: bool = False, **changes: Any) -> dict[str, Any]:
    """Return the settings of a request through the library."""
    selected = SelectedModel(model="m", provider="p", **changes)
    provider = ProviderConfig(id="p", type=extra)
    return settings_for(extra, model, provider, selected, max_tokens=0, headers={}, caches=caches)


@pytest.mark.parametrize(
    ("requested", "selected", "default", "limit"), [(40, 9, 5, 40), (0, 9, 5, 9), (0, 0, 5, 5), (0, 0, 0, 0)]
)
def test_the_most_specific_limit_of_the_answer_is_sent(requested: int, selected: int, default: int, limit: int) -> None:
    chosen = SelectedModel(model="m", provider="p", max_tokens=selected)
    assert max_tokens_of(Model(id="m", default_max_tokens=default), chosen, requested) == limit


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
    body = sent("chat", model, temperature=0.0)
    assert (body["temperature"], body["top_p"]) == (0.0, 0.2)


@pytest.mark.parametrize(
    ("name", "kind", "effort", "is_sent"),
    [
        ("m", "openai-compat", "high", True),
        ("gpt-5", "openai-compat", "", False),
        ("openai/gpt-5", "openrouter", "", False),
        ("openai/gpt-5.2", "openrouter", "", True),
        ("gpt-5.2", "openai-compat", "high", False),
        ("gpt-5", "openai-compat", "none", True),
        ("m", "azure", "", False),
        ("m", "azure", "none", True),
    ],
)
def test_sampling_is_not_sent_to_openai_models_that_reason(name: str, kind: str, effort: str, is_sent: bool) -> None:
    provider = {"type": kind, "base_url": "http://x/v1"}
    body = sent("chat", Model(id=name, can_reason=True), provider=provider, temperature=0.5, reasoning_effort=effort)
    assert ("temperature" in body) == is_sent


def test_options_are_merged_deeply_and_the_selected_model_wins() -> None:
    model = Model(id="m", options={"provider_options": {"a": {"x": 1, "y": 1, "z": 1}, "user": "catalogue"}})
    body = sent(
        "chat",
        model,
        provider={"provider_options": {"a": {"y": 2, "z": 2}}, "extra_body": {"b": 1}},
        provider_options={"a": {"z": 3}, "user": "selected"},
    )
    assert body["a"] == {"x": 1, "y": 2, "z": 3}
    assert body["b"] == 1
    assert body["user"] == "selected"
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_openai_is_asked_for_reasoning_summaries_and_not_to_store_anything() -> None:
    openai = {"type": "openai"}
    body = sent("responses", provider=openai, reasoning_effort="high", temperature=0.5)
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["store"] is False
    assert "temperature" not in body, "a reasoning model refuses a temperature"
    plain = sent("responses", Model(id="m"), provider=openai, reasoning_effort="high", temperature=0.5)
    assert "reasoning" not in plain
    assert plain["temperature"] == 0.5
    overridden = sent("responses", provider=openai, provider_options={"reasoning_summary": "detailed", "store": True})
    assert (overridden["reasoning"]["summary"], overridden["store"]) == ("detailed", True)


def claude(name: str, **changes: Any) -> Model:
    return Model(**{"id": name, "can_reason": True, "default_max_tokens": 5000} | changes)


def test_anthropic_gets_a_thinking_budget_within_the_limit_of_the_answer() -> None:
    body = sent("anthropic", claude("claude-haiku-4-5"), think=True, temperature=0.5)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert "temperature" not in body
    assert body["max_tokens"] == 5000
    small = sent("anthropic", claude("claude-haiku-4-5", default_max_tokens=1000), think=True)
    assert small["max_tokens"] == 3000, "the limit includes the thinking budget"
    thinking = {"thinking": {"budget_tokens": 4096}}
    overridden = sent("anthropic", claude("claude-haiku-4-5"), provider_options=thinking)
    assert overridden["thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert "thinking" not in sent("anthropic", claude("claude-haiku-4-5"))
    assert "thinking" not in sent("anthropic", claude("claude-haiku-4-5", can_reason=False), think=True)


def test_newer_anthropic_models_get_an_effort_instead_of_a_budget() -> None:
    body = sent("anthropic", claude("claude-opus-4-8"), reasoning_effort="low", temperature=0.5)
    assert body["output_config"] == {"effort": "low"}
    assert body["thinking"] == {"type": "adaptive"}
    assert "temperature" not in body
    assert sent("anthropic", claude("claude-opus-4-8"), think=True)["thinking"] == {"type": "adaptive"}


def test_other_providers_get_their_own_thinking_options() -> None:
    router = {"type": "openrouter"}
    assert sent("chat", provider=router, reasoning_effort="low")["reasoning"] == {"enabled": True, "effort": "low"}
    assert sent("chat", provider=router)["usage"] == {"include": True}
    assert sent("chat", think=True, provider={"type": "vercel"})["reasoning"] == {"enabled": True}
    assert sent("chat", reasoning_effort="low")["reasoning_effort"] == "low"
    zai = sent("chat", think=True, provider={"id": "zai"})
    assert (zai["thinking"], zai["tool_stream"]) == ({"type": "enabled"}, True)
    assert sent("chat", think=True, provider={"id": "alibaba-cn"})["enable_thinking"] is True
    gemini = settings("google", Model(id="gemini-2.5-pro", can_reason=True), think=True)
    assert gemini["google_thinking_config"] == {"thinking_budget": 2000, "include_thoughts": True}
    newer = settings("google", Model(id="gemini-3.8-flash", can_reason=True), reasoning_effort="high")
    assert newer["google_thinking_config"] == {"thinking_level": "high", "include_thoughts": True}


@pytest.mark.parametrize("name", ["BULKHEAD_DISABLE_ANTHROPIC_CACHE", "CRUSH_DISABLE_ANTHROPIC_CACHE"])
def test_cache_markers_can_be_switched_off(name: str) -> None:
    assert may_cache({})
    assert may_cache({name: "0"})
    assert not may_cache({name: "TRUE"})
    assert "cache_control" in str(sent("anthropic", caches=True))
    assert "cache_control" not in str(sent("anthropic"))
    assert settings("bedrock", caches=True)["bedrock_cache_messages"] is True
    assert "cache_control" not in str(sent("chat", caches=True))
    vercel = {"type": "vercel"}
    assert sent("chat", caches=True, provider=vercel)["providerOptions"] == {"gateway": {"caching": "auto"}}
    assert "providerOptions" not in sent("chat", provider=vercel)
    order = {"provider_options": {"providerOptions": {"gateway": {"order": ["vertex"]}}}}
    overridden = sent("chat", caches=True, provider=vercel | order)
    assert overridden["providerOptions"]["gateway"] == {"caching": "auto", "order": ["vertex"]}
