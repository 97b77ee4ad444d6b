"""Decide by which API a provider is called."""

from typing import Literal

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from worker.models.extras.clients import is_installed
from worker.models.options import API_OPTION, options_of

Api = Literal["chat", "responses", "anthropic", "google", "bedrock"]

APIS: dict[str, Api] = {
    "openai": "responses",
    "azure": "responses",
    "anthropic": "anthropic",
    "openrouter": "chat",
    "openai-compat": "chat",
    "vercel": "chat",
    "hyper": "chat",
    "litellm": "chat",
    "llamacpp": "chat",
    "lmstudio": "chat",
    "ollama": "chat",
    "omlx": "chat",
    "local": "chat",
    "google": "google",
    "google-vertex": "google",
    "bedrock": "bedrock",
}
"""Type of provider -> the API it is called with."""


def api_of(provider: ProviderConfig, model: Model, selected: SelectedModel) -> Api:
    """Return the API to call this provider with. Raises BadInput: unknown type, or its library is not installed."""
    api = APIS.get(provider.type)
    if api is None:
        raise BadInput(
            f"cannot use provider {provider.id!r}: its type {provider.type!r} is not supported; use one of "
            + ", ".join(sorted(APIS))
        )
    if (api == "google" or api == "bedrock") and not is_installed(api):
        raise BadInput(
            f"cannot use provider {provider.id!r}: the library for type {provider.type!r} is not installed; "
            f"install bulkhead-agents[{api}]"
        )
    requested = options_of(model, provider, selected).get(API_OPTION)
    if requested is None:
        return api
    is_selectable = api in ("responses", "chat") and provider.type != "openrouter"
    if not is_selectable or requested not in ("responses", "chat"):
        raise BadInput(
            f"cannot use provider {provider.id!r}: option {API_OPTION!r} must be chat or responses, and only for "
            "providers with an OpenAI-compatible API"
        )
    return "chat" if requested == "chat" else "responses"
