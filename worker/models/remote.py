"""A model behind an HTTP API: one request through pydantic_ai, its events as ours, its errors as ModelFailure.

Two deadlines hold, both on events of the model and not on bytes, so that a server that only keeps the connection
alive is noticed (L03): until the first event, and between two events. The libraries' own retries are off.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.limits import Limits
from protocol.shapes.message import FinishReason
from protocol.shapes.provider import Model, ProviderConfig, SelectedModel
from worker.models.client import (
    Category,
    Finished,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.dialect import to_wire
from worker.models.failures import category_of_status, failure

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model as WireModel
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.settings import ModelSettings

T = TypeVar("T")
_EFFORTS = frozenset({"minimal", "low", "medium", "high", "xhigh", "max"})
_REASONS: dict[str, FinishReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_call": "tool_use",
    "content_filter": "content_filter",
}
_END: Any = object()


class RemoteModel:
    """One configured model of one provider."""

    def __init__(
        self,
        *,
        model: Model,
        provider: ProviderConfig,
        selected: SelectedModel,
        make: Callable[[str], "WireModel"],
        limits: Limits,
        secrets: tuple[str, ...],
    ) -> None:
        """`make` builds the model of pydantic_ai, on first use. `secrets` never appear in a failure's text."""
        self.model = model
        self.provider_id = provider.id
        self.is_flat_rate = provider.flat_rate
        self._provider = provider
        self._selected = selected
        self._make = make
        self._limits = limits
        self._secrets = secrets
        self._wire_model: WireModel | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Ask once; see `ModelClient`."""
        has_begun = False
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._limits.model_first_event_s):
                    response = await stack.enter_async_context(self._open(request))
                    events = aiter(response)
                    event = await anext(events, _END)
                ids: dict[int, str] = {}
                while event is not _END:
                    has_begun = True
                    ours = self._translated(event, ids)
                    if ours is not None:
                        yield ours
                    event = await self._within(anext(events, _END))
                for ended in self._ends(response.get(), ids):
                    yield ended
        except TimeoutError:
            limit_s = self._limits.model_progress_s if has_begun else self._limits.model_first_event_s
            raise self._failure("timeout", f"the model sent nothing for {limit_s:g} s", has_begun) from None
        except ModelFailure:
            raise
        except Exception as error:
            # The border to foreign libraries: on a strange answer they raise anything from AttributeError upwards.
            raise self._mapped(error, has_begun) from None  # their text and chain may quote the key (L01)

    def _open(self, request: ModelRequest) -> Any:
        from pydantic_ai.direct import model_request_stream

        if self._wire_model is None:
            self._wire_model = self._make(self.model.id)
        messages = to_wire(
            request.messages,
            system="\n\n".join(text for text in (self._provider.system_prompt_prefix, request.system) if text),
            wire_name=self._wire_model.system,
            takes_media=self.model.supports_attachments,
        )
        return model_request_stream(
            self._wire_model,
            messages,
            model_settings=self._settings(request),
            model_request_parameters=self._parameters(request),
        )

    def _parameters(self, request: ModelRequest) -> "ModelRequestParameters":
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.tools import ToolDefinition

        # Strict schemas are left to OpenAI's own service; local servers fail on them.
        strict = None if self._provider.type == "openai" else False
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

    def _settings(self, request: ModelRequest) -> "ModelSettings":
        selected = self._selected
        settings: dict[str, Any] = {
            "temperature": selected.temperature,
            "top_p": selected.top_p,
            "top_k": selected.top_k,
            "frequency_penalty": selected.frequency_penalty,
            "presence_penalty": selected.presence_penalty,
            "extra_body": self._provider.extra_body or None,
            "max_tokens": request.max_tokens or selected.max_tokens or self.model.default_max_tokens or None,
        }
        if self.model.can_reason:
            effort = selected.reasoning_effort or self.model.default_reasoning_effort
            settings["thinking"] = effort if effort in _EFFORTS else (True if selected.think else None)
        if self._provider.type == "anthropic":
            settings |= {
                "anthropic_cache_instructions": True,
                "anthropic_cache_tool_definitions": True,
                "anthropic_cache_messages": True,
            }
        return {key: value for key, value in settings.items() if value is not None}  # type: ignore[return-value]

    async def _within(self, pull: Awaitable[T]) -> T:
        async with asyncio.timeout(self._limits.model_progress_s):
            return await pull

    def _translated(self, event: Any, ids: dict[int, str]) -> ModelEvent | None:
        """Our event for one of theirs, None for those that say nothing new. `ids` are the calls by their place."""
        match event.event_kind:
            case "part_start":
                part = event.part
                if part.part_kind == "tool-call":
                    ids[event.index] = part.tool_call_id
                    return ToolCallStart(part.tool_call_id, part.tool_name)
                return self._delta(part.part_kind, getattr(part, "content", ""))
            case "part_delta":
                return self._delta(event.delta.part_delta_kind, getattr(event.delta, "content_delta", ""))
            case "part_end" if event.part.part_kind == "thinking":
                part = event.part
                return ThinkingEnd(part.signature or "", part.id or "", self.provider_id)
            case _:
                return None

    def _delta(self, kind: str, text: object) -> ModelEvent | None:
        if not isinstance(text, str) or not text:
            return None
        text = _whole(text)
        return TextDelta(text) if kind == "text" else ThinkingDelta(text) if kind == "thinking" else None

    def _ends(self, response: "ModelResponse", ids: dict[int, str]) -> list[ModelEvent]:
        """The inputs of the calls, which may have been written in turns, and the end."""
        raw = str((response.provider_details or {}).get("finish_reason") or "")
        if response.finish_reason is None and not raw:
            raise self._failure("stream_cut", "the model's answer ended before it was complete", True)
        if response.finish_reason == "error":
            raise self._failure("server", f"the provider ended the answer with an error ({raw})", True)
        ends: list[ModelEvent] = []
        for index, call_id in ids.items():
            part: Any = response.parts[index]
            text = part.args if isinstance(part.args, str) else json.dumps(part.args) if part.args else ""
            ends.append(ToolCallEnd(call_id, _whole(text)))
        usage = response.usage
        cached = usage.cache_read_tokens + usage.cache_write_tokens
        tokens = Tokens(
            input=max(0, usage.input_tokens - cached),
            output=usage.output_tokens,
            cache_read=usage.cache_read_tokens,
            cache_write=usage.cache_write_tokens,
        )
        return [*ends, Finished(_REASONS.get(response.finish_reason or "", "unknown"), tokens)]

    def _mapped(self, error: Exception, has_begun: bool) -> ModelFailure:
        from pydantic_ai import exceptions

        status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else 0
        hint = error.provider_retry_hint if isinstance(error, exceptions.ModelHTTPError) else None
        code = ""
        retry_after_s: float | None = None
        if isinstance(error, exceptions.ModelAPIError):
            code = error.provider_error_code or error.provider_error_type or ""
            retry_after_s = error.retry_after
            has_begun = has_begun or error.in_stream
        return failure(
            _category(error, status, has_begun),
            _message(error),
            status=status,
            code=code,
            hint=hint,
            retry_after_s=retry_after_s,
            in_stream=has_begun,
            secrets=self._secrets,
        )

    def _failure(self, category: Category, message: str, in_stream: bool) -> ModelFailure:
        return failure(category, message, in_stream=in_stream, secrets=self._secrets)


def _whole(text: str) -> str:
    """`text` without halves of characters, which JSON escapes can smuggle in and no file can hold."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _category(error: Exception, status: int, has_begun: bool) -> Category:
    """By class first: it follows the provider's own code, which is clearer than the status."""
    from pydantic_ai import exceptions

    classes: tuple[tuple[type[Exception], Category], ...] = (
        (exceptions.ModelTimeoutError, "timeout" if has_begun else "network"),
        (exceptions.ModelConnectionError, "stream_cut" if has_begun else "network"),
        (exceptions.ModelContextWindowExceededError, "context_overflow"),
        (exceptions.ModelAuthenticationError, "auth"),
        (exceptions.ModelNotFoundError, "not_found"),
        (exceptions.ModelQuotaExceededError, "quota"),
        (exceptions.ModelRateLimitError, "rate_limit"),
        (exceptions.ModelUnavailableError, "overloaded"),
        (exceptions.ModelServerError, "server"),
        (exceptions.ModelRequestRejectedError, "bad_request"),
        (exceptions.UserError, "bad_request"),
    )
    for kind, category in classes:
        if isinstance(error, kind):
            return category
    if status:
        return category_of_status(status)
    if isinstance(error, exceptions.ModelAPIError) and "finish_reason" in str(error):
        return "stream_cut"
    return "server" if isinstance(error, exceptions.ModelAPIError) and error.in_stream else "garbage"


def _message(error: Exception) -> str:
    """What the provider said, without the wrapping that quotes the whole body."""
    body = getattr(error, "body", None)
    for holder in (body, body.get("error") if isinstance(body, dict) else None):
        if isinstance(holder, dict) and isinstance(holder.get("message"), str):
            return str(holder["message"])
    return str(error) or type(error).__name__
