"""Provide the client of each configured model.

The HTTP clients are set up here: no retries of their own, one shared TLS context, bounded connect time. They are
created on first use and closed by `ModelRegistry.close`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.base.clock import Clock, SystemClock
from protocol.limits import Limits
from worker.config.catalogue import BUILTIN_ID, LOCAL_ID, key_hint
from worker.config.load import WorkspaceConfig
from worker.models.client import ModelClient
from worker.models.key_renewal import RenewingModel
from worker.models.local_model import at_socket, socket_transport
from worker.models.provider_clients import make_wire_model, wire_of
from worker.models.remote import RemoteModel
from worker.models.request_options import may_cache
from worker.models.response_limits import client_options
from worker.models.script import ScriptModel, Sleeper
from worker.web.tls import shared_tls

if TYPE_CHECKING:
    import httpx2

CLOSE_S = 2.0


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
        """`transport` replaces the network, for the warm-up. `env` provides switches, and projects and regions of cloud
        providers. `renew` looks for a newer key after a 401."""
        self._renew = renew
        self._config = config
        self._env = env
        self._limits = limits
        self._script = ScriptModel(sleep=sleep, clock=clock or SystemClock(), limits=limits)
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._socket_http: httpx2.AsyncClient | None = None

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
        clients = (self._http, self._socket_http)
        self._http = self._socket_http = None
        for http in clients:
            if http is not None:
                async with asyncio.timeout(CLOSE_S):
                    await http.aclose()

    def _client(self, choice: ModelChoice) -> ModelClient:
        provider, model = choice.provider, choice.model
        if provider.id == BUILTIN_ID:
            return self._script
        wire = wire_of(provider, model, choice.selected)
        http = self._client_http
        if provider.type == LOCAL_ID:
            socket, provider = at_socket(provider)
            http = partial(self._client_socket, socket)
        return RemoteModel(
            wire=wire,
            model=model,
            provider=provider,
            selected=choice.selected,
            make=lambda: make_wire_model(wire, provider, model, http=http, env=self._env, limits=self._limits),
            limits=self._limits,
            secrets=self._config.secrets,
            key_hint=key_hint(provider.id),
            caches=may_cache(self._env),
        )

    def _client_http(self) -> "httpx2.AsyncClient":
        if self._http is None:
            self._http = self._make_http(self._transport)
        return self._http

    def _client_socket(self, socket: str) -> "httpx2.AsyncClient":
        if self._socket_http is None:
            self._socket_http = self._make_http(self._transport or socket_transport(socket))
        return self._socket_http

    def _make_http(self, transport: "httpx2.AsyncBaseTransport | None") -> "httpx2.AsyncClient":
        import httpx2

        # The read timeout only backs up our own deadlines, which count events.
        read_s = max(self._limits.model_first_event_s, self._limits.model_progress_s) + 5.0
        return httpx2.AsyncClient(
            verify=shared_tls(),
            timeout=httpx2.Timeout(read_s, connect=self._limits.model_connect_s),
            transport=transport,
            **client_options(),
        )
