"""Call Google's and Bedrock's models through pydantic_ai, and translate its events and errors.

The same deadlines apply as in `remote.py`. The libraries' own retries are off.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.api.message import ToolCallPart
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.models.client import Category, ModelEvent, ModelFailure, ModelRequest
from worker.models.extras.clients import make_model
from worker.models.extras.error_mapping import described
from worker.models.extras.event_translation import Translation
from worker.models.extras.messages import to_messages
from worker.models.extras.response_limits import client_options
from worker.models.extras.settings import Extra, settings_for
from worker.models.failures import failure
from worker.models.wires.content import conversation, session_headers
from worker.models.wires.wire import WireContext
from worker.web.tls import shared_tls

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model as LibraryModelType
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

T = TypeVar("T")
_END: Any = object()
CLOSE_S = 2.0


class LibraryHttp:
    """The HTTP client that the models of one configuration share."""

    def __init__(self, limits: Limits, transport: "httpx2.AsyncBaseTransport | None" = None) -> None:
        """`transport` replaces the network."""
        self._limits = limits
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None

    def client(self) -> "httpx2.AsyncClient":
        """Return the client, created on first use."""
        import httpx2

        if self._client is None:
            # The read timeout only backs up our own deadlines, which count events.
            read_s = max(self._limits.model_first_event_s, self._limits.model_progress_s) + 5.0
            self._client = httpx2.AsyncClient(
                verify=shared_tls(),
                timeout=httpx2.Timeout(read_s, connect=self._limits.model_connect_s),
                transport=self._transport,
                **client_options(),
            )
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            async with asyncio.timeout(CLOSE_S):
                await client.aclose()


class LibraryModel:
    """One configured model of Google or Bedrock."""

    def __init__(self, extra: Extra, context: WireContext, http: LibraryHttp, *, limits: Limits, key_hint: str) -> None:
        """`key_hint` says where to put a correct key."""
        self.model = context.model
        self.provider_id = context.provider.id
        self.is_flat_rate = context.provider.flat_rate
        self._extra: Extra = extra
        self._context = context
        self._http = http
        self._limits = limits
        self._key_hint = key_hint
        self._library_model: LibraryModelType | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request once; see `ModelClient`."""
        has_begun = False
        secrets = self._context.secrets

        def fail(category: Category, message: str) -> ModelFailure:
            return failure(category, message, in_stream=has_begun, secrets=secrets)

        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._limits.model_first_event_s):
                    response = await stack.enter_async_context(self._open(request))
                    events = aiter(response)
                    event = await anext(events, _END)
                translation = Translation(self.provider_id)
                while event is not _END:
                    has_begun = True
                    counted = translation.counted(response.usage)
                    if counted is not None:
                        yield counted
                    for translated in translation.events(event):
                        yield translated
                    event = await self._before_progress_deadline(anext(events, _END))
                for event in translation.ends(response.get(), fail):
                    yield event
        except TimeoutError:
            limit_s = self._limits.model_progress_s if has_begun else self._limits.model_first_event_s
            raise fail("timeout", f"the model sent nothing for {limit_s:g} s") from None
        except (ModelFailure, BadInput):
            raise
        except Exception as error:
            # Third-party code: on an unexpected response it raises anything, even AttributeError.
            # Text and chain of such an error may quote the key (L01).
            raise described(error, has_begun, secrets=secrets, key_hint=self._key_hint) from None

    def _open(self, request: ModelRequest) -> Any:
        from pydantic_ai.direct import model_request_stream

        context = self._context
        if self._library_model is None:
            self._library_model = make_model(
                self._extra,
                context.provider,
                context.model,
                http=self._http.client,
                env=context.env,
                limits=self._limits,
            )
        library_model = self._library_model
        turns = conversation(request.messages, context.model, media_in_results=self._extra == "bedrock")
        messages = to_messages(
            turns, system=(context.provider.system_prompt_prefix, request.system), name=library_model.system
        )
        settings: Any = settings_for(
            self._extra,
            context.model,
            context.provider,
            context.selected,
            max_tokens=request.max_tokens,
            headers=session_headers(request.messages),
            caches=context.caches,
        )
        parameters = _parameters(request)
        if self._extra == "bedrock" and not request.tools and _has_calls(request):
            parameters.function_tools.append(_no_tool())
            settings["tool_choice"] = "none"
        return model_request_stream(
            library_model, messages, model_settings=settings, model_request_parameters=parameters
        )

    async def _before_progress_deadline(self, pull: Awaitable[T]) -> T:
        async with asyncio.timeout(self._limits.model_progress_s):
            return await pull


def _parameters(request: ModelRequest) -> "ModelRequestParameters":
    from pydantic_ai.models import ModelRequestParameters

    return ModelRequestParameters(
        function_tools=[_definition(tool.name, tool.description, tool.schema) for tool in request.tools]
    )


def _definition(name: str, description: str, schema: Mapping[str, object]) -> "ToolDefinition":
    from pydantic_ai.tools import ToolDefinition

    return ToolDefinition(name=name, description=description, parameters_json_schema=dict(schema), strict=False)


def _has_calls(request: ModelRequest) -> bool:
    return any(isinstance(part, ToolCallPart) for message in request.messages for part in message.parts)


def _no_tool() -> "ToolDefinition":
    """Return a dummy tool: Bedrock rejects a conversation with tool calls (a summary) if no tool is declared."""
    return _definition("none", "There are no tools now. Do not call this.", {"type": "object", "properties": {}})
