"""Make the requests of the Chat Completions API, for OpenAI, Azure, OpenRouter, gateways and local servers.

Format: https://platform.openai.com/docs/api-reference/chat/create; OpenRouter's additions:
https://openrouter.ai/docs/api-reference/overview.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.config.discover import LOCAL_TYPES
from worker.models.client import ModelRequest, ToolShape
from worker.models.options import (
    API_OPTION,
    effort_of,
    max_tokens_of,
    merge,
    options_of,
    rejects_sampling,
    sampling_of,
)
from worker.models.wires.chat_messages import ChatDialect, chat_messages
from worker.models.wires.chat_stream import ChatDecoder
from worker.models.wires.content import conversation, session_headers
from worker.models.wires.encoded_tools import EncodedTools
from worker.models.wires.openai_endpoint import openai_headers, openai_url, with_headers
from worker.models.wires.special_tokens import reads_special_tokens
from worker.models.wires.tool_schema import openai_schema
from worker.models.wires.wire import WireContext, WireRequest, encode_body

_EXACTO = frozenset(
    {
        "moonshotai/kimi-k2-0905",
        "deepseek/deepseek-v3.1-terminus",
        "z-ai/glm-4.6",
        "openai/gpt-oss-120b",
        "qwen/qwen3-coder",
    }
)
"""Models of OpenRouter with an `:exacto` variant, served only by providers vetted for tool calls."""
_SWITCHED_BY_BODY = frozenset({"zai", "z-ai", "deepseek", "fireworks", "baseten"})
"""Compatible servers whose thinking is switched on by a field of the body."""
_SENT_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_FIELDS = {"verbosity": "verbosity", "text_verbosity": "verbosity"} | {
    name: name
    for name in ("reasoning_effort", "user", "store", "service_tier", "prompt_cache_key", "parallel_tool_calls", "seed")
}
"""Options that replace a field of the body; all others are merged into the extra fields."""


class ChatWire:
    """The Chat Completions API for one configured model."""

    def __init__(self, context: WireContext) -> None:
        self._context = context
        self._is_official = context.provider.type in ("openai", "azure")
        self._options = _options(context)
        self._url = openai_url(context, "/chat/completions", by_deployment=True)
        self._headers = openai_headers(context)
        self._breaks_tokens = reads_special_tokens(context.model.id)
        self._tools = EncodedTools(self._declared)
        self._is_router = context.provider.type == "openrouter"

    def request(self, request: ModelRequest) -> WireRequest:
        """Return the HTTP request for a step of a conversation."""
        context = self._context
        model = context.model
        dialect = ChatDialect(
            has_details=self._is_router,
            merges_system=context.provider.type in LOCAL_TYPES,
            breaks_tokens=self._breaks_tokens,
        )
        systems = [text for text in (context.provider.system_prompt_prefix, request.system) if text]
        turns = conversation(request.messages, model, media_in_results=False)
        body: dict[str, Any] = {
            "model": f"{model.id}:exacto" if self._is_router and model.id in _EXACTO else model.id,
            "messages": chat_messages(systems, turns, dialect),
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options.fields,
        }
        limit = max_tokens_of(model, context.selected, request.max_tokens)
        if limit:
            # Most compatible servers know only the older name.
            body["max_completion_tokens" if self._is_official else "max_tokens"] = limit
        if request.tools:
            body |= {"tools": self._tools.encode(request.tools), "tool_choice": "auto"}
        else:
            body.pop("parallel_tool_calls", None)
        body |= self._options.extra
        headers = with_headers(self._headers, session_headers(request.messages))
        return WireRequest(self._url, headers, encode_body(body))

    def decoder(self) -> ChatDecoder:
        """Return the decoder of one response."""
        return ChatDecoder(
            self._context.provider.id,
            has_details=self._is_router,
            joins_tokens=self._breaks_tokens,
            secrets=self._context.secrets,
        )

    def _declared(self, tools: Sequence[ToolShape]) -> list[dict[str, Any]]:
        converted: list[dict[str, Any]] = []
        for tool in tools:
            # Strict schemas are left to OpenAI's own service; local servers fail on them.
            schema, is_strict = openai_schema(tool.schema, may_be_strict=self._is_official)
            function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": schema}
            if is_strict:
                function["strict"] = True
            converted.append({"type": "function", "function": function})
        return converted


@dataclass(frozen=True, slots=True)
class _Options:
    fields: dict[str, Any]
    extra: dict[str, Any]  # replaces fields of the body


def _options(context: WireContext) -> _Options:
    """Return the fields of the body that do not depend on the request."""
    model, provider, selected = context.model, context.provider, context.selected
    options = options_of(model, provider, selected)
    options.pop(API_OPTION, None)
    effort = effort_of(model, selected)
    thinks = bool(model.can_reason and (effort or selected.think)) and effort != "none"
    fields: dict[str, Any] = {
        name: value for name, value in sampling_of(model, selected).items() if name in _SENT_SAMPLING
    }
    body: dict[str, Any] = {}
    sends_effort = True
    if provider.type == "openrouter":
        sends_effort = False
        body["usage"] = {"include": True}  # includes the cost
        if thinks:
            body["reasoning"] = {"enabled": True} | ({"effort": effort} if effort else {})
    elif provider.type == "vercel":
        if thinks:
            sends_effort = False
            body["reasoning"] = {"enabled": True} | ({"effort": effort} if effort else {})
        if context.caches:  # Vercel sets the markers itself, for models that need them
            body["providerOptions"] = {"gateway": {"caching": "auto"}}
    elif provider.id in _SWITCHED_BY_BODY and thinks:
        body["thinking"] = {"type": "enabled"}
    elif provider.id.startswith("alibaba") and thinks:
        body["enable_thinking"] = True
    if provider.id in ("zai", "z-ai"):
        body["tool_stream"] = True
    if effort and sends_effort:
        fields["reasoning_effort"] = effort
    if rejects_sampling(model, provider, str(fields.get("reasoning_effort", options.get("reasoning_effort", "")))):
        fields = {name: value for name, value in fields.items() if name not in _SENT_SAMPLING}
    for name in [name for name in options if name in _FIELDS]:
        value, old = options.pop(name), fields.get(_FIELDS[name])
        fields[_FIELDS[name]] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return _Options(fields, merge(merge(body, options), provider.extra_body))
