"""Talk to an MCP server over one live connection; the only module that uses the library's types.

Importing this takes half a second and tens of megabytes: `connector.py` does so in a thread, when it connects. Every
error of the library leaves this module as McpFailed.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    AudioContent,
    BlobResourceContents,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    Implementation,
    ListRootsResult,
    PaginatedRequestParams,
    Prompt,
    PromptListChangedNotification,
    ResourceLink,
    ResourceListChangedNotification,
    Root,
    ServerCapabilities,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
)
from pydantic import ValidationError

from protocol.api.mcp import McpArgument, McpPrompt, ResourceContent
from protocol.limits import Limits
from worker.mcp.capabilities import (
    McpCapabilities,
    McpFailed,
    Media,
    NeedsLogin,
    RemoteResource,
    RemoteTool,
    ToolCallResult,
    What,
)
from worker.mcp.http_transport import HttpTransport
from worker.mcp.stdio_transport import StdinStream, StdioTransport

PAGES_MAX = 100
TEXT_MAX = 4096  # characters of one description
SCHEMA_MAX_BYTES = 64 * 1024
INSTRUCTIONS_MAX = 16 * 1024
REASON_MAX = 500
_LIST_OF: dict[type, What] = {
    ToolListChangedNotification: "tools",
    PromptListChangedNotification: "prompts",
    ResourceListChangedNotification: "resources",
}
T = TypeVar("T")

# The state of a server says what went wrong; the library's log lines would repeat that, with the server's data.
logging.getLogger("mcp").addHandler(logging.NullHandler())
logging.getLogger("mcp").propagate = False


class _ObservedStream:
    """A stream of the library that sets `ended` when it is over."""

    def __init__(self, inner: Any, ended: asyncio.Event) -> None:
        self._inner = inner
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        message: SessionMessage | Exception = await self._inner.receive()
        return message

    async def aclose(self) -> None:
        self._ended.set()
        await self._inner.aclose()

    def __aiter__(self) -> "_ObservedStream":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            message: SessionMessage | Exception = await self._inner.__anext__()
        except BaseException:
            self._ended.set()
            raise
        return message

    async def __aenter__(self) -> "_ObservedStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def stdio_streams(transport: StdioTransport, write: Callable[[bytes], None]) -> AbstractAsyncContextManager[Any]:
    """Return the streams of a child process."""

    @asynccontextmanager
    async def streams() -> AsyncIterator[Any]:
        yield transport, StdinStream(write)

    return streams()


def http_streams(transport: HttpTransport, kind: str, limits: Limits) -> AbstractAsyncContextManager[Any]:
    """Return the streams of a URL: `kind` is `http` (streamable HTTP) or `sse` (the older protocol)."""
    if kind == "sse":
        return sse_client(
            transport.url,
            timeout=transport.timeout_s,
            sse_read_timeout=limits.tool_max_s,
            httpx_client_factory=lambda headers=None, timeout=None, auth=None: transport.client(timeout),
        )

    @asynccontextmanager
    async def streams() -> AsyncIterator[Any]:
        async with (
            transport.client() as client,
            streamable_http_client(
                transport.url, http_client=client, max_sse_event_size=limits.mcp_message_max_bytes
            ) as opened,
        ):
            yield opened

    return streams()


@asynccontextmanager
async def open_session(
    streams: AbstractAsyncContextManager[Any], *, root: str, on_changed: Callable[[What], None], limits: Limits
) -> AsyncIterator["LiveSession"]:
    """Connect and initialize a session. Raises McpFailed.

    The caller sets the time limit, and must leave the block in the task that entered it. `root` is the URI of the
    workspace, for a server that asks for the roots it may work in.
    """

    async def on_message(message: object) -> None:
        if (what := _LIST_OF.get(type(message))) is not None:
            on_changed(what)

    async def roots(context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root.model_validate({"uri": root, "name": unquote(root.rpartition("/")[2])})])

    ended = asyncio.Event()
    with library_errors():
        async with (
            streams as (read, write),
            ClientSession(
                _ObservedStream(read, ended),
                write,
                message_handler=on_message,
                list_roots_callback=roots,
                client_info=Implementation(name="bulkhead", version="1.0"),
            ) as session,
        ):
            initialized = await session.initialize()
            yield LiveSession(session, initialized.capabilities, initialized.instructions or "", ended, limits)


class LiveSession:
    """Implements `capabilities.McpSession`. `ended` is set when the connection is over."""

    def __init__(
        self,
        session: ClientSession,
        capabilities: ServerCapabilities,
        instructions: str,
        ended: asyncio.Event,
        limits: Limits,
    ) -> None:
        self._session = session
        self._server_capabilities = capabilities
        self._instructions = instructions.strip()[:INSTRUCTIONS_MAX]
        self.ended = ended
        self._limits = limits

    async def ping(self) -> None:
        with library_errors():
            await self._session.send_ping()

    async def capabilities(self) -> McpCapabilities:
        return McpCapabilities(await self.tools(), await self.prompts(), await self.resources(), self._instructions)

    async def tools(self) -> tuple[RemoteTool, ...]:
        if self._server_capabilities.tools is None:
            return ()
        tools = await self._pages(self._session.list_tools, "tools", self._limits.mcp_tools_max)
        return tuple(
            RemoteTool(tool.name, (tool.description or tool.title or tool.name)[:TEXT_MAX], schema)
            for tool in tools
            if (schema := _schema(tool.input_schema)) is not None
        )

    async def prompts(self) -> tuple[McpPrompt, ...]:
        if self._server_capabilities.prompts is None:
            return ()
        prompts = await self._pages(self._session.list_prompts, "prompts", self._limits.mcp_tools_max)
        return tuple(_prompt(prompt) for prompt in prompts)

    async def resources(self) -> tuple[RemoteResource, ...]:
        if self._server_capabilities.resources is None:
            return ()
        resources = await self._pages(self._session.list_resources, "resources", 4 * self._limits.mcp_tools_max)
        return tuple(
            RemoteResource(str(one.uri), one.title or one.name, (one.description or "")[:TEXT_MAX], one.mime_type or "")
            for one in resources
        )

    async def call(self, tool: str, args: dict[str, object]) -> ToolCallResult:
        # Not `call_tool`: it validates the result against the server's schema, on the loop and without a time limit.
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=args))
        with library_errors():
            result = await self._session.send_request(request, CallToolResult)
        return _call_result(result)

    async def prompt(self, prompt: str, args: dict[str, str]) -> str:
        with library_errors():
            result = await self._session.get_prompt(prompt, arguments=args)
        return "\n".join(text for message in result.messages if (text := _text(message.content)))

    async def read(self, uri: str) -> list[ResourceContent]:
        with library_errors():
            result = await self._session.read_resource(uri)
        return [_content(part) for part in result.contents]

    async def _pages(self, request: Callable[..., Awaitable[Any]], attribute: str, count_max: int) -> list[Any]:
        items: list[Any] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            with library_errors():
                page = await request(params=PaginatedRequestParams(cursor=cursor))
            items += getattr(page, attribute)
            cursor = page.next_cursor
            if not cursor or len(items) >= count_max:
                break
        return items[:count_max]


@contextmanager
def library_errors() -> Iterator[None]:
    """Turn every error of the library into McpFailed. It documents few of its errors, and may raise them in groups."""
    try:
        yield
    except McpFailed:
        raise
    except Exception as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> McpFailed:
    match error:
        case McpFailed():
            return error
        case BaseExceptionGroup():
            inner = [_failed(one) for one in error.exceptions]
            return next((one for one in inner if isinstance(one, NeedsLogin)), inner[0])
        case MCPError():
            is_lost = error.code == CONNECTION_CLOSED or "Session terminated" in error.message
            return McpFailed(error.message[:REASON_MAX] or f"error {error.code}", is_lost=is_lost)
        case ValidationError():
            fields = ", ".join(".".join(str(name) for name in one["loc"]) for one in error.errors()[:3])
            return McpFailed(f"its response does not follow the protocol, at {fields}"[:REASON_MAX])
        case _:
            return McpFailed(f"{type(error).__name__}: {error}"[:REASON_MAX].rstrip(": "), is_lost=True)


def _schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema as models accept it, an object type; None if it is another type, too large or not JSON."""
    whole = {"type": "object", "properties": {}, **schema}
    if whole["type"] != "object" or not isinstance(whole["properties"], dict):
        return None
    try:
        return whole if len(msgspec.json.encode(whole)) <= SCHEMA_MAX_BYTES else None
    except (TypeError, ValueError, RecursionError, UnicodeError):
        return None


