"""API types for models and providers."""

from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model, as described by the catalogue or the configuration. Costs are in US dollars per million tokens."""

    id: str = msgspec.field(default_factory=str)
    name: str = msgspec.field(default_factory=str)
    cost_per_1m_in: float = msgspec.field(default_factory=float)
    cost_per_1m_out: float = msgspec.field(default_factory=float)
    cost_per_1m_in_cached: float = msgspec.field(default_factory=float)
    cost_per_1m_out_cached: float = msgspec.field(default_factory=float)
    context_window: int = msgspec.field(default_factory=int)
    default_max_tokens: int = msgspec.field(default_factory=int)
    can_reason: bool = msgspec.field(default_factory=bool)
    supports_attachments: bool = msgspec.field(default_factory=bool)
    reasoning_levels: list[str] = []
    default_reasoning_effort: str = ""
    options: dict[str, Any] = {}


class CatalogueProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider with its models, without keys and headers; an item of `GET …/providers`."""

    name: str
    id: str
    api_endpoint: str
    type: str
    default_large_model_id: str
    default_small_model_id: str
    models: list[Model]


class SelectedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model selected for one purpose (`large`, `small`), with its options."""

    model: str = msgspec.field(default_factory=str)
    provider: str = msgspec.field(default_factory=str)
    reasoning_effort: str = ""
    think: bool = False
    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    provider_options: dict[str, Any] = {}


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A configured provider. `oauth` is set if the user has logged in at the provider."""

    id: str = ""
    name: str = ""
    base_url: str = ""
    type: str = ""
    api_key: str = ""
    oauth: dict[str, Any] | None = None
    disable: bool = False
    system_prompt_prefix: str = ""
    extra_headers: dict[str, str] = {}
    extra_body: dict[str, Any] = {}
    provider_options: dict[str, Any] = {}
    aws_auth_refresh: str = ""
    flat_rate: bool = False
    discover_models: bool | None = None
    models: list[Model] = []
