"""MCP servers as clients see them (http-api 2.10, 3.11)."""

from typing import Literal

import msgspec

from protocol.api.file import Moment


class McpInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One MCP server. A state of another name would make the whole answer unreadable for clients."""

    name: str
    state: Literal["disabled", "starting", "connected", "error", "needs auth"]
    connected_at: Moment | msgspec.UnsetType = msgspec.UNSET
    error: str = ""
    tool_count: int = 0
    prompt_count: int = 0
    resource_count: int = 0


class McpEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of the event `mcp_event`."""

    type: Literal["state_changed", "tools_list_changed", "prompts_list_changed", "resources_list_changed"]
    name: str
    state: Literal["disabled", "starting", "connected", "error", "needs auth"]
    error: str = ""
    tool_count: int = 0
    prompt_count: int = 0
    resource_count: int = 0


class McpArgument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An argument of a prompt."""

    id: str
    title: str
    description: str = ""
    required: bool = False


class McpPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt that a server offers. `id` is `<server>:<prompt>`, `client_id` the server's name."""

    id: str
    prompt_id: str
    client_id: str
    title: str = ""
    description: str = ""
    arguments: list[McpArgument] = []


class PromptText(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST …/mcp/get-prompt`."""

    prompt: str


class ResourceContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a resource: a text, or bytes as Base64 with padding."""

    uri: str
    mime_type: str = ""
    text: str = ""
    blob: bytes = b""


class PendingLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A server that waits for a login in the user's browser."""

    name: str
    url: str


class LoginAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the login of a server goes on; absent while none runs."""

    auth_url: str = ""
