"""From the merged configuration to providers that can be used and the models that are chosen (8.4).

Expanding a key may run a command, so this blocks like the reading does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from worker.config.catalogue import (
    BUILTIN,
    BUILTIN_ID,
    DEFAULT_MAX_TOKENS,
    KNOWN_BY_ID,
    KNOWN_PROVIDERS,
    LOCAL_ID,
    KnownProvider,
    key_hint,
    local_provider,
)
from worker.config.discover import LOCAL_TYPES, Discovery
from worker.config.expand import Run, expand

_HOW = (
    "To use a real one, set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY, or add a provider with its "
    "base_url to bulkhead.json."
)
HINT = f"No model provider is configured, so the scripted model answers. {_HOW}"
LOCAL_HINT = (
    "No model provider is configured, so local/smollm2 answers: a very small model on this machine, which talks but "
    f"uses no tools. {_HOW}"
)
CUSTOM_TYPE = "openai-compat"
_PLACELESS = frozenset({"google", "google-vertex", "bedrock"})
"""Types whose libraries know where their services are."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """`providers` in the order of preference, with expanded values; the built-in one is always last."""

    providers: dict[str, ProviderConfig]
    models: dict[str, SelectedModel]  # `large` and `small`, both always there
    hint: str  # for people, "" when a real model answers
    warnings: tuple[str, ...]
    secrets: tuple[str, ...]


class _Resolver:
    def __init__(self, env: Mapping[str, str], run: Run) -> None:
        self._env = env
        self._run = run
        self.providers: dict[str, ProviderConfig] = {}
        self.warnings: list[str] = []
        self.secrets: list[str] = []

    def known(self, known: KnownProvider, own: ProviderConfig | None) -> None:
        """Add a provider of the catalogue if it has a key."""
        settings = own or ProviderConfig()
        models = {model.id: model for model in (*settings.models, *known.models)}
        for model in settings.models:
            models[model.id] = model
        wanted = replace(
            settings,
            id=known.id,
            name=settings.name or known.name,
            type=settings.type or known.type,
            base_url=settings.base_url or known.base_url,
            api_key=settings.api_key or known.api_key,
            models=list(models.values()),
        )
        expanded = self._expanded(wanted, is_told=own is not None)
        if expanded is None:
            return
        has_login = bool(expanded.api_key) or any(self._env.get(name) for name in known.credentials)
        if not has_login and not settings.base_url:
            if own is not None:
                self.warnings.append(f"provider {known.id!r} is not used: it has no key; {key_hint(known.id)}")
            return
        if known.type == "azure" and not expanded.base_url:
            self.warnings.append("provider 'azure' is not used: set AZURE_OPENAI_ENDPOINT or providers.azure.base_url")
            return
        self.providers[known.id] = expanded

    def custom(self, provider_id: str, own: ProviderConfig) -> None:
        """Add a provider that only the configuration knows."""
        base_url = own.base_url or LOCAL_TYPES.get(own.type, "")
        if not base_url and own.type not in _PLACELESS:
            self.warnings.append(f"provider {provider_id!r} is not used: it needs a base_url")
            return
        expanded = self._expanded(
            replace(
                own,
                id=provider_id,
                name=own.name or provider_id,
                type=own.type or CUSTOM_TYPE,
                base_url=base_url,
            ),
            is_told=True,
        )
        if expanded is None:
            return
        if own.api_key and not expanded.api_key:
            self.warnings.append(f"provider {provider_id!r} is used without a key: its api_key is empty")
        self.providers[provider_id] = expanded

    def discover(self, discovery: Discovery) -> None:
        """Add the models that local servers have and the configuration does not name."""
        local = [
            provider
            for provider in self.providers.values()
            if provider.type in LOCAL_TYPES and provider.discover_models is not False
        ]
        for provider_id, found in discovery.models(local).items() if local else ():
            provider = self.providers[provider_id]
            own = {model.id for model in provider.models}
            models = [*provider.models, *(model for model in found if model.id not in own)]
            self.providers[provider_id] = replace(provider, models=models)

    def _expanded(self, provider: ProviderConfig, *, is_told: bool) -> ProviderConfig | None:
        try:
            api_key = expand(provider.api_key, self._env, self._run)
            base_url = expand(provider.base_url, self._env, self._run)
        except BadInput as error:
            if is_told:
                self.warnings.append(f"provider {provider.id!r} is not used: {error.message}")
            return None
        headers = {name: expand(value, self._env, self._run) for name, value in provider.extra_headers.items()}
        headers = {name: value for name, value in headers.items() if value}
        self.secrets += [value for value in (api_key, *headers.values(), *_tokens(provider)) if value]
        return replace(provider, api_key=api_key, base_url=base_url.rstrip("/"), extra_headers=headers)


def _tokens(provider: ProviderConfig) -> list[str]:
    login = provider.oauth or {}
    return [value for value in (login.get("access_token"), login.get("refresh_token")) if isinstance(value, str)]


def resolve(
    configured: Mapping[str, ProviderConfig],
    selected: Mapping[str, SelectedModel],
    *,
    use_known: bool,
    default_model: str,
    env: Mapping[str, str],
    run: Run,
    discovery: Discovery | None = None,
    local_model: str = "",
) -> Resolved:
    """Which providers work here, and which models answer. `default_model` is `provider/model` and wins;
    `discovery` asks local servers for their models; `local_model` is the socket of our own one, "" for none.

    Raises BadInput when `default_model` names a provider that is not there, or a header cannot be expanded.
    """
    resolver = _Resolver(env, run)
    for known in KNOWN_PROVIDERS:
        own = configured.get(known.id)
        if (own is None and not use_known) or (own is not None and own.disable):
            continue
        resolver.known(known, own)
    for provider_id in sorted(configured):
        own = configured[provider_id]
        if provider_id not in KNOWN_BY_ID and provider_id != BUILTIN_ID and not own.disable:
            resolver.custom(provider_id, own)
    if discovery is not None:
        resolver.discover(discovery)
    providers = {**resolver.providers}
    has_own = bool(providers)
    if local_model and LOCAL_ID not in configured:
        providers[LOCAL_ID] = local_provider(local_model)
    providers[BUILTIN_ID] = BUILTIN
    large = _large(providers, selected, default_model, resolver.warnings)
    small = _small(providers, selected, large)
    for choice in (large, small):
        providers[choice.provider] = _with_model(providers[choice.provider], choice.model)
    hint = "" if has_own else HINT if large.provider == BUILTIN_ID else LOCAL_HINT
    return Resolved(
        providers,
        {"large": large, "small": small},
        hint,
        tuple(resolver.warnings),
        tuple(dict.fromkeys(resolver.secrets)),
    )


def _large(
    providers: Mapping[str, ProviderConfig],
    selected: Mapping[str, SelectedModel],
    default_model: str,
    warnings: list[str],
) -> SelectedModel:
    if default_model:
        provider_id, _, model_id = default_model.partition("/")
        if provider_id in KNOWN_BY_ID and provider_id not in providers and model_id:
            raise BadInput(f"cannot use the default model {default_model!r}: no key; {key_hint(provider_id)}")
        if provider_id == LOCAL_ID and provider_id not in providers:
            raise BadInput(
                f"cannot use the default model {default_model!r}: not installed here; `make local-model` installs it"
            )
        if provider_id not in providers or not model_id:
            raise BadInput(
                f"cannot use the default model {default_model!r}: write provider/model with one of these providers: "
                + ", ".join(providers)
            )
        return SelectedModel(model=model_id, provider=provider_id)
    wanted = selected.get("large")
    if wanted is not None and wanted.provider in providers and wanted.model:
        return wanted
    if wanted is not None:
        why = f"; {key_hint(wanted.provider)}" if wanted.provider in KNOWN_BY_ID else ""
        warnings.append(f"model {wanted.provider}/{wanted.model} is not used: its provider is not configured here{why}")
    for provider in providers.values():
        # Who has access to a cloud for other reasons has not chosen its models by that.
        known = KNOWN_BY_ID.get(provider.id)
        if provider.models and (provider.api_key or known is None or not known.credentials):
            return SelectedModel(model=provider.models[0].id, provider=provider.id)
    raise AssertionError("the built-in provider always has a model")


def _small(
    providers: Mapping[str, ProviderConfig], selected: Mapping[str, SelectedModel], large: SelectedModel
) -> SelectedModel:
    wanted = selected.get("small")
    if wanted is not None and wanted.provider in providers and wanted.model:
        return wanted
    known = KNOWN_BY_ID.get(large.provider)
    return SelectedModel(model=known.small_model, provider=known.id) if known is not None else large


def _with_model(provider: ProviderConfig, model_id: str) -> ProviderConfig:
    """A table of models ages; one that was chosen by name counts although nobody listed it."""
    if any(model.id == model_id for model in provider.models):
        return provider
    unlisted = Model(id=model_id, name=model_id, default_max_tokens=DEFAULT_MAX_TOKENS)
    return replace(provider, models=[*provider.models, unlisted])
