"""Resolve the merged configuration to the usable providers and the selected models.

Expanding a key may run a command, so this blocks.
"""

from collections.abc import Mapping, Sequence
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

_ADVICE = (
    "To use a real model, set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY, or add a provider with its "
    "base_url to bulkhead.json."
)
HINT = f"No model provider is configured, so the scripted model answers. {_ADVICE}"
LOCAL_HINT = (
    "No model provider is configured, so local/smollm2 answers: a very small model on this machine that cannot use "
    f"tools. {_ADVICE}"
)
CUSTOM_TYPE = "openai-compat"
_WITHOUT_BASE_URL = frozenset({"google", "google-vertex", "bedrock"})
"""Types whose libraries know the URLs of their services."""


@dataclass(frozen=True, slots=True)
class ResolvedProviders:
    """The result: `providers` in order of preference with expanded values, the built-in one last."""

    providers: dict[str, ProviderConfig]
    models: dict[str, SelectedModel]  # always has `large` and `small`
    hint: str  # tells the user why no configured model answers; "" if one does
    problem: str  # why the models that the configuration asks for cannot be used; "" if they can
    warnings: tuple[str, ...]
    secrets: tuple[str, ...]


class _Resolver:
    """Collects the usable providers, with warnings about the others and the secrets found."""

    def __init__(self, env: Mapping[str, str], run: Run) -> None:
        self._env = env
        self._run = run
        self.providers: dict[str, ProviderConfig] = {}
        self.warnings: list[str] = []
        self.secrets: list[str] = []

    def add_known(self, known: KnownProvider, own: ProviderConfig | None) -> None:
        """Add a provider of the catalogue if it has a key or a configured base URL."""
        settings = own or ProviderConfig()
        models = {model.id: model for model in (*settings.models, *known.models)}
        for model in settings.models:
            models[model.id] = model
        completed = replace(
            settings,
            id=known.id,
            name=settings.name or known.name,
            type=settings.type or known.type,
            base_url=settings.base_url or known.base_url,
            api_key=settings.api_key or known.api_key,
            models=list(models.values()),
        )
        expanded = self._expanded(completed, warn=own is not None)
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

    def add_custom(self, provider_id: str, own: ProviderConfig) -> None:
        """Add a configured provider that is not in the catalogue."""
        base_url = own.base_url or LOCAL_TYPES.get(own.type, "")
        if not base_url and own.type not in _WITHOUT_BASE_URL:
            self.warnings.append(f"provider {provider_id!r} is not used: set its base_url")
            return
        expanded = self._expanded(
            replace(
                own,
                id=provider_id,
                name=own.name or provider_id,
                type=own.type or CUSTOM_TYPE,
                base_url=base_url,
            ),
            warn=True,
        )
        if expanded is None:
            return
        if own.api_key and not expanded.api_key:
            self.warnings.append(f"provider {provider_id!r} is used without a key: its api_key is empty")
        self.providers[provider_id] = expanded

    def add_discovered(self, discovery: Discovery) -> None:
        """Add the models that local servers report and the configuration does not list."""
        local = [
            provider
            for provider in self.providers.values()
            if provider.type in LOCAL_TYPES and provider.discover_models is not False
        ]
        for provider_id, discovered in discovery.models(local).items() if local else ():
            provider = self.providers[provider_id]
            listed = {model.id for model in provider.models}
            models = [*provider.models, *(model for model in discovered if model.id not in listed)]
            self.providers[provider_id] = replace(provider, models=models)

    def _expanded(self, provider: ProviderConfig, *, warn: bool) -> ProviderConfig | None:
        try:
            api_key = expand(provider.api_key, self._env, self._run)
            base_url = expand(provider.base_url, self._env, self._run)
        except BadInput as error:
            if warn:
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
) -> ResolvedProviders:
    """Determine the usable providers and the `large` and `small` models.

    `default_model` is `provider/model` and overrides the selection. `discovery` asks local servers for their models.
    `local_model` is the socket of the local model, "" for none. Raises BadInput if `default_model` names a provider
    that is not available, or a header cannot be expanded.

    A model that was chosen by name and cannot be used is a `problem`, and so are configured providers none of which can
    be used: no other model may answer in their place. The result then has the built-in models.
    """
    resolver = _Resolver(env, run)
    for known in KNOWN_PROVIDERS:
        own = configured.get(known.id)
        if (own is None and not use_known) or (own is not None and own.disable):
            continue
        resolver.add_known(known, own)
    for provider_id in sorted(configured):
        own = configured[provider_id]
        if provider_id not in KNOWN_BY_ID and provider_id != BUILTIN_ID and not own.disable:
            resolver.add_custom(provider_id, own)
    if discovery is not None:
        resolver.add_discovered(discovery)
    providers = {**resolver.providers}
    has_own = bool(providers)
    if local_model and LOCAL_ID not in configured:
        providers[LOCAL_ID] = local_provider(local_model)
    providers[BUILTIN_ID] = BUILTIN
    is_configured = any(not provider.disable for provider in configured.values())
    problem = ""
    if default_model:
        _check_default(providers, default_model)
    try:
        large = _large(
            providers,
            selected,
            default_model,
            resolver.warnings,
            is_configured=is_configured,
            is_local_own=LOCAL_ID in configured,
        )
        small = _small(providers, selected, large, resolver.warnings)
    except BadInput as error:
        problem = error.message
        large = small = SelectedModel(model=BUILTIN.models[0].id, provider=BUILTIN_ID)
    for choice in (large, small):
        providers[choice.provider] = _with_model(providers[choice.provider], choice.model)
    hint = "" if has_own or problem else HINT if large.provider == BUILTIN_ID else LOCAL_HINT
    return ResolvedProviders(
        providers,
        {"large": large, "small": small},
        hint,
        problem,
        tuple(resolver.warnings),
        tuple(dict.fromkeys(resolver.secrets)),
    )


