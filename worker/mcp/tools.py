"""Tools for the model: call the tools of MCP servers, list their resources, and read one."""

import base64
import binascii
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from worker.mcp.capabilities import McpFailed, Media, RemoteTool
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
"""Tools of Docker's gateway that only control the gateway itself; they need no permission."""


class ServerLookup(Protocol):
    """Finds MCP servers by name."""

    def server(self, name: str) -> McpServer:
        """Return the server of that name. Raises NotFound."""
        ...


class McpTool:
    """Calls one tool of one server."""

    def __init__(self, server: McpServer, tool: RemoteTool) -> None:
        self._server = server
        self._tool = tool.name
        self.spec = ToolSpec(
            tool_name(server.name, tool.name), tool.description, tool.schema, parallel=False, effect="execute"
        )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """Ask for permission and call the tool. Raises ToolError."""
        name = self.spec.name
        if name not in FREE:
            await context.permit(
                action="execute",
                path=str(context.workspace),
                description=f"Call the tool {self._tool} of the MCP server {self._server.name}",
                params=args,
            )
        try:
            result = await self._server.ask(lambda session: session.call(self._tool, args))
        except McpFailed as error:
            raise ToolError(f"cannot call {name}: {error}") from None
        text = _shortened(result.text, context)
        if result.media is None or result.is_error:
            return ToolResult(text or "(no output)", is_error=result.is_error)
        return _with_media(name, text, result.media, context)


class ResourcesArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `list_mcp_resources`."""

    mcp_name: Annotated[str, Meta(description="The MCP server whose resources are listed")]


class ResourceArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `read_mcp_resource`."""

    mcp_name: Annotated[str, Meta(description="The MCP server that has the resource")]
    uri: Annotated[str, Meta(description="The URI of the resource, as list_mcp_resources shows it")]


class ListResources:
    """Lists the resources of a server."""

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
            resources = await server.ask(lambda session: session.resources())
        except McpFailed as error:
            raise ToolError(f"cannot list the resources of {name}: {error}") from None
        lines = []
        for resource in resources:
            details = ", ".join(part for part in (resource.name, resource.mime_type, resource.description) if part)
            lines.append(f"{resource.uri} ({details})" if details else resource.uri)
        return ToolResult(_shortened("\n".join(lines), context) or f"{name} has no resources")


class ReadResource:
    """Reads a resource of a server."""

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
        given = read_args(ResourceArgs, args)
        name, uri = given.mcp_name.strip(), given.uri.strip()
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
        text = _shortened("\n".join(texts), context)
        image = next((part for part in parts if part.blob and part.mime_type.startswith("image/")), None)
        if image is None:
            return ToolResult(text or f"{uri} is empty")
        media = Media("image", base64.b64encode(image.blob).decode(), image.mime_type)
        return _with_media(self.spec.name, text, media, context)


def _shortened(text: str, context: ToolContext) -> str:
    """Return `text` cut to the limits of tool output: its head and its tail."""
    buffer = OutputBuffer(context.limits.tool_output_head_bytes, context.limits.tool_output_tail_bytes)
    buffer.feed(text.encode("utf-8", "replace"))
    return buffer.text()


def _with_media(name: str, text: str, media: Media, context: ToolContext) -> ToolResult:
    """Return a result with media. Media that cannot be shown is an error, unless there is a text as well."""
    problem = _problem(media, context)
    if problem and not text:
        raise ToolError(f"cannot show the result of {name}: {problem}")
    if problem:
        return ToolResult(f"{text}\n({media.kind} left out: {problem})")
    return ToolResult(text or f"{media.kind} of type {media.mime_type}", data=media.data, mime_type=media.mime_type)


def _problem(media: Media, context: ToolContext) -> str:
    if media.kind == "image" and not context.takes_images:
        return "it is an image, and this model cannot see images"
    if len(media.data) > context.limits.image_max_bytes * 4 // 3 + 4:
        return f"it is larger than {context.limits.image_max_bytes} bytes"
    try:
        base64.b64decode(media.data, validate=True)
    except (binascii.Error, ValueError):
        return "its data is not valid Base64"
    return ""
