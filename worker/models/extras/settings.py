"""Compute the settings of a request to Google or Bedrock: sampling, reasoning, limits, and the configured fields.

The result uses the names of pydantic_ai's settings; settings without a value are left out.
"""

from collections.abc import Mapping
from typing import Any, Literal

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from worker.models.options import (
    API_OPTION,
    EFFORTS,
    THINKING_TOKENS,
    effort_of,
    max_tokens_of,
    merge,
    options_of,
    sampling_of,
)

Extra = Literal["google", "bedrock"]
"""The APIs that are called through pydantic_ai."""

_UNIFIED = EFFORTS - {"none"}
_CACHING = ("bedrock_cache_instructions", "bedrock_cache_tool_definitions", "bedrock_cache_messages")
_NAMES: dict[Extra, dict[str, str]] = {
    "google": {"thinking_config": "google_thinking_config", "safety_settings": "google_safety_settings"},
    "bedrock": {
        "service_tier": "bedrock_service_tier",
        "additional_fields": "bedrock_additional_model_requests_fields",
    },
}
"""Options of a configuration that are settings of the library; all others are copied into the body."""


def settings_for(
    extra: Extra,
    model: Model,
    provider: ProviderConfig,
    selected: SelectedModel,
    *,
    max_tokens: int,
    headers: Mapping[str, str],
    caches: bool,
) -> dict[str, Any]:
    """Return the settings of one request; `max_tokens` is the request's own limit, 0 for the configured one."""
    options = options_of(model, provider, selected)
    options.pop(API_OPTION, None)
    settings: dict[str, Any] = sampling_of(model, selected)
    settings["max_tokens"] = max_tokens_of(model, selected, max_tokens) or None
    settings["extra_headers"] = {**provider.extra_headers, **headers} or None
    effort = effort_of(model, selected)
    thinks = bool(model.can_reason and (effort or selected.think)) and effort != "none"
    if extra == "google":
        if thinks:
            settings["google_thinking_config"] = _google_thinking(model.id, effort)
    else:
        settings["thinking"] = effort if effort in _UNIFIED else (True if thinks else None)
        settings |= dict.fromkeys(_CACHING, caches or None)
    names = _NAMES[extra]
    for key in [key for key in options if key in names]:
        value, old = options.pop(key), settings.get(names[key])
        settings[names[key]] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    settings["extra_body"] = merge(options, provider.extra_body) or None
    return {key: value for key, value in settings.items() if value is not None}


def _google_thinking(model_id: str, effort: str) -> dict[str, Any]:
    if model_id.startswith("gemini-2"):
        return {"thinking_budget": THINKING_TOKENS, "include_thoughts": True}
    return {"include_thoughts": True} | ({"thinking_level": effort} if effort else {})