def _check_default(providers: Mapping[str, ProviderConfig], default_model: str) -> None:
    provider_id, _, model_id = default_model.partition("/")
    if provider_id in KNOWN_BY_ID and provider_id not in providers and model_id:
        raise BadInput(f"cannot use the default model {default_model!r}: no key; {key_hint(provider_id)}")
    if provider_id == LOCAL_ID and provider_id not in providers:
        raise BadInput(
            f"cannot use the default model {default_model!r}: it is not installed; `make local-model` installs it"
        )
    if provider_id not in providers or not model_id:
        raise BadInput(
            f"cannot use the default model {default_model!r}: give provider/model with one of these providers: "
            + ", ".join(providers)
        )


def _large(
    providers: Mapping[str, ProviderConfig],
    selected: Mapping[str, SelectedModel],
    default_model: str,
    warnings: Sequence[str],
    *,
    is_configured: bool,
    is_local_own: bool,
) -> SelectedModel:
    if default_model:
        provider_id, _, model_id = default_model.partition("/")
        return SelectedModel(model=model_id, provider=provider_id)
    choice = _chosen("large", providers, selected, warnings)
    if choice is not None:
        return choice
    reasons: list[str] = []
    for provider in providers.values():
        # Cloud credentials in the environment may serve other purposes: they do not select the cloud's models.
        known = KNOWN_BY_ID.get(provider.id)
        is_own = provider.id != BUILTIN_ID and (provider.id != LOCAL_ID or is_local_own)
        if not provider.models:
            reasons.append(f"provider {provider.id!r} has no models: list them in its models, or start its server")
        elif (is_own or not is_configured) and (provider.api_key or known is None or not known.credentials):
            return SelectedModel(model=provider.models[0].id, provider=provider.id)
    reasons += [text for text in warnings if " is not used: " in text]
    raise BadInput(
        "cannot use any of the configured providers: " + ("; ".join(reasons) or "choose one in models.large")
    )


def _small(
    providers: Mapping[str, ProviderConfig],
    selected: Mapping[str, SelectedModel],
    large: SelectedModel,
    warnings: Sequence[str],
) -> SelectedModel:
    choice = _chosen("small", providers, selected, warnings)
    if choice is not None:
        return choice
    known = KNOWN_BY_ID.get(large.provider)
    return SelectedModel(model=known.small_model, provider=known.id) if known is not None else large


def _chosen(
    kind: str, providers: Mapping[str, ProviderConfig], selected: Mapping[str, SelectedModel], warnings: Sequence[str]
) -> SelectedModel | None:
    """Return the model that the configuration selects by name, None if it selects none. Raises BadInput if it cannot
    be used; `warnings` say why its provider is not available."""
    choice = selected.get(kind)
    if choice is None or not (choice.provider or choice.model):
        return None
    name = f"{choice.provider}/{choice.model}"
    if not choice.model or not choice.provider:
        raise BadInput(f"cannot use the {kind} model {name!r}: models.{kind} needs both a provider and a model")
    if choice.provider in providers:
        return choice
    reason = next((text for text in warnings if text.startswith(f"provider {choice.provider!r} is not used: ")), "")
    if not reason:
        known = key_hint(choice.provider) if choice.provider in KNOWN_BY_ID else "no such provider is configured"
        reason = f"provider {choice.provider!r} is not available: {known}; available are {', '.join(providers)}"
    raise BadInput(f"cannot use the {kind} model {name!r}: {reason}")


def _with_model(provider: ProviderConfig, model_id: str) -> ProviderConfig:
    """Add a selected model that the provider does not list: the catalogue may be older than the model."""
    if any(model.id == model_id for model in provider.models):
        return provider
    unlisted = Model(id=model_id, name=model_id, default_max_tokens=DEFAULT_MAX_TOKENS)
    return replace(provider, models=[*provider.models, unlisted])
