"""Provide the client of each configured model.

The connections to providers are opened on first use, shared by all models, and closed by `ModelRegistry.close`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.base.clock import Clock, SystemClock
from protocol.limits import Limits
from worker.config.catalogue import BUILTIN_ID, LOCAL_ID, key_hint
from worker.config.load import WorkspaceConfig
from worker.models.client import ModelClient
from worker.models.key_renewal import RenewingModel
from worker.models.local_model import at_socket
from worker.models.options import may_cache
from worker.models.remote import RemoteModel
from worker.models.script import ScriptModel, Sleeper
from worker.models.transport.provider_http import ProviderHttp
from worker.models.wire_choice import Api, api_of
from worker.models.wires.anthropic import AnthropicWire
from worker.models.wires.chat import ChatWire
from worker.models.wires.responses import ResponsesWire
from worker.models.wires.wire import Wire, WireContext

if TYPE_CHECKING:
    import httpx2

    from worker.models.extras.library_model import LibraryHttp
    from worker.models.extras.settings import Extra


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A selected model: its description, the selection, its provider, and a hint for the user ("" for none)."""

    model: Model
    selected: SelectedModel
    provider: ProviderConfig
    hint: str


Renew = Callable[[str, ModelChoice], Awaitable[tuple[ModelClient, ModelChoice] | None]]
"""Takes `large` or `small` and the choice whose key was rejected; returns a client with a newer key and its choice."""


class ModelRegistry:
    """The models of one configuration. A changed configuration gets a new registry."""

    def __init__(
        self,
        config: WorkspaceConfig,
        env: Mapping[str, str],
        limits: Limits,
        *,
        clock: Clock | None = None,
        sleep: Sleeper = asyncio.sleep,
        transport: "httpx2.AsyncBaseTransport | None" = None,
        renew: "Renew | None" = None,
    ) -> None:
        """`transport` replaces the network of the library clients (Google). `env` provides switches, and projects and
        regions of cloud providers. `renew` looks for a newer key after a 401."""
        self._renew = renew
        self._config = config
        self._env = env
        self._limits = limits
        self._script = ScriptModel(sleep=sleep, clock=clock or SystemClock(), limits=limits)
        self._transport = transport
        self._http = ProviderHttp(limits.model_connect_s)
        self._library_http: LibraryHttp | None = None

    def choice(self, kind: str = "large") -> ModelChoice:
        """Return the model selected for `large` or `small`."""
        selected = self._config.models[kind]
        provider = self._config.providers[selected.provider]
        model = next(model for model in provider.models if model.id == selected.model)
        return ModelChoice(model, selected, provider, self._config.hint)

    def large(self) -> ModelClient:
        """Return the client of the main model. Raises BadInput when the type of its provider is not supported."""
        return self.client("large")

    def small(self) -> ModelClient:
        """Return the client of the model for short side tasks. Raises BadInput like `large`."""
        return self.client("small")

    def client(self, kind: str) -> ModelClient:
        """Return the client of `large` or `small`. Raises BadInput like `large`."""
        choice = self.choice(kind)
        client = self.bare(kind)
        renew = self._renew
        if renew is None or client is self._script:
            return client

        async def newer() -> ModelClient | None:
            nonlocal choice  # a long turn outlives more than one key
            result = await renew(kind, choice)
            if result is None:
                return None
            renewed, choice = result
            return renewed

        return RenewingModel(client, newer)

    def bare(self, kind: str) -> ModelClient:
        """Return the client without renewal of a rejected key. Raises BadInput like `large`."""
        return self._client(self.choice(kind))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        if self._library_http is not None:
            await self._library_http.close()

    def _client(self, choice: ModelChoice) -> ModelClient:
        provider, model = choice.provider, choice.model
        if provider.id == BUILTIN_ID:
            return self._script
        api = api_of(provider, model, choice.selected)
        socket = ""
        if provider.type == LOCAL_ID:
            socket, provider = at_socket(provider)
        context = WireContext(
            model=model,
            provider=provider,
            selected=choice.selected,
            env=self._env,
            caches=may_cache(self._env),
            secrets=self._config.secrets,
        )
        if api == "google" or api == "bedrock":
            return self._library_client(api, context)
        return RemoteModel(
            _wire(api, context),
            self._http,
            context=context,
            limits=self._limits,
            key_hint=key_hint(provider.id),
            socket=socket,
        )

    def _library_client(self, extra: "Extra", context: WireContext) -> ModelClient:
        from worker.models.extras.library_model import LibraryHttp, LibraryModel

        if self._library_http is None:
            self._library_http = LibraryHttp(self._limits, self._transport)
        hint = key_hint(context.provider.id)
        return LibraryModel(extra, context, self._library_http, limits=self._limits, key_hint=hint)


def _wire(api: Api, context: WireContext) -> Wire:
    match api:
        case "anthropic":
            return AnthropicWire(context)
        case "responses":
            return ResponsesWire(context)
        case _:
            return ChatWire(context)