def _prompt(prompt: Prompt) -> McpPrompt:
    """Convert a prompt; the service fills in the server's name."""
    arguments = [
        McpArgument(
            id=one.name,
            title=one.title or one.name,
            description=(one.description or "")[:TEXT_MAX],
            required=bool(one.required),
        )
        for one in prompt.arguments or []
    ]
    return McpPrompt(
        id=prompt.name,
        prompt_id=prompt.name,
        client_id="",
        title=prompt.title or prompt.name,
        description=(prompt.description or "")[:TEXT_MAX],
        arguments=arguments,
    )


def _call_result(result: CallToolResult) -> ToolCallResult:
    texts = [text for part in result.content if (text := _text(part))]
    if not texts and result.structured_content is not None:
        texts = [msgspec.json.encode(result.structured_content).decode()]
    media = _media(result.content, ImageContent, "image") or _media(result.content, AudioContent, "audio")
    return ToolCallResult("\n".join(texts), media, result.is_error)


def _media(parts: Sequence[object], kind: type[ImageContent] | type[AudioContent], name: Any) -> Media | None:
    return next((Media(name, part.data, part.mime_type) for part in parts if isinstance(part, kind)), None)


def _text(part: object) -> str:
    match part:
        case TextContent():
            return part.text
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
        case EmbeddedResource(resource=resource):
            return f"[{resource.mime_type or 'binary'} resource {resource.uri}]"
        case ResourceLink():
            return f"{part.name}: {part.uri}"
        case _:
            return ""


def _content(part: TextResourceContents | BlobResourceContents) -> ResourceContent:
    mime_type = part.mime_type or ""
    if isinstance(part, TextResourceContents):
        return ResourceContent(uri=str(part.uri), mime_type=mime_type, text=part.text)
    try:
        blob = base64.b64decode(part.blob, validate=True)
    except (binascii.Error, ValueError):
        raise McpFailed(f"the content of {part.uri} is not Base64") from None
    return ResourceContent(uri=str(part.uri), mime_type=mime_type, blob=blob)
