"""What the model can do with MCP servers: call their tools, see which resources they have, and read one."""

import base64
import binascii
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from worker.mcp.capabilities import McpFailed, Media, ToolOffer
from worker.mcp.server import McpServer
from worker.mcp.settings import tool_name
from worker.processes.output_buffer import OutputBuffer
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

FREE = frozenset(
    {
        *("mcp_docker_mcp-find", "mcp_docker_mcp-add", "mcp_docker_mcp-remove", "mcp_docker_mcp-config-set"),
        "mcp_docker_code-mode",
    }
)
"""Tools of Docker's gateway that only steer the gateway itself: nobody is asked."""


class ServerLookup(Protocol):
    """Finds MCP servers by name."""

    def server(self, name: str) -> McpServer:
        """Return the server of that name. Raises NotFound."""
        ...


class McpTool:
    """One tool of one server, as the server describes it."""

    def __init__(self, server: McpServer, offer: ToolOffer) -> None:
        self._server = server
        self._tool = offer.name
        self.spec = ToolSpec(
            tool_name(server.name, offer.name), offer.description, offer.schema, parallel=False, effect="execute"
        )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """Call it."""
        name = self.spec.name
        if name not in FREE:
            await context.permit(
                action="execute",
                path=str(context.workspace),
                description=f"Call the tool {self._tool} of the MCP server {self._server.name}",
                params=args,
            )
        try:
            outcome = await self._server.ask(lambda session: session.call(self._tool, args))
        except McpFailed as error:
            raise ToolError(f"cannot call {name}: {error}") from None
        text = _cut(outcome.text, context)
        if outcome.media is None or outcome.is_error:
            return ToolResult(text or "(no output)", is_error=outcome.is_error)
        return _with_media(name, text, outcome.media, context)


class ResourcesArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `list_mcp_resources`."""

    mcp_name: Annotated[str, Meta(description="The MCP server whose resources are listed")]


class ResourceArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `read_mcp_resource`."""

    mcp_name: Annotated[str, Meta(description="The MCP server that has the resource")]
    uri: Annotated[str, Meta(description="The URI of the resource, as list_mcp_resources shows it")]


class ListResources:
    """Which resources a server has."""

    spec = ToolSpec(
        "list_mcp_resources",
        description_of(__file__, "list_mcp_resources"),
        schema_of(ResourcesArgs),
        parallel=True,
        effect="read",
    )

    def __init__(self, servers: ServerLookup) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `list_mcp_resources.md`."""
        name = read_args(ResourcesArgs, args).mcp_name.strip()
        if not name:
            raise ToolError("cannot list resources: mcp_name is empty; name an MCP server")
        server = self._servers.server(name)
        await context.permit(
            action="list",
            path=str(context.workspace / name),
            description=f"List the resources of the MCP server {name}",
            params={"mcp_name": name},
        )
        try:
            found = await server.ask(lambda session: session.resources())
        except McpFailed as error:
            raise ToolError(f"cannot list the resources of {name}: {error}") from None
        lines = []
        for one in found:
            about = ", ".join(part for part in (one.name, one.mime_type, one.description) if part)
            lines.append(f"{one.uri} ({about})" if about else one.uri)
        return ToolResult(_cut("\n".join(lines), context) or f"{name} has no resources")


class ReadResource:
    """What a resource holds."""

    spec = ToolSpec(
        "read_mcp_resource",
        description_of(__file__, "read_mcp_resource"),
        schema_of(ResourceArgs),
        parallel=True,
        effect="read",
    )

    def __init__(self, servers: ServerLookup) -> None:
        self._servers = servers

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `read_mcp_resource.md`."""
        wanted = read_args(ResourceArgs, args)
        name, uri = wanted.mcp_name.strip(), wanted.uri.strip()
        if not name or not uri:
            raise ToolError("cannot read a resource: mcp_name or uri is empty; both are needed")
        server = self._servers.server(name)
        await context.permit(
            action="read",
            path=str(context.workspace / uri),
            description=f"Read the resource {uri} of the MCP server {name}",
            params={"mcp_name": name, "uri": uri},
        )
        try:
            parts = await server.ask(lambda session: session.read(uri))
        except McpFailed as error:
            raise ToolError(f"cannot read {uri} of {name}: {error}") from None
        texts = [part.text or f"[{part.mime_type or 'binary'}, {len(part.blob)} bytes]" for part in parts]
        text = _cut("\n".join(texts), context)
        image = next((part for part in parts if part.blob and part.mime_type.startswith("image/")), None)
        if image is None:
            return ToolResult(text or f"{uri} is empty")
        media = Media("image", base64.b64encode(image.blob).decode(), image.mime_type)
        return _with_media(self.spec.name, text, media, context)


def _cut(text: str, context: ToolContext) -> str:
    """`text` in the bounds of what a tool may print."""
    kept = OutputBuffer(context.limits.tool_output_head_bytes, context.limits.tool_output_tail_bytes)
    kept.feed(text.encode("utf-8", "replace"))
    return kept.text()


def _with_media(name: str, text: str, media: Media, context: ToolContext) -> ToolResult:
    """A result that shows something; what cannot be shown is an error, unless there is a text as well."""
    problem = _problem(media, context)
    if problem and not text:
        raise ToolError(f"cannot show the answer of {name}: {problem}")
    if problem:
        return ToolResult(f"{text}\n({media.kind} left out: {problem})")
    about = text or f"{media.kind} of type {media.mime_type}"
    return ToolResult(about, data=media.data, mime_type=media.mime_type)


def _problem(media: Media, context: ToolContext) -> str:
    if media.kind == "image" and not context.takes_images:
        return "it is an image, and this model cannot see images"
    if len(media.data) > context.limits.image_max_bytes * 4 // 3 + 4:
        return f"it is larger than {context.limits.image_max_bytes} bytes"
    try:
        base64.b64decode(media.data, validate=True)
    except (binascii.Error, ValueError):
        return "it is not Base64"
    return ""
