"""Changes of the configuration and what is said of the project (http-api 2.7, 3.3)."""

from typing import Annotated, Any, Literal

import msgspec

from protocol.api.provider import ProviderConfig, SelectedModel

GLOBAL, WORKSPACE = 0, 1
"""The scopes: a file of this user, for all workspaces; a file in the workspace's data directory. Others are global."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
ModelType = Literal["large", "small"]
_TEXT_OR_TOKEN = {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/OAuthToken"}]}

_WITH_TUI = {"properties": {"tui": {"type": "object"}}, "required": ["tui"]}


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The merged configuration with secrets masked. Clients crash without `providers` and `options.tui`."""

    providers: dict[str, ProviderConfig]
    options: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_WITH_TUI)]
    models: dict[str, SelectedModel] = {}
    recent_models: dict[str, list[SelectedModel]] = {}
    mcp: dict[str, dict[str, Any]] = {}
    lsp: dict[str, dict[str, Any]] = {}
    permissions: dict[str, Any] = {}
    tools: dict[str, Any] = {}
    hooks: dict[str, list[dict[str, Any]]] = {}
    env: dict[str, str] = {}


class SetKey(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/set`. `key` is a dotted path; a dot inside a name is written `\\.`."""

    key: Key
    value: msgspec.Raw
    scope: int = GLOBAL


class RemoveKey(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/remove`."""

    key: Key
    scope: int = GLOBAL


class ChooseModel(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/model`."""

    model_type: ModelType
    model: SelectedModel
    scope: int = GLOBAL


class SetCompact(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/compact`: the compact view of a terminal."""

    enabled: bool
    scope: int = GLOBAL


class SetProviderKey(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/provider-key`. `api_key` is a text for the kind `string`, a token for the kind `oauth`."""

    provider_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    kind: Literal["string", "oauth"]
    api_key: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=_TEXT_OR_TOKEN)]
    scope: int = GLOBAL


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked for a token, and where a new one is had."""

    client_id: str = ""
    client_secret: str = ""
    auth_url: str = ""
    token_url: str = ""
    auth_style: int = 0


class OAuthToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A login. `expires_in` are seconds, `expires_at` is a Unix time in seconds."""

    access_token: str = msgspec.field()
    expires_in: int = msgspec.field(default_factory=int)
    expires_at: int = msgspec.field(default_factory=int)
    refresh_token: str = ""
    client: OAuthClient | None = None


class RefreshLogin(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/config/refresh-oauth`."""

    provider_id: str
    scope: int = GLOBAL


class CopilotImport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `…/config/import-copilot`."""

    token: OAuthToken | None = None
    success: bool = False


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `config_changed`."""

    workspace_id: str


class NeedsInit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `…/project/needs-init`."""

    needs_init: bool


class InitPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `…/project/init-prompt`."""

    prompt: str
