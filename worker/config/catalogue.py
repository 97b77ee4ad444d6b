"""The catalogue of well-known model providers, their key variables and their current models.

Prices and context windows come from genai-prices 0.2.3, the price data of pydantic-ai, as of November 2026. Prices are
in US dollars per million tokens, at the base tier. The configuration overrides all values.
"""

from dataclasses import dataclass

from protocol.api.provider import Model, ProviderConfig

DEFAULT_MAX_TOKENS = 32_000
BUILTIN_ID = "builtin"
SCRIPT_MODEL = Model(
    id="script",
    name="Scripted model (no network)",
    context_window=1_000_000,
    default_max_tokens=100_000,
    can_reason=True,
)
BUILTIN = ProviderConfig(id=BUILTIN_ID, name="Built in", type="builtin", flat_rate=True, models=[SCRIPT_MODEL])
"""The provider that is always available: it needs no key and no network."""
LOCAL_ID = "local"
SMOLLM2_MODEL = Model(
    id="smollm2",
    name="SmolLM2 135M (on this machine)",
    context_window=4096,
    default_max_tokens=1024,
)
_TEXT_ONLY = ("gpt-oss", "deepseek", "qwen", "kimi", "grok-code")
_NO_REASONING = ("gpt-4.1", "kimi", "mistral")


def local_provider(socket: str) -> ProviderConfig:
    """Return the provider of the model that the supervisor serves on this Unix socket; the model calls no tools."""
    models = [SMOLLM2_MODEL]
    return ProviderConfig(
        id=LOCAL_ID, name="This machine", type=LOCAL_ID, base_url=f"unix://{socket}", flat_rate=True, models=models
    )


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """A provider of the catalogue. `api_key` and `base_url` are templates for `expand`."""

    id: str
    name: str
    type: str
    key_variable: str
    base_url: str
    small_model: str
    models: tuple[Model, ...]  # the first one is the default
    credentials: tuple[str, ...] = ()  # variables, any one of which replaces a key

    @property
    def api_key(self) -> str:
        return f"${self.key_variable}" if self.key_variable else ""


def _model(
    model_id: str, name: str, window: int, cost_in: float, cost_out: float, cache_write: float, cache_read: float
) -> Model:
    can_reason = not any(word in model_id for word in _NO_REASONING)
    return Model(
        id=model_id,
        name=name,
        cost_per_1m_in=cost_in,
        cost_per_1m_out=cost_out,
        cost_per_1m_in_cached=cache_write,
        cost_per_1m_out_cached=cache_read,
        context_window=window,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        can_reason=can_reason,
        reasoning_levels=["low", "medium", "high"] if can_reason and model_id.startswith("gpt-") else [],
        default_reasoning_effort="medium" if can_reason and model_id.startswith("gpt-") else "",
        supports_attachments=not any(word in model_id for word in _TEXT_ONLY),
    )


_GPT = (
    _model("gpt-6.1-sol", "GPT-6.1 Sol", 1_050_000, 2.0, 10.0, 2.5, 0.1),
    _model("gpt-6.1-terra", "GPT-6.1 Terra", 1_050_000, 1.0, 5.0, 1.25, 0.05),
    _model("gpt-6-astra", "GPT-6 Astra", 1_050_000, 10.0, 50.0, 12.5, 1.0),
    _model("gpt-6-luna", "GPT-6 Luna", 1_050_000, 0.1, 0.5, 0.125, 0.01),
    _model("gpt-5.5", "GPT-5.5", 1_000_000, 5.0, 30.0, 0.0, 0.5),
    _model("gpt-5.4", "GPT-5.4", 1_050_000, 2.5, 15.0, 0.0, 0.25),
    _model("gpt-5.4-mini", "GPT-5.4 mini", 400_000, 0.75, 4.5, 0.0, 0.075),
    _model("gpt-4.1", "gpt 4.1", 1_000_000, 2.0, 8.0, 0.0, 0.5),
)
_GEMINI = (
    _model("gemini-3.8-flash", "Gemini 3.8 Flash", 1_000_000, 0.75, 3.75, 0.0, 0.075),
    _model("gemini-3.5-flash", "Gemini 3.5 Flash", 1_000_000, 1.5, 9.0, 0.0, 0.15),
)
_BEDROCK = (
    _model("global.anthropic.claude-sonnet-5-5", "Claude Sonnet 5.5", 1_000_000, 2.0, 10.0, 2.5, 0.1),
    _model("global.anthropic.claude-opus-5-5", "Claude Opus 5.5", 1_000_000, 4.0, 20.0, 5.0, 0.2),
    _model("global.anthropic.claude-haiku-5-5", "Claude Haiku 5.5", 1_000_000, 0.1, 0.5, 0.125, 0.01),
)

