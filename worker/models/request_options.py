"""Compute the settings of a request: sampling, reasoning, limits, and the fields that a configuration adds.

The result uses the names of pydantic_ai's settings; settings without a value are left out.
"""

from collections.abc import Mapping
from typing import Any, Literal

from protocol.api.provider import Model, ProviderConfig, SelectedModel

Wire = Literal["responses", "chat", "openrouter", "anthropic", "google", "bedrock"]
"""The API that a request is written for, independent of the provider's name."""

THINKING_TOKENS = 2000
CACHE_SWITCHES = ("BULKHEAD_DISABLE_ANTHROPIC_CACHE", "CRUSH_DISABLE_ANTHROPIC_CACHE")
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_UNIFIED = _EFFORTS - {"none"}
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_SWITCHED_BY_BODY = frozenset({"zai", "z-ai", "deepseek", "fireworks", "baseten"})
"""Compatible servers whose thinking is switched on by a field of the body."""

# Options of a configuration that are settings of the library; all others are copied into the body.
_OPENAI = {
    name: f"openai_{name}"
    for name in ("reasoning_effort", "user", "store", "service_tier", "text_verbosity", "prompt_cache_key")
} | {"parallel_tool_calls": "parallel_tool_calls", "seed": "seed", "verbosity": "openai_text_verbosity"}
_NAMES: dict[Wire, dict[str, str]] = {
    "responses": _OPENAI
    | {name: f"openai_{name}" for name in ("reasoning_summary", "truncation", "reasoning_context", "reasoning_mode")},
    "chat": _OPENAI,
    "openrouter": _OPENAI
    | {name: f"openrouter_{name}" for name in ("reasoning", "provider", "models", "transforms", "preset", "usage")},
    "anthropic": {"service_tier": "anthropic_service_tier", "betas": "anthropic_betas"},
    "google": {"thinking_config": "google_thinking_config", "safety_settings": "google_safety_settings"},
    "bedrock": {
        "service_tier": "bedrock_service_tier",
        "additional_fields": "bedrock_additional_model_requests_fields",
    },
}
API_OPTION = "api"
"""The option that selects the API of a provider with two of them: `chat` or `responses`."""


def effort_of(model: Model, selected: SelectedModel) -> str:
    """Return the reasoning effort: the selected one if the model supports it, else its default, else its first level.

    "" when the model cannot reason or has no levels. A model without a list of levels accepts any known effort.
    """
    if not model.can_reason:
        return ""
    levels = model.reasoning_levels
    for effort in (selected.reasoning_effort, model.default_reasoning_effort):
        if effort and (effort in levels or (not levels and effort in _EFFORTS)):
            return effort
    return levels[0] if levels else ""


