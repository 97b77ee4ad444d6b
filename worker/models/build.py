"""A configured model with its client: which one answers, and how it is reached.

The clients are ours: no retries of their own, one TLS context for all, bounded connects. They are made on first use
and closed with `Models.close`.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext, create_default_context
from typing import TYPE_CHECKING, Any

from protocol.base.clock import Clock, SystemClock
from protocol.errors import BadInput
from protocol.limits import Limits
from protocol.shapes.provider import Model, ProviderConfig, SelectedModel
from worker.config.catalogue import BUILTIN_ID
from worker.config.load import Config
from worker.models.client import ModelClient
from worker.models.remote import RemoteModel
from worker.models.script import ScriptModel, Sleeper
from worker.models.transform import patch_openai

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model as WireModel

OPENAI_LIKE = frozenset(
    {"openai", "openai-compat", "openrouter", "litellm", "llamacpp", "lmstudio", "ollama", "omlx", "vercel", "hyper"}
)
ANTHROPIC_LIKE = frozenset({"anthropic"})
CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which model answers: its description, how it was selected, its provider, and a hint for people (or "")."""

    model: Model
    selected: SelectedModel
    provider: ProviderConfig
    hint: str


class Models:
    """The models of one configuration. A changed configuration gets a new one."""

    def __init__(
        self,
        config: Config,
        env: Mapping[str, str],
        limits: Limits,
        random: random.Random,
        log: logging.Logger,
        *,
        clock: Clock | None = None,
        sleep: Sleeper = asyncio.sleep,
        transport: "httpx2.AsyncBaseTransport | None" = None,
    ) -> None:
        """`transport` replaces the network, for the warm-up. `env`, `random` and `log` are for
        providers to come."""
        self._config = config
        self._limits = limits
        self._script = ScriptModel(sleep=sleep, clock=clock or SystemClock(), limits=limits)
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None

    def choice(self, kind: str = "large") -> Choice:
        """What was chosen for `large` or `small`."""
        selected = self._config.models[kind]
        provider = self._config.providers[selected.provider]
        model = next(model for model in provider.models if model.id == selected.model)
        return Choice(model, selected, provider, self._config.hint)

    def large(self) -> ModelClient:
        """The model that works. Raises BadInput for a provider of a type that we cannot speak to."""
        return self._client(self.choice("large"))

    def small(self) -> ModelClient:
        """The model for short side tasks. Raises BadInput like `large`."""
        return self._client(self.choice("small"))

    def client(self, kind: str) -> ModelClient:
        """`large` or `small` by its name. Raises BadInput like `large`."""
        return self._client(self.choice(kind))

    async def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            async with asyncio.timeout(CLOSE_S):
                await http.aclose()

    def _client(self, choice: Choice) -> ModelClient:
        provider = choice.provider
        if provider.id == BUILTIN_ID:
            return self._script
        if provider.type not in OPENAI_LIKE | ANTHROPIC_LIKE:
            raise BadInput(
                f"cannot use provider {provider.id!r}: its type {provider.type!r} is not supported; use one of "
                + ", ".join(sorted(OPENAI_LIKE | ANTHROPIC_LIKE))
            )
        return RemoteModel(
            model=choice.model,
            provider=provider,
            selected=choice.selected,
            make=lambda model_id: self._wire_model(provider, model_id),
            limits=self._limits,
            secrets=self._config.secrets,
        )

    def _wire_model(self, provider: ProviderConfig, model_id: str) -> "WireModel":
        if provider.type in ANTHROPIC_LIKE:
            return _anthropic(provider, model_id, self._client_http())
        return _openai(provider, model_id, self._client_http())

    def _client_http(self) -> "httpx2.AsyncClient":
        import httpx2

        if self._http is None:
            # The read timeout only backs up our own deadlines, which look at events.
            read_s = max(self._limits.model_first_event_s, self._limits.model_progress_s) + 5.0
            self._http = httpx2.AsyncClient(
                verify=shared_tls(),
                timeout=httpx2.Timeout(read_s, connect=self._limits.model_connect_s),
                transport=self._transport,
            )
        return self._http


@cache
def shared_tls() -> SSLContext:
    """One context for all clients: loading the certificates takes tens of milliseconds and a megabyte."""
    return create_default_context()


def _anthropic(provider: ProviderConfig, model_id: str, http: "httpx2.AsyncClient") -> "WireModel":
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    key: dict[str, Any] = {"api_key": provider.api_key or "none"}
    if provider.api_key.startswith("Bearer "):
        key = {"auth_token": provider.api_key.removeprefix("Bearer ")}
    client = AsyncAnthropic(
        **key,
        base_url=provider.base_url.removesuffix("/v1"),  # the client adds it
        max_retries=0,
        default_headers=provider.extra_headers,
        http_client=http,
        open_telemetry=False,
    )
    return AnthropicModel(model_id, provider=AnthropicProvider(anthropic_client=client))


def _openai(provider: ProviderConfig, model_id: str, http: "httpx2.AsyncClient") -> "WireModel":
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.models.openrouter import OpenRouterModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
    from pydantic_ai.providers.openrouter import OpenRouterProvider

    patch_openai()
    client = AsyncOpenAI(
        api_key=provider.api_key or "none",  # local servers want none, the library wants some
        base_url=provider.base_url,
        max_retries=0,
        default_headers=provider.extra_headers,
        http_client=http,
    )
    # Without this a stream that was cut looks complete.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    match provider.type:
        case "openai":
            return OpenAIChatModel(model_id, provider=OpenAIProvider(openai_client=client), profile=profile)
        case "openrouter":
            return OpenRouterModel(model_id, provider=OpenRouterProvider(openai_client=client), profile=profile)
        case _:
            # Most compatible servers know the older name of this field only.
            profile["openai_chat_supports_max_completion_tokens"] = False
            compatible = OpenAICompatibleProvider(provider.id, openai_client=client)
            return OpenAIChatModel(model_id, provider=compatible, profile=profile)
