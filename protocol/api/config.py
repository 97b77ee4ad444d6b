"""API types for the configuration and the project."""

from typing import Annotated, Any, Literal

import msgspec

from protocol.api.provider import ProviderConfig, SelectedModel

GLOBAL, WORKSPACE = 0, 1
"""The scopes: the user's file for all workspaces; the file in the workspace's data directory. Others mean GLOBAL."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
ModelType = Literal["large", "small"]
_TEXT_OR_TOKEN = {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/OAuthToken"}]}

_WITH_TUI = {"properties": {"tui": {"type": "object"}}, "required": ["tui"]}


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The merged configuration with secrets masked. `providers` and `options.tui` are always present."""

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
    """The body of `POST …/config/set`. `key` is a dotted path; a dot inside a name is written `\\.`.

    `scope` is 0 for the user's file, which applies to all workspaces, and 1 for the workspace's own file.
    """

    key: Key
    value: msgspec.Raw
    scope: int = GLOBAL


class RemoveKey(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/config/remove`. `key` and `scope` are those of `SetKey`."""

    key: Key
    scope: int = GLOBAL


class ChooseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/config/model`: selects the large or the small model."""

    model_type: ModelType
    model: SelectedModel
    scope: int = GLOBAL


class SetCompact(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/config/compact`: turns the compact mode of terminal clients on or off."""

    enabled: bool
    scope: int = GLOBAL


class SetProviderKey(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/config/provider-key`.

    `api_key` is a string if `kind` is `string`, and an `OAuthToken` object if it is `oauth`.
    """

    provider_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    kind: Literal["string", "oauth"]
    api_key: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=_TEXT_OR_TOKEN)]
    scope: int = GLOBAL


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The OAuth client of a token, and the URLs for renewing the token."""

    client_id: str = ""
    client_secret: str = ""
    auth_url: str = ""
    token_url: str = ""
    auth_style: int = 0


class OAuthToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tokens of a login. `expires_in` is in seconds, `expires_at` a Unix time in seconds."""

    access_token: str = msgspec.field()
    expires_in: int = msgspec.field(default_factory=int)
    expires_at: int = msgspec.field(default_factory=int)
    refresh_token: str = ""
    client: OAuthClient | None = None


class RefreshLogin(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST …/config/refresh-oauth`."""

    provider_id: str
    scope: int = GLOBAL


class CopilotImport(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `POST …/config/import-copilot`."""

    token: OAuthToken | None = None
    success: bool = False


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the event `config_changed`: the configuration of a workspace has changed."""

    workspace_id: str


class NeedsInit(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `GET …/project/needs-init`: whether a client should offer to write the context file."""

    needs_init: bool


class InitPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `GET …/project/init-prompt`: the prompt that writes the context file."""

    prompt: str