def options_of(model: Model, provider: ProviderConfig, selected: SelectedModel) -> dict[str, Any]:
    """Merge the free options deeply, later ones winning: of the model in the catalogue, provider, selected model."""
    merged: dict[str, Any] = {}
    for layer in (model.options.get("provider_options"), provider.provider_options, selected.provider_options):
        if isinstance(layer, dict):
            merged = merge(merged, layer)
    return merged


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two objects deeply. Where both have a value that is not an object, `override` wins."""
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def may_cache(env: Mapping[str, str]) -> bool:
    """Return whether cache markers may be sent."""
    return not any(env.get(name, "").strip().lower() in _TRUE for name in CACHE_SWITCHES)


def settings_for(
    wire: Wire,
    model: Model,
    provider: ProviderConfig,
    selected: SelectedModel,
    *,
    profile: Mapping[str, Any],
    max_tokens: int,
    headers: Mapping[str, str],
    caches: bool,
) -> dict[str, Any]:
    """Return the settings of one request.

    `profile` is the library's profile of the model; `max_tokens` is the request's own limit, 0 for the configured one.
    """
    options = options_of(model, provider, selected)
    options.pop(API_OPTION, None)
    settings: dict[str, Any] = {name: getattr(selected, name) for name in _SAMPLING}
    for name, value in settings.items():
        settings[name] = model.options.get(name) if value is None else value
    settings["max_tokens"] = max_tokens or selected.max_tokens or model.default_max_tokens or None
    # For the other APIs the client library is built with the provider's headers.
    own = provider.extra_headers if wire in ("google", "bedrock") else {}
    settings["extra_headers"] = {**own, **headers} or None
    effort = effort_of(model, selected)
    thinks = bool(model.can_reason and (effort or selected.think)) and effort != "none"
    body: dict[str, Any] = {}
    match wire:
        case "responses":
            settings |= {"openai_store": False, "openai_reasoning_effort": effort or None}
            if model.can_reason:
                settings["openai_reasoning_summary"] = "auto"
                _drop_sampling(settings)  # reasoning models reject it
        case "chat":
            settings["openai_reasoning_effort"] = effort or None
            if provider.type == "vercel" and thinks:
                settings["openai_reasoning_effort"] = None
                body["reasoning"] = {"enabled": True} | ({"effort": effort} if effort else {})
            elif provider.id in _SWITCHED_BY_BODY and thinks:
                body["thinking"] = {"type": "enabled"}
            elif provider.id.startswith("alibaba") and thinks:
                body["enable_thinking"] = True
            if provider.type == "vercel" and caches:  # Vercel sets the markers itself, for models that need them
                body["providerOptions"] = {"gateway": {"caching": "auto"}}
            if provider.id in ("zai", "z-ai"):
                body["tool_stream"] = True
        case "openrouter":
            settings["openrouter_usage"] = {"include": True}  # includes the cost
            if thinks:
                settings["openrouter_reasoning"] = {"enabled": True} | ({"effort": effort} if effort else {})
        case "anthropic":
            _anthropic(settings, options, effort, selected.think and model.can_reason, profile)
            settings |= dict.fromkeys(_caching("anthropic"), caches or None)
        case "google":
            if thinks:
                settings["google_thinking_config"] = _google_thinking(model.id, effort)
        case "bedrock":
            settings["thinking"] = effort if effort in _UNIFIED else (True if thinks else None)
            settings |= dict.fromkeys(_caching("bedrock"), caches or None)
    names = _NAMES[wire]
    for key in [key for key in options if key in names]:
        value, old = options.pop(key), settings.get(names[key])
        settings[names[key]] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    extra = merge(merge(body, options), provider.extra_body)
    settings["extra_body"] = extra or None
    return {key: value for key, value in settings.items() if value is not None}


def _anthropic(
    settings: dict[str, Any], options: dict[str, Any], effort: str, think: bool, profile: Mapping[str, Any]
) -> None:
    configured = options.pop("thinking", None)
    effort = str(options.pop("effort", effort))
    thinking: dict[str, Any] | None = None
    if isinstance(configured, dict):
        thinking = {"type": "enabled", **configured} if "budget_tokens" in configured else dict(configured)
    elif effort in _UNIFIED:
        if profile.get("anthropic_supports_effort"):
            settings["thinking"] = effort
            _drop_sampling(settings)
        elif profile.get("supports_thinking"):
            thinking = {"type": "enabled", "budget_tokens": THINKING_TOKENS}
    elif think:
        only_adaptive = profile.get("anthropic_disallows_budget_thinking")
        thinking = {"type": "adaptive"} if only_adaptive else {"type": "enabled", "budget_tokens": THINKING_TOKENS}
    if profile.get("anthropic_disallows_sampling_settings"):
        _drop_sampling(settings)
    if thinking is None or thinking.get("type") == "disabled":
        return
    settings["anthropic_thinking"] = thinking
    _drop_sampling(settings)  # rejected together with thinking
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int):
        settings["anthropic_betas"] = ["interleaved-thinking-2025-05-14"]
        if (settings["max_tokens"] or 0) <= budget:  # max_tokens includes the budget
            settings["max_tokens"] = budget + (settings["max_tokens"] or THINKING_TOKENS)


def _caching(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_cache_{what}" for what in ("instructions", "tool_definitions", "messages"))


def _google_thinking(model_id: str, effort: str) -> dict[str, Any]:
    if model_id.startswith("gemini-2"):
        return {"thinking_budget": THINKING_TOKENS, "include_thoughts": True}
    return {"include_thoughts": True} | ({"thinking_level": effort} if effort else {})


def _drop_sampling(settings: dict[str, Any]) -> None:
    for name in _SAMPLING:
        settings[name] = None
