"""Build the client for each type of provider: a model of pydantic_ai around a client library set up here.

The client libraries do not retry, and share one HTTP client where they allow it.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.config.discover import LOCAL_TYPES
from worker.models.openai_patch import patch_openai
from worker.models.request_options import API_OPTION, Wire, options_of

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model as WireModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile

WIRES: dict[str, Wire] = {
    "openai": "responses",
    "azure": "responses",
    "anthropic": "anthropic",
    "openrouter": "openrouter",
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

_EXTRAS = {"google": ("google", "google.genai"), "bedrock": ("bedrock", "boto3")}
AZURE_API_VERSION = "2025-04-01-preview"
REGION = "us-east-1"
EUROPEAN_REGION = "eu-west-1"


_EXACTO = frozenset(
    {
        "moonshotai/kimi-k2-0905",
        "deepseek/deepseek-v3.1-terminus",
        "z-ai/glm-4.6",
        "openai/gpt-oss-120b",
        "qwen/qwen3-coder",
    }
)
"""Models of OpenRouter with an `:exacto` variant, served only by providers vetted for tool calls."""


def wire_of(provider: ProviderConfig, model: Model, selected: SelectedModel) -> Wire:
    """Return the API to call this provider with. Raises BadInput: unknown type, or its library is not installed."""
    wire = WIRES.get(provider.type)
    if wire is None:
        raise BadInput(
            f"cannot use provider {provider.id!r}: its type {provider.type!r} is not supported; use one of "
            + ", ".join(sorted(WIRES))
        )
    if wire in _EXTRAS:
        extra, module = _EXTRAS[wire]
        if not _is_installed(module):
            raise BadInput(
                f"cannot use provider {provider.id!r}: the library for type {provider.type!r} is not installed; "
                f"install bulkhead-agents[{extra}]"
            )
    requested = options_of(model, provider, selected).get(API_OPTION)
    if requested is None:
        return wire
    if wire not in ("responses", "chat") or requested not in ("responses", "chat"):
        raise BadInput(
            f"cannot use provider {provider.id!r}: option {API_OPTION!r} must be chat or responses, and only for "
            "providers with an OpenAI-compatible API"
        )
    return "chat" if requested == "chat" else "responses"


def make_wire_model(
    wire: Wire,
    provider: ProviderConfig,
    model: Model,
    *,
    http: Callable[[], "httpx2.AsyncClient"],
    env: Mapping[str, str],
    limits: Limits,
) -> "WireModel":
    """Build the model of pydantic_ai. Imports the library, slow the first time; raises what the library raises."""
    match wire:
        case "anthropic":
            return _anthropic(provider, model, http())
        case "google":
            return _google(provider, model, http(), env)
        case "bedrock":
            return _bedrock(provider, model, env, limits)
        case _:
            return _openai(wire, provider, model, http(), env)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _anthropic(provider: ProviderConfig, model: Model, http: "httpx2.AsyncClient") -> "WireModel":
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    key: dict[str, Any] = {"api_key": provider.api_key or "none"}
    bearer = provider.api_key.removeprefix("Bearer ")
    if bearer != provider.api_key or provider.oauth is not None or provider.id.startswith("minimax"):
        key = {"auth_token": bearer}
    client = AsyncAnthropic(
        **key,
        base_url=provider.base_url.removesuffix("/v1"),  # the library appends it
        max_retries=0,
        default_headers=provider.extra_headers,
        http_client=http,
        open_telemetry=False,
    )
    return AnthropicModel(model.id, provider=AnthropicProvider(anthropic_client=client))


def _openai(
    wire: Wire, provider: ProviderConfig, model: Model, http: "httpx2.AsyncClient", env: Mapping[str, str]
) -> "WireModel":
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.models.openrouter import OpenRouterModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
    from pydantic_ai.providers.openrouter import OpenRouterProvider

    patch_openai()
    # Local servers need no key, but the library requires one.
    common: dict[str, Any] = {
        "api_key": provider.api_key or "none",
        "max_retries": 0,
        "default_headers": provider.extra_headers,
        "http_client": http,
    }
    version = env.get("AZURE_OPENAI_API_VERSION") or AZURE_API_VERSION
    client: AsyncOpenAI
    if provider.type == "azure" and not provider.base_url.endswith("/v1"):
        from openai import AsyncAzureOpenAI

        client = AsyncAzureOpenAI(azure_endpoint=provider.base_url, api_version=version, **common)
    else:
        client = AsyncOpenAI(base_url=provider.base_url, **common)
    profile = _openai_profile(provider, model)
    if wire == "openrouter":
        name = f"{model.id}:exacto" if model.id in _EXACTO else model.id
        return OpenRouterModel(name, provider=OpenRouterProvider(openai_client=client), profile=profile)
    if provider.type in ("openai", "azure"):
        official = OpenAIProvider(openai_client=client)
        if wire == "responses":
            return OpenAIResponsesModel(model.id, provider=official, profile=profile)
        return OpenAIChatModel(model.id, provider=official, profile=profile)
    compatible = OpenAICompatibleProvider(provider.id, openai_client=client)
    if wire == "responses":
        return OpenAIResponsesModel(model.id, provider=compatible, profile=profile)
    # Most compatible servers know only the older name of this field.
    profile["openai_chat_supports_max_completion_tokens"] = False
    if provider.type in LOCAL_TYPES:
        profile["openai_chat_supports_multiple_system_messages"] = False  # chat templates reject a second one
    return OpenAIChatModel(model.id, provider=compatible, profile=profile)


def _openai_profile(provider: ProviderConfig, model: Model) -> "OpenAIModelProfile":
    from pydantic_ai.profiles.openai import OpenAIModelProfile

    # Without this, a stream that was cut off looks complete.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    if provider.type in ("openai", "azure"):
        # The configuration knows a model's abilities better than the library's table of names.
        profile["openai_supports_reasoning"] = model.can_reason
        profile["openai_supports_encrypted_reasoning_content"] = model.can_reason
    return profile


def _google(provider: ProviderConfig, model: Model, http: "httpx2.AsyncClient", env: Mapping[str, str]) -> "WireModel":
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider
    from pydantic_ai.providers.google_cloud import GoogleCloudProvider

    base_url = provider.base_url or None
    if provider.type == "google":
        gemini = GoogleProvider(api_key=provider.api_key or "none", http_client=http, base_url=base_url)
        return GoogleModel(model.id, provider=gemini)
    target: dict[str, Any] = (
        {"api_key": provider.api_key}
        if provider.api_key
        else {
            "project": env.get("VERTEXAI_PROJECT") or env.get("GOOGLE_CLOUD_PROJECT"),
            "location": env.get("VERTEXAI_LOCATION") or env.get("GOOGLE_CLOUD_LOCATION"),
        }
    )
    return GoogleModel(model.id, provider=GoogleCloudProvider(**target, http_client=http, base_url=base_url))


def _bedrock(provider: ProviderConfig, model: Model, env: Mapping[str, str], limits: Limits) -> "WireModel":
    import boto3
    from botocore.config import Config as ClientConfig
    from pydantic_ai.models.bedrock import BedrockConverseModel
    from pydantic_ai.providers.bedrock import BedrockProvider

    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    region = region or (EUROPEAN_REGION if provider.id.endswith("-europe") else REGION)
    timeouts = {
        "connect_timeout": limits.model_connect_s,
        "read_timeout": max(limits.model_first_event_s, limits.model_progress_s) + 5.0,
    }
    if provider.api_key:
        bedrock = BedrockProvider(
            api_key=provider.api_key,
            region_name=region,
            base_url=provider.base_url or None,
            aws_connect_timeout=timeouts["connect_timeout"],
            aws_read_timeout=timeouts["read_timeout"],
        )
        return BedrockConverseModel(model.id, provider=bedrock)
    session = boto3.Session(
        aws_access_key_id=env.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=env.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=env.get("AWS_SESSION_TOKEN"),
        profile_name=env.get("AWS_PROFILE"),
        region_name=region,
    )
    client = session.client(
        "bedrock-runtime",
        endpoint_url=provider.base_url or None,
        config=ClientConfig(retries={"total_max_attempts": 1}, **timeouts),
    )
    return BedrockConverseModel(model.id, provider=BedrockProvider(bedrock_client=client))
