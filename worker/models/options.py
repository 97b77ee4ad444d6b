"""Merge the options of a model's configuration, and decide the reasoning effort, the same for all APIs."""

from collections.abc import Mapping
from typing import Any

from protocol.api.provider import Model, ProviderConfig, SelectedModel

CACHE_SWITCHES = ("BULKHEAD_DISABLE_ANTHROPIC_CACHE", "CRUSH_DISABLE_ANTHROPIC_CACHE")
API_OPTION = "api"
"""The option that selects the API of a provider with two of them: `chat` or `responses`."""
THINKING_TOKENS = 2000
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")
_OPENAI_REASONING = ("o1", "o3", "o4", "gpt-5", "gpt-6")
_OPENAI_REASONING_ON_REQUEST = ("gpt-5.1", "gpt-5.2", "gpt-5.3", "gpt-5.4")
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


def effort_of(model: Model, selected: SelectedModel) -> str:
    """Return the reasoning effort: the selected one if the model supports it, else its default, else its first level.

    "" when the model cannot reason or has no levels. A model without a list of levels accepts any known effort.
    """
    if not model.can_reason:
        return ""
    levels = model.reasoning_levels
    for effort in (selected.reasoning_effort, model.default_reasoning_effort):
        if effort and (effort in levels or (not levels and effort in EFFORTS)):
            return effort
    return levels[0] if levels else ""


def sampling_of(model: Model, selected: SelectedModel) -> dict[str, Any]:
    """Return the configured sampling parameters; those of the selected model override the catalogue's."""
    values: dict[str, Any] = {}
    for name in SAMPLING:
        value = getattr(selected, name)
        value = model.options.get(name) if value is None else value
        if value is not None:
            values[name] = value
    return values


def rejects_sampling(model: Model, provider: ProviderConfig, effort: str) -> bool:
    """Return whether the model reasons in this request and then rejects sampling parameters, as OpenAI's models do.

    `effort` is the effort that is sent, "" for none. At OpenAI and Azure the configuration says whether a model
    reasons; elsewhere OpenAI's models are known by their names.
    """
    if effort == "none":
        return False
    if provider.type in ("openai", "azure"):
        return model.can_reason
    name = model.id.lower().removeprefix("openai/")
    if not name.startswith(_OPENAI_REASONING) or name.startswith("gpt-5-chat"):
        return False
    return bool(effort) or not name.startswith(_OPENAI_REASONING_ON_REQUEST)


def max_tokens_of(model: Model, selected: SelectedModel, requested: int) -> int:
    """Return the limit of the answer, 0 for none; `requested` is the request's own limit, 0 for the configured one."""
    return requested or selected.max_tokens or model.default_max_tokens


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
