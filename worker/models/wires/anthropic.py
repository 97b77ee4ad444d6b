"""Make the requests of Anthropic's Messages API.

Format: https://platform.claude.com/docs/en/api/messages. Thinking is sent back unchanged and in its place between texts
and tool calls; the markers of the prompt cache are on the system prompt, the last tool and the last block.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.api.message import ReasoningBlock, ToolCallData
from worker.models.client import ModelRequest, ToolShape
from worker.models.wires.anthropic_options import BINDING_BETA, anthropic_options
from worker.models.wires.anthropic_stream import REDACTED, AnthropicDecoder
from worker.models.wires.content import (
    Image,
    ImageLink,
    ModelTurn,
    Result,
    Turn,
    UserContent,
    conversation,
    session_headers,
)
from worker.models.wires.encoded_tools import EncodedTools
from worker.models.wires.tool_schema import plain_schema
from worker.models.wires.wire import WireContext, WireRequest, encode_body

VERSION = "2026-10-21"
SAMPLING_VERSION = "2023-06-01"
"""The newer version of the API refuses sampling parameters, also for models that know them."""
_CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
_CACHEABLE = frozenset({"text", "image", "tool_use", "tool_result"})
_REDACTED_IDS = frozenset({REDACTED, "redacted_content"})
_DROP_STALE = {"block_binding": {"prefix_mismatch_behavior": "drop_block"}}

Block = dict[str, Any]


class AnthropicWire:
    """The Messages API for one configured model."""

    def __init__(self, context: WireContext) -> None:
        self._context = context
        self._options = anthropic_options(context)
        base_url = context.provider.base_url.rstrip("/").removesuffix("/v1")
        self._tools = EncodedTools(self._declared)
        self._url = f"{base_url}/v1/messages"
        self._headers = self._fixed_headers()
        self._betas = self._options.betas | _listed(self._headers.pop("anthropic-beta", ""))

    def request(self, request: ModelRequest) -> WireRequest:
        """Return the HTTP request for a step of a conversation."""
        options = self._options
        turns = conversation(request.messages, self._context.model, media_in_results=True)
        messages = [message for turn in turns if (message := _message(turn))["content"]]
        if self._context.caches:
            _mark_last_block(messages)
        body: dict[str, Any] = {
            "model": self._context.model.id,
            "max_tokens": options.max_tokens(request.max_tokens),
            "stream": True,
            **options.fields,
            **self._system(request.system),
        }
        if request.tools:
            body |= {"tools": self._tools.encode(request.tools), "tool_choice": {"type": "auto"}}
        body["messages"] = messages
        body |= options.extra
        betas = self._betas
        if options.binds_thinking and _has_thinking(messages):
            # Our system prompt changes between turns, and the provider would refuse the blocks of earlier ones.
            body["thinking"] = {"type": "adaptive", **body.get("thinking", {}), **_DROP_STALE}
            betas |= {BINDING_BETA}
        headers = self._headers | session_headers(request.messages)
        if betas:
            headers["anthropic-beta"] = ",".join(sorted(betas))
        return WireRequest(self._url, headers, encode_body(body))

    def decoder(self) -> AnthropicDecoder:
        """Return the decoder for the response of one request."""
        return AnthropicDecoder(self._context.provider.id, self._context.secrets)

    def _fixed_headers(self) -> dict[str, str]:
        provider = self._context.provider
        key = provider.api_key.strip().removeprefix("Bearer ")
        own = {"anthropic-version": SAMPLING_VERSION if self._options.samples else VERSION}
        own |= {"authorization": f"Bearer {key}"} if key else {}
        return own | {name.lower(): value for name, value in provider.extra_headers.items()}

    def _declared(self, tools: Sequence[ToolShape]) -> list[Block]:
        declared: list[Block] = [
            {"name": tool.name, "description": tool.description, "input_schema": plain_schema(tool.schema)}
            for tool in tools
        ]
        if self._context.caches:
            declared[-1] |= _CACHED
        return declared

    def _system(self, system: str) -> dict[str, Any]:
        text = "\n\n".join(part for part in (self._context.provider.system_prompt_prefix, system) if part)
        if not text:
            return {}
        return {"system": [{"type": "text", "text": text, **_CACHED}] if self._context.caches else text}


def _listed(header: str) -> frozenset[str]:
    return frozenset(beta for part in header.split(",") if (beta := part.strip()))


def _message(turn: Turn) -> dict[str, Any]:
    if isinstance(turn, ModelTurn):
        return {"role": "assistant", "content": [block for part in turn.parts for block in _model_blocks(part)]}
    blocks: list[Block] = []
    for part in turn.parts:
        blocks += [_result(part)] if isinstance(part, Result) else _user_blocks(part)
    return {"role": "user", "content": blocks}


def _model_blocks(part: ReasoningBlock | str | ToolCallData) -> list[Block]:
    match part:
        case str():
            return _text(part)
        case ToolCallData():
            return [{"type": "tool_use", "id": part.id, "name": part.name, "input": _arguments(part.input)}]
        case ReasoningBlock() if not part.signature:
            return []  # refused without its signature
        case ReasoningBlock() if part.id in _REDACTED_IDS:
            return [{"type": "redacted_thinking", "data": part.signature}]
        case ReasoningBlock():
            return [{"type": "thinking", "thinking": part.thinking, "signature": part.signature}]


def _user_blocks(content: UserContent) -> list[Block]:
    return _text(content.text) + [_image(media) for media in content.media]


def _result(result: Result) -> Block:
    content = _text(result.text) + ([_image(result.image)] if result.image is not None else [])
    block: Block = {"type": "tool_result", "tool_use_id": result.call_id, "is_error": result.is_error}
    return block | ({"content": content} if content else {})


def _text(text: str) -> list[Block]:
    """Return the block of a text; an empty one would be refused."""
    return [{"type": "text", "text": text}] if text else []


def _image(image: Image | ImageLink) -> Block:
    if isinstance(image, ImageLink):
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": image.mime_type, "data": image.base64}}


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call, which are stored as a checked JSON object; without any they may be ""."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        pass
    try:
        value = json.loads(text)  # accepts half a surrogate pair, which `encode_body` replaces
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _mark_last_block(messages: list[dict[str, Any]]) -> None:
    """Mark the end of the conversation for the prompt cache, in the last message, on a block that may have a mark."""
    for block in reversed(messages[-1]["content"] if messages else []):
        if block["type"] in _CACHEABLE:
            block |= _CACHED
            return


def _has_thinking(messages: list[dict[str, Any]]) -> bool:
    return any(block["type"] in ("thinking", REDACTED) for message in messages for block in message["content"])
