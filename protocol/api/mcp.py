"""API types for MCP servers."""

from typing import Literal

import msgspec

from protocol.api.file import Moment


class McpInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An MCP server. Counts are 0 while it is not connected; `error` explains the states `error` and `needs auth`.

    The list of states is closed: clients cannot read a response with another one.
    """

    name: str
    state: Literal["disabled", "starting", "connected", "error", "needs auth"]
    connected_at: Moment | msgspec.UnsetType = msgspec.UNSET
    error: str = ""
    tool_count: int = 0
    prompt_count: int = 0
    resource_count: int = 0


class McpEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of the event `mcp_event`: the state or a list of an MCP server has changed."""

    type: Literal["state_changed", "tools_list_changed", "prompts_list_changed", "resources_list_changed"]
    name: str
    state: Literal["disabled", "starting", "connected", "error", "needs auth"]
    error: str = ""
    tool_count: int = 0
    prompt_count: int = 0
    resource_count: int = 0


class McpArgument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An argument of a prompt of an MCP server."""

    id: str
    title: str
    description: str = ""
    required: bool = False


class McpPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt that an MCP server offers. `id` is `<server>:<prompt>`, `client_id` is the name of the server."""

    id: str
    prompt_id: str
    client_id: str
    title: str = ""
    description: str = ""
    arguments: list[McpArgument] = []


class PromptText(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `POST …/mcp/get-prompt`."""

    prompt: str


class ResourceContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a resource of an MCP server: a text, or bytes as padded Base64."""

    uri: str
    mime_type: str = ""
    text: str = ""
    blob: bytes = b""


class PendingLogin(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server that requires a login in the user's browser."""

    name: str
    url: str


class LoginAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The URL to open in a browser for the login at an MCP server; absent while no login is under way."""

    auth_url: str = ""
