"""What a connected MCP server offers, in our own words, so that nothing else has to know the library. ◇"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from protocol.api.mcp import McpPrompt, ResourceContent

What = Literal["tools", "prompts", "resources"]


class McpFailed(Exception):
    """A server did not do what it was asked; the text says why. `is_lost`: the connection is of no more use."""

    def __init__(self, reason: str, *, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.is_lost = is_lost


class NeedsLogin(McpFailed):
    """The server wants a token that we do not have."""


@dataclass(frozen=True)
class ToolOffer:
    """A tool by the server's own name."""

    name: str
    description: str
    schema: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ResourceOffer:
    """A resource that can be read."""

    uri: str
    name: str
    description: str
    mime_type: str


@dataclass(frozen=True)
class Media:
    """An image or a sound as Base64."""

    kind: Literal["image", "audio"]
    data: str
    mime_type: str


@dataclass(frozen=True)
class Outcome:
    """What a tool answered: its texts, joined, and its first image, or else its first sound."""

    text: str
    media: Media | None
    is_error: bool


@dataclass(frozen=True)
class Offer:
    """All that a server offers."""

    tools: tuple[ToolOffer, ...] = ()
    prompts: tuple[McpPrompt, ...] = ()
    resources: tuple[ResourceOffer, ...] = ()
    instructions: str = ""


class Session(Protocol):
    """One live connection. Every method raises McpFailed; the caller bounds them."""

    async def ping(self) -> None:
        """Is it there?"""
        ...

    async def tools(self) -> tuple[ToolOffer, ...]:
        """Ask for the tools."""
        ...

    async def prompts(self) -> tuple[McpPrompt, ...]:
        """Ask for the prompts."""
        ...

    async def resources(self) -> tuple[ResourceOffer, ...]:
        """Ask for the resources."""
        ...

    async def offer(self) -> Offer:
        """Ask for everything."""
        ...

    async def call(self, tool: str, args: dict[str, object]) -> Outcome:
        """Call a tool."""
        ...

    async def prompt(self, prompt: str, args: dict[str, str]) -> str:
        """The text of a prompt."""
        ...

    async def read(self, uri: str) -> list[ResourceContent]:
        """The parts of a resource."""
        ...