KNOWN_PROVIDERS: tuple[KnownProvider, ...] = (
    KnownProvider(
        "anthropic",
        "Anthropic",
        "anthropic",
        "ANTHROPIC_API_KEY",
        "${ANTHROPIC_BASE_URL:-https://api.anthropic.com}",
        "claude-haiku-5-5",
        (
            _model("claude-sonnet-5-5", "Claude Sonnet 5.5", 1_000_000, 2.0, 10.0, 2.5, 0.1),
            _model("claude-opus-5-5", "Claude Opus 5.5", 1_000_000, 4.0, 20.0, 5.0, 0.2),
            _model("claude-fable-5-2", "Claude Fable 5.2", 1_000_000, 8.0, 40.0, 10.0, 0.2),
            _model("claude-haiku-5-5", "Claude Haiku 5.5", 1_000_000, 0.1, 0.5, 0.125, 0.01),
            _model("claude-sonnet-4-6", "Claude Sonnet 4.6", 1_000_000, 3.0, 15.0, 3.75, 0.3),
            _model("claude-opus-4-8", "Claude Opus 4.8", 1_000_000, 5.0, 25.0, 6.25, 0.5),
            _model("claude-haiku-4-5", "Claude Haiku 4.5", 200_000, 1.0, 5.0, 1.25, 0.1),
        ),
    ),
    KnownProvider(
        "openai",
        "OpenAI",
        "openai",
        "OPENAI_API_KEY",
        "${OPENAI_BASE_URL:-https://api.openai.com/v1}",
        "gpt-6-luna",
        _GPT,
    ),
    KnownProvider(
        "openrouter",
        "OpenRouter",
        "openrouter",
        "OPENROUTER_API_KEY",
        "https://openrouter.ai/api/v1",
        "openai/gpt-oss-120b",
        (
            _model("anthropic/claude-sonnet-4.5", "Claude Sonnet 4.5", 1_000_000, 3.0, 15.0, 3.75, 0.3),
            _model("openai/gpt-5.4", "GPT-5.4", 1_050_000, 2.5, 15.0, 0.0, 0.25),
            _model("google/gemini-3.8-flash", "Gemini 3.8 Flash", 1_048_576, 0.75, 3.75, 0.0417, 0.075),
            _model("deepseek/deepseek-v4-pro", "DeepSeek V4 Pro", 1_048_576, 1.416, 2.832, 0.0, 0.118),
            _model("openai/gpt-oss-120b", "gpt-oss-120b", 131_072, 0.1, 0.5, 0.0, 0.0),
        ),
    ),
    KnownProvider(
        "groq",
        "Groq",
        "openai-compat",
        "GROQ_API_KEY",
        "https://api.groq.com/openai/v1",
        "openai/gpt-oss-20b",
        (
            _model("openai/gpt-oss-120b", "GPT OSS 120B", 131_072, 0.15, 0.6, 0.0, 0.075),
            _model("moonshotai/kimi-k2-instruct", "Kimi K2 1T 128k", 131_072, 1.0, 3.0, 0.0, 0.5),
            _model("qwen/qwen3-32b", "Qwen3 32B 131k", 131_072, 0.29, 0.59, 0.0, 0.0),
            _model("openai/gpt-oss-20b", "GPT OSS 20B", 131_072, 0.075, 0.3, 0.0, 0.0375),
        ),
    ),
    KnownProvider(
        "deepseek",
        "DeepSeek",
        "openai-compat",
        "DEEPSEEK_API_KEY",
        "https://api.deepseek.com/v1",
        "deepseek-v4-flash",
        (
            _model("deepseek-v4-pro", "DeepSeek V4 Pro", 1_000_000, 1.32, 3.96, 0.0, 0.044),
            _model("deepseek-v4-flash", "DeepSeek V4 Flash", 1_000_000, 0.3, 1.2, 0.0, 0.006),
        ),
    ),
    KnownProvider(
        "mistral",
        "Mistral",
        "openai-compat",
        "MISTRAL_API_KEY",
        "https://api.mistral.ai/v1",
        "mistral-small-2603",
        (
            _model("mistral-large-4", "Mistral Large 4", 1_048_576, 0.7, 2.1, 0.0, 0.07),
            _model("mistral-medium-3-5", "Mistral Medium 3.5", 262_144, 1.5, 7.5, 0.0, 0.15),
            _model("mistral-small-2603", "Mistral Small 4", 262_144, 0.15, 0.6, 0.0, 0.015),
        ),
    ),
    KnownProvider(
        "xai",
        "xAI",
        "openai-compat",
        "XAI_API_KEY",
        "https://api.x.ai/v1",
        "grok-code-fast-1",
        (
            _model("grok-4.7", "Grok 4.7", 500_000, 2.0, 6.0, 0.0, 0.5),
            _model("grok-4.5", "Grok 4.5", 500_000, 2.0, 6.0, 0.0, 0.3),
            _model("grok-code-fast-1", "Grok Code Fast 1", 256_000, 0.2, 1.5, 0.0, 0.02),
        ),
    ),
    KnownProvider(
        "cerebras",
        "Cerebras",
        "openai-compat",
        "CEREBRAS_API_KEY",
        "https://api.cerebras.ai/v1",
        "gpt-oss-120b",
        (_model("gpt-oss-120b", "GPT-OSS 120B", 131_072, 0.35, 0.75, 0.0, 0.0),),
    ),
    KnownProvider(
        "gemini",
        "Google Gemini",
        "google",
        "GEMINI_API_KEY",
        "https://generativelanguage.googleapis.com",
        "gemini-3.8-flash",
        _GEMINI,
    ),
    KnownProvider(
        "azure",
        "Azure OpenAI",
        "azure",
        "AZURE_OPENAI_API_KEY",
        "${AZURE_OPENAI_ENDPOINT}",
        "gpt-6-luna",
        _GPT,
    ),
    KnownProvider(
        "bedrock",
        "Amazon Bedrock",
        "bedrock",
        "AWS_BEARER_TOKEN_BEDROCK",
        "",
        "global.anthropic.claude-haiku-5-5",
        _BEDROCK,
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"),
    ),
    KnownProvider(
        "vertexai",
        "Google Vertex AI",
        "google-vertex",
        "",
        "",
        "gemini-3.8-flash",
        _GEMINI,
        ("VERTEXAI_PROJECT",),
    ),
)
"""In order of preference: the first provider with a key is the default."""

KNOWN_BY_ID = {provider.id: provider for provider in KNOWN_PROVIDERS}


def key_hint(provider_id: str) -> str:
    """Return how to set the key of a provider, as the last part of an error message."""
    known = KNOWN_BY_ID.get(provider_id)
    setting = f"providers.{provider_id}.api_key"
    return f"set {known.key_variable} or {setting}" if known is not None and known.key_variable else f"set {setting}"
