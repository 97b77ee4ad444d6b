"""Make the requests of OpenAI's Responses API, for OpenAI, Azure and compatible servers.

Format: https://developers.openai.com/api/docs/api-reference/responses/create. Nothing is stored at the provider, so
reasoning is received encrypted and sent back, each item with its id before the item that it led to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.api.message import ReasoningBlock, ToolCallData
from protocol.base.text import replace_surrogates
from worker.models.client import ModelRequest, ToolShape
from worker.models.options import API_OPTION, effort_of, max_tokens_of, merge, options_of, sampling_of
from worker.models.wires.content import Image, ModelTurn, Result, Turn, UserContent, conversation, session_headers
from worker.models.wires.encoded_tools import EncodedTools
from worker.models.wires.openai_endpoint import openai_headers, openai_url, with_headers
from worker.models.wires.responses_stream import RAW, ResponsesDecoder
from worker.models.wires.special_tokens import break_tokens, reads_special_tokens
from worker.models.wires.tool_schema import openai_schema
from worker.models.wires.wire import WireContext, WireRequest, encode_body

_FIELDS = ("user", "store", "service_tier", "prompt_cache_key", "truncation")
_REASONING = {"reasoning_effort": "effort", "reasoning_mode": "mode", "reasoning_context": "context"} | {
    "reasoning_summary": "summary"
}
_ENCRYPTED = "reasoning.encrypted_content"
_REASONING_NAMES = ("gpt-5", "gpt-6", "o1", "o3", "o4")
_PHASE_NAMES = ("gpt-5.3-codex", "gpt-5.4", "gpt-5.5", "gpt-5.6", "gpt-6")
"""Models that distinguish commentary from the final answer, and expect that mark back."""
_ALL_TURNS_NAMES = ("gpt-5.4", "gpt-5.5", "gpt-5.6", "gpt-6")
"""Models that can use the reasoning of all earlier turns."""

Item = dict[str, Any]


class ResponsesWire:
    """The Responses API for one configured model."""

    def __init__(self, context: WireContext) -> None:
        self._context = context
        model_id = context.model.id
        is_official = context.provider.type in ("openai", "azure")
        # Fine-tuned models know fewer keywords in a strict schema.
        self._may_be_strict = is_official and not model_id.startswith("ft:")
        self._options = _options(context, is_official)
        self._url = openai_url(context, "/responses")
        self._headers = openai_headers(context)
        self._breaks_tokens = reads_special_tokens(model_id)
        self._tools = EncodedTools(self._declared)
        self._has_phase = model_id.startswith(_PHASE_NAMES)

    def request(self, request: ModelRequest) -> WireRequest:
        """Return the HTTP request for a step of a conversation."""
        context = self._context
        systems = [text for text in (context.provider.system_prompt_prefix, request.system) if text]
        items: list[Item] = [{"role": "system", "content": text} for text in systems]
        for turn in conversation(request.messages, context.model, media_in_results=False):
            items += self._items(turn)
        body: dict[str, Any] = {"model": context.model.id, "stream": True, **self._options.fields}
        limit = max_tokens_of(context.model, context.selected, request.max_tokens)
        if limit:
            body["max_output_tokens"] = limit
        if request.tools:
            body |= {"tools": self._tools.encode(request.tools), "tool_choice": "auto", **self._options.with_tools}
        body["input"] = items
        body |= self._options.extra
        headers = with_headers(self._headers, session_headers(request.messages))
        return WireRequest(self._url, headers, encode_body(body))

    def decoder(self) -> ResponsesDecoder:
        """Return the decoder for the response of one request."""
        return ResponsesDecoder(
            self._context.provider.id, joins_tokens=self._breaks_tokens, secrets=self._context.secrets
        )

    def _declared(self, tools: Sequence[ToolShape]) -> list[Item]:
        converted: list[Item] = []
        for tool in tools:
            schema, is_strict = openai_schema(tool.schema, may_be_strict=self._may_be_strict)
            converted.append(
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": schema,
                    "strict": is_strict,
                }
            )
        return converted

    def _items(self, turn: Turn) -> list[Item]:
        if isinstance(turn, ModelTurn):
            return self._model_items(turn)
        return [self._result(part) if isinstance(part, Result) else self._user_item(part) for part in turn.parts]

    def _user_item(self, content: UserContent) -> Item:
        text = self._text(content.text)
        if not content.media:
            return {"role": "user", "content": text}
        parts: list[Item] = [{"type": "input_text", "text": text}] if text else []
        for media in content.media:
            url = media.data_url if isinstance(media, Image) else media.url
            parts.append({"type": "input_image", "image_url": url, "detail": "auto"})
        return {"role": "user", "content": parts}

    def _result(self, result: Result) -> Item:
        text = self._text(result.text)
        if result.is_error:
            text = msgspec.json.encode({"error": replace_surrogates(text)}).decode()
        return {"type": "function_call_output", "call_id": result.call_id, "output": text}

    def _model_items(self, turn: ModelTurn) -> list[Item]:
        has_calls = any(isinstance(part, ToolCallData) for part in turn.parts)
        phase = {"phase": "commentary" if has_calls else "final_answer"} if self._has_phase else {}
        reasoning = _reasoning_items(turn)
        items: list[Item] = []
        for part in turn.parts:
            match part:
                case str():
                    if part:
                        items.append({"role": "assistant", "content": self._text(part), **phase})
                case ToolCallData():
                    arguments = self._text(part.input.strip() or "{}")
                    items.append(
                        {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": arguments}
                    )
                case ReasoningBlock():
                    item = reasoning.pop(part.id, None)  # the first block of an item stands for all of them
                    if item is not None:
                        items.append(item)
        return items

    def _text(self, text: str) -> str:
        return break_tokens(text) if self._breaks_tokens else text


def _reasoning_items(turn: ModelTurn) -> dict[str, Item]:
    """Return the reasoning items of a turn by their id, in the order of their first block.

    An item may have several summaries, which are blocks of their own; its encrypted content is kept with the last one.
    An item without it is left out, because nothing is stored at the provider that the id could refer to.
    """
    blocks = [part for part in turn.parts if isinstance(part, ReasoningBlock) and part.id]
    signatures = {block.id: block.signature for block in blocks if block.signature}
    items: dict[str, Item] = {}
    for block in blocks:
        if block.id not in signatures:
            continue
        item = items.setdefault(
            block.id,
            {"type": "reasoning", "id": block.id, "summary": [], "encrypted_content": signatures[block.id]},
        )
        raw = block.details.get(RAW)
        if isinstance(raw, list) and raw:
            item["content"] = [{"type": "reasoning_text", "text": text} for text in raw]
        if block.thinking and not (isinstance(raw, list) and block.thinking == "".join(raw)):
            item["summary"].append({"type": "summary_text", "text": block.thinking})
    return items


@dataclass(frozen=True, slots=True)
class _Options:
    fields: dict[str, Any]
    with_tools: dict[str, Any]  # refused in a request without tools
    extra: dict[str, Any]  # replaces fields of the body


def _options(context: WireContext, is_official: bool) -> _Options:
    """Return the fields of the body that do not depend on the request."""
    model, selected = context.model, context.selected
    options = options_of(model, context.provider, selected)
    options.pop(API_OPTION, None)
    options.pop("seed", None)  # Chat Completions alone has it
    fields: dict[str, Any] = {"store": False}
    reasoning: dict[str, Any] = {}
    effort = effort_of(model, selected)
    if effort:
        reasoning["effort"] = effort
    if model.can_reason:
        reasoning["summary"] = "auto"
        if model.id.startswith(_ALL_TURNS_NAMES):
            reasoning["context"] = "all_turns"
    else:  # models that reason refuse sampling parameters
        sampling = sampling_of(model, selected)
        fields |= {name: sampling[name] for name in ("temperature", "top_p") if name in sampling}
    reasoning |= {_REASONING[name]: options.pop(name) for name in [*options] if name in _REASONING}
    reasoning = {name: value for name, value in reasoning.items() if value}
    if reasoning:
        fields["reasoning"] = reasoning
    if model.can_reason if is_official else _reasons_by_name(model.id):
        fields["include"] = [_ENCRYPTED]
    for name in [name for name in options if name in ("text_verbosity", "verbosity")]:
        fields["text"] = {"verbosity": options.pop(name)}
    fields |= {name: options.pop(name) for name in _FIELDS if name in options}
    with_tools = {name: options.pop(name) for name in ("parallel_tool_calls",) if name in options}
    return _Options(fields, with_tools, merge(options, context.provider.extra_body))


def _reasons_by_name(model_id: str) -> bool:
    return model_id.startswith(_REASONING_NAMES) and not model_id.startswith("gpt-5-chat")
