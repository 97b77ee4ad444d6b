"""Types for what a connected MCP server offers, independent of the MCP library."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from protocol.api.mcp import McpPrompt, ResourceContent

What = Literal["tools", "prompts", "resources"]


class McpFailed(Exception):
    """A request to a server failed; the text says why. `is_lost`: the connection can no longer be used."""

    def __init__(self, reason: str, *, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.is_lost = is_lost


class NeedsLogin(McpFailed):
    """The server requires an access token, and there is no valid one."""


@dataclass(frozen=True)
class RemoteTool:
    """A tool under the name that the server gives it."""

    name: str
    description: str
    schema: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class RemoteResource:
    """A resource that the server lists."""

    uri: str
    name: str
    description: str
    mime_type: str


@dataclass(frozen=True)
class Media:
    """An image or an audio clip, Base64-encoded."""

    kind: Literal["image", "audio"]
    data: str
    mime_type: str


@dataclass(frozen=True)
class ToolCallResult:
    """The result of a tool call: all texts joined by newlines, and the first image or else the first audio clip."""

    text: str
    media: Media | None
    is_error: bool


@dataclass(frozen=True)
class McpCapabilities:
    """The tools, prompts, resources and instructions of one server."""

    tools: tuple[RemoteTool, ...] = ()
    prompts: tuple[McpPrompt, ...] = ()
    resources: tuple[RemoteResource, ...] = ()
    instructions: str = ""


class McpSession(Protocol):
    """One live connection. Every method raises McpFailed; the caller sets the time limit."""

    async def ping(self) -> None:
        """Check that the server answers."""
        ...

    async def tools(self) -> tuple[RemoteTool, ...]:
        """List the tools."""
        ...

    async def prompts(self) -> tuple[McpPrompt, ...]:
        """List the prompts."""
        ...

    async def resources(self) -> tuple[RemoteResource, ...]:
        """List the resources."""
        ...

    async def capabilities(self) -> McpCapabilities:
        """List the tools, prompts and resources."""
        ...

    async def call(self, tool: str, args: dict[str, object]) -> ToolCallResult:
        """Call a tool and return its result."""
        ...

    async def prompt(self, prompt: str, args: dict[str, str]) -> str:
        """Return the text of a prompt."""
        ...

    async def read(self, uri: str) -> list[ResourceContent]:
        """Return the parts of a resource."""
        ...
