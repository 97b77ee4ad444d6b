"""Call a model through pydantic_ai and translate its events and errors.

Two deadlines apply: until the first event, and between two events. Both count events of the model and not bytes, to
detect a server that only keeps the connection alive (L03). The libraries' own retries are off.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.api.message import ToolCallPart
from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.models.client import Category, ModelEvent, ModelFailure, ModelRequest
from worker.models.error_mapping import described
from worker.models.event_translation import Translation
from worker.models.failures import failure
from worker.models.message_format import to_wire
from worker.models.request_options import Wire, settings_for

if TYPE_CHECKING:
    from pydantic_ai.models import Model as WireModel
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

T = TypeVar("T")
_END: Any = object()


class RemoteModel:
    """One configured model of one provider."""

    def __init__(
        self,
        *,
        wire: Wire,
        model: Model,
        provider: ProviderConfig,
        selected: SelectedModel,
        make: Callable[[], "WireModel"],
        limits: Limits,
        secrets: tuple[str, ...],
        key_hint: str,
        caches: bool,
    ) -> None:
        """`make` builds the model of pydantic_ai, on first use. `secrets` never appear in a failure's text; `key_hint`
        says where to put a correct key. `caches`: cache markers may be sent.

        It takes nine parameters because the registry computes all of them; the configuration itself is not read here.
        """
        self.model = model
        self.provider_id = provider.id
        self.is_flat_rate = provider.flat_rate
        self._wire = wire
        self._provider = provider
        self._selected = selected
        self._make = make
        self._limits = limits
        self._secrets = secrets
        self._key_hint = key_hint
        self._caches = caches
        self._wire_model: WireModel | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request once; see `ModelClient`."""
        has_begun = False

        def fail(category: Category, message: str) -> ModelFailure:
            return failure(category, message, in_stream=has_begun, secrets=self._secrets)

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
            raise described(error, has_begun, secrets=self._secrets, key_hint=self._key_hint) from None

    def _open(self, request: ModelRequest) -> Any:
        from pydantic_ai.direct import model_request_stream

        if self._wire_model is None:
            self._wire_model = self._make()
        wire_model = self._wire_model
        messages = to_wire(
            request.messages,
            system=(self._provider.system_prompt_prefix, request.system),
            wire=self._wire,
            wire_name=wire_model.system,
            model=self.model,
        )
        settings: Any = settings_for(
            self._wire,
            self.model,
            self._provider,
            self._selected,
            profile=wire_model.profile,
            max_tokens=request.max_tokens,
            headers=_headers(request),
            caches=self._caches,
        )
        parameters = self._parameters(request)
        if self._wire == "bedrock" and not request.tools and _has_calls(request):
            parameters.function_tools.append(_no_tool())
            settings["tool_choice"] = "none"
        return model_request_stream(wire_model, messages, model_settings=settings, model_request_parameters=parameters)

    def _parameters(self, request: ModelRequest) -> "ModelRequestParameters":
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.tools import ToolDefinition

        # Strict schemas are left to OpenAI's own service; local servers fail on them.
        strict = None if self._provider.type in ("openai", "azure") else False
        return ModelRequestParameters(
            function_tools=[
                ToolDefinition(
                    name=tool.name,
                    description=tool.description,
                    parameters_json_schema=dict(tool.schema),
                    strict=strict,
                )
                for tool in request.tools
            ]
        )

    async def _before_progress_deadline(self, pull: Awaitable[T]) -> T:
        async with asyncio.timeout(self._limits.model_progress_s):
            return await pull


def _has_calls(request: ModelRequest) -> bool:
    return any(isinstance(part, ToolCallPart) for message in request.messages for part in message.parts)


def _no_tool() -> "ToolDefinition":
    """Return a dummy tool: Bedrock rejects a conversation with tool calls (a summary) if no tool is declared."""
    from pydantic_ai.tools import ToolDefinition

    return ToolDefinition(
        name="none",
        description="There are no tools now. Do not call this.",
        parameters_json_schema={"type": "object", "properties": {}},
    )


def _headers(request: ModelRequest) -> dict[str, str]:
    """Return headers that route a conversation to the provider's cache of it; they do not reveal the session's id."""
    import xxhash

    session_id = next((message.session_id for message in request.messages if message.session_id), "")
    if not session_id:
        return {}
    name = xxhash.xxh3_64_hexdigest(session_id.encode())
    return {"x-session-id": name, "x-session-affinity": name}
