"""One live connection to an MCP server, and the only place that knows the library's types.

Importing this takes half a second and tens of megabytes: only `server.py` does so, in a thread, when it connects.
Whatever the library raises leaves here as McpFailed.
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
from worker.mcp.capabilities import McpFailed, Media, NeedsLogin, Offer, Outcome, ResourceOffer, ToolOffer, What
from worker.mcp.http_transport import HttpLine
from worker.mcp.stdio_transport import Input, Lines

PAGES_MAX = 100
TEXT_MAX = 4096  # of one description
SCHEMA_MAX_BYTES = 64 * 1024
INSTRUCTIONS_MAX = 16 * 1024
REASON_MAX = 500
_CHANGES: dict[type, What] = {
    ToolListChangedNotification: "tools",
    PromptListChangedNotification: "prompts",
    ResourceListChangedNotification: "resources",
}
T = TypeVar("T")

# What goes wrong with a server is in its state; the library's own lines would only repeat it, with its data.
logging.getLogger("mcp").addHandler(logging.NullHandler())
logging.getLogger("mcp").propagate = False


class _Watched:
    """A stream of the library that also tells when it is over."""

    def __init__(self, inner: Any, ended: asyncio.Event) -> None:
        self._inner = inner
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        found: SessionMessage | Exception = await self._inner.receive()
        return found

    async def aclose(self) -> None:
        self._ended.set()
        await self._inner.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            found: SessionMessage | Exception = await self._inner.__anext__()
        except BaseException:
            self._ended.set()
            raise
        return found

    async def __aenter__(self) -> "_Watched":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def over_pipes(lines: Lines, write: Callable[[bytes], None]) -> AbstractAsyncContextManager[Any]:
    """The streams of a child."""

    @asynccontextmanager
    async def streams() -> AsyncIterator[Any]:
        yield lines, Input(write)

    return streams()


def over_network(line: HttpLine, kind: str, limits: Limits) -> AbstractAsyncContextManager[Any]:
    """The streams of an address: `http` is streamable HTTP, `sse` the older way."""
    if kind == "sse":
        return sse_client(
            line.url,
            timeout=line.connect_s,
            sse_read_timeout=limits.tool_max_s,
            httpx_client_factory=lambda headers=None, timeout=None, auth=None: line.client(timeout),
        )

    @asynccontextmanager
    async def streams() -> AsyncIterator[Any]:
        async with (
            line.client() as client,
            streamable_http_client(
                line.url, http_client=client, max_sse_event_size=limits.mcp_message_max_bytes
            ) as made,
        ):
            yield made

    return streams()


@asynccontextmanager
async def open_session(
    streams: AbstractAsyncContextManager[Any], *, root: str, on_changed: Callable[[What], None], limits: Limits
) -> AsyncIterator["LiveSession"]:
    """Connect and introduce ourselves. The caller bounds it, and leaves in the task that entered. Raises McpFailed.

    `root` is the URI of the workspace, for a server that asks where it may work.
    """

    async def hear(message: object) -> None:
        if (what := _CHANGES.get(type(message))) is not None:
            on_changed(what)

    async def roots(context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root.model_validate({"uri": root, "name": unquote(root.rpartition("/")[2])})])

    ended = asyncio.Event()
    with foreign_errors():
        async with (
            streams as (read, write),
            ClientSession(
                _Watched(read, ended),
                write,
                message_handler=hear,
                list_roots_callback=roots,
                client_info=Implementation(name="bulkhead", version="1.0"),
            ) as session,
        ):
            hello = await session.initialize()
            yield LiveSession(session, hello.capabilities, hello.instructions or "", ended, limits)


class LiveSession:
    """See `offer.Session`."""

    def __init__(
        self,
        session: ClientSession,
        capabilities: ServerCapabilities,
        instructions: str,
        ended: asyncio.Event,
        limits: Limits,
    ) -> None:
        self._session = session
        self._can = capabilities
        self._instructions = instructions.strip()[:INSTRUCTIONS_MAX]
        self.ended = ended
        self._limits = limits

    async def ping(self) -> None:
        with foreign_errors():
            await self._session.send_ping()

    async def offer(self) -> Offer:
        return Offer(await self.tools(), await self.prompts(), await self.resources(), self._instructions)

    async def tools(self) -> tuple[ToolOffer, ...]:
        if self._can.tools is None:
            return ()
        found = await self._pages(self._session.list_tools, "tools", self._limits.mcp_tools_max)
        return tuple(
            ToolOffer(tool.name, (tool.description or tool.title or tool.name)[:TEXT_MAX], schema)
            for tool in found
            if (schema := _schema(tool.input_schema)) is not None
        )

    async def prompts(self) -> tuple[McpPrompt, ...]:
        if self._can.prompts is None:
            return ()
        found = await self._pages(self._session.list_prompts, "prompts", self._limits.mcp_tools_max)
        return tuple(_prompt(prompt) for prompt in found)

    async def resources(self) -> tuple[ResourceOffer, ...]:
        if self._can.resources is None:
            return ()
        found = await self._pages(self._session.list_resources, "resources", 4 * self._limits.mcp_tools_max)
        return tuple(
            ResourceOffer(str(one.uri), one.title or one.name, (one.description or "")[:TEXT_MAX], one.mime_type or "")
            for one in found
        )

    async def call(self, tool: str, args: dict[str, object]) -> Outcome:
        # Not `call_tool`: that checks the answer against the server's own schema, on the loop, for as long as it takes.
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=args))
        with foreign_errors():
            result = await self._session.send_request(request, CallToolResult)
        return _outcome(result)

    async def prompt(self, prompt: str, args: dict[str, str]) -> str:
        with foreign_errors():
            result = await self._session.get_prompt(prompt, arguments=args)
        return "\n".join(text for message in result.messages if (text := _text(message.content)))

    async def read(self, uri: str) -> list[ResourceContent]:
        with foreign_errors():
            result = await self._session.read_resource(uri)
        return [_content(part) for part in result.contents]

    async def _pages(self, ask: Callable[..., Awaitable[Any]], what: str, most: int) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            with foreign_errors():
                page = await ask(params=PaginatedRequestParams(cursor=cursor))
            found += getattr(page, what)
            cursor = page.next_cursor
            if not cursor or len(found) >= most:
                break
        return found[:most]


@contextmanager
def foreign_errors() -> Iterator[None]:
    """What the library raises becomes McpFailed; it documents few of its errors, and they may come in groups."""
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
            where = ", ".join(".".join(str(name) for name in one["loc"]) for one in error.errors()[:3])
            return McpFailed(f"its answer is not what the protocol says: {where}"[:REASON_MAX])
        case _:
            return McpFailed(f"{type(error).__name__}: {error}"[:REASON_MAX].rstrip(": "), is_lost=True)


def _schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """A schema that models take: an object. None for one that is too large, or no JSON."""
    whole = {"type": "object", "properties": {}, **schema}
    if whole["type"] != "object" or not isinstance(whole["properties"], dict):
        return None
    try:
        return whole if len(msgspec.json.encode(whole)) <= SCHEMA_MAX_BYTES else None
    except (TypeError, ValueError, RecursionError, UnicodeError):
        return None


def _prompt(prompt: Prompt) -> McpPrompt:
    """Without the server's name, which the service puts in."""
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


def _outcome(result: CallToolResult) -> Outcome:
    texts = [text for part in result.content if (text := _text(part))]
    if not texts and result.structured_content is not None:
        texts = [msgspec.json.encode(result.structured_content).decode()]
    media = _media(result.content, ImageContent, "image") or _media(result.content, AudioContent, "audio")
    return Outcome("\n".join(texts), media, result.is_error)


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
