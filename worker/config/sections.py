"""Define the sections `lsp`, `hooks` and `mcp` of the configuration files."""

import re
from typing import Annotated, Any, Literal

import msgspec


class LspSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`lsp.<name>`: one language server. Missing values come from the catalogue, by name or command.

    `command`, `args` and the values of `env` are templates, expanded when the server starts. `options` are the settings
    that the server requests; `timeout` limits its start, in seconds.
    """

    disabled: bool = False
    command: str = ""
    args: list[str] | None = None
    env: dict[str, str] | None = None
    filetypes: list[str] | None = None
    root_markers: list[str] | None = None
    init_options: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    timeout: int = 0


class HookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `hooks.<event>`: a command that checks tool calls.

    `matcher` is a regular expression that is searched in the name of the tool; `timeout` limits one run, in seconds.
    """

    command: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""
    matcher: str = ""
    timeout: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.matcher)
        except re.error as error:
            raise ValueError(f"the matcher {self.matcher!r} is not a regular expression: {error}") from None


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The OAuth client and the URLs for renewing tokens. `auth_style` 2 sends the secret in a header, 1 in the body."""

    client_id: str = ""
    client_secret: str = ""
    auth_url: str = ""
    token_url: str = ""
    auth_style: int = 0


class OAuthToken(msgspec.Struct, frozen=True, kw_only=True):
    """The token of a login. `expires_at` is in Unix seconds, 0 for never; `resource` is the URL it was issued for."""

    access_token: str = ""
    refresh_token: str = ""
    expires_in: int = 0
    expires_at: int = 0
    resource: str = ""
    client: OAuthClient = OAuthClient()


class McpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`mcp.<name>`: one MCP server. Without `type` it is `http` if it has a `url`, otherwise `stdio`.

    `command`, `args`, `url`, the values of `env` and `headers`, and the client's id and secret are templates, expanded
    when the server starts. `timeout` limits its start, in seconds. `oauth_token` is written by the program.
    """

    type: Literal["", "stdio", "sse", "http"] = ""
    command: str = ""
    args: list[str] | None = None
    env: dict[str, str] | None = None
    url: str = ""
    headers: dict[str, str] | None = None
    disabled: bool = False
    disabled_tools: list[str] | None = None
    enabled_tools: list[str] | None = None
    timeout: int = 0
    oauth: bool = False
    oauth_client_id: str = ""
    oauth_client_secret: str = ""
    oauth_callback_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    oauth_token: OAuthToken | None = None
