"""Convert stored messages to those of pydantic_ai, whose models translate them into each provider's format.

The input has been repaired by `worker/agent/history.py`. pydantic_ai is imported inside the functions: the scripted
model does not need it, and a worker that never calls a real model should not pay for it.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.api.message import (
    BinaryData,
    BinaryPart,
    ImageURLPart,
    Message,
    ReasoningBlock,
    ReasoningPart,
    ShellCommandData,
    ShellCommandPart,
    TextPart,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from protocol.api.provider import Model
from worker.models.request_options import Wire

if TYPE_CHECKING:
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequestPart,
        ModelResponsePart,
        ToolReturnPart,
        UserContent,
        UserPromptPart,
    )
    from pydantic_ai.messages import ThinkingPart as WireThinking

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Image types that every provider accepts; other media are mentioned in the text instead of being sent."""
_TEXT_TYPES = frozenset(
    f"application/{name}" for name in ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "sql")
)
_MEDIA_IN_RESULTS: frozenset[Wire] = frozenset({"anthropic", "bedrock"})
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def to_wire(
    messages: Sequence[Message], *, system: Sequence[str], wire: Wire, wire_name: str, model: Model
) -> "list[ModelMessage]":
    """Return the conversation for one request to `model`.

    `wire_name` is the name by which pydantic_ai recognises the provider's own thinking. The texts of `system` become
    messages of their own, in this order. Consecutive messages of the same side are merged, as providers expect.
    Another model's thinking is not sent to a model that cannot reason: it would be rejected, or read as plain text.
    """
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart

    takes_media = model.supports_attachments
    result_media = takes_media and wire in _MEDIA_IN_RESULTS
    converted: list[ModelMessage] = []
    request_parts: list[ModelRequestPart] = [SystemPromptPart(content=text) for text in system if text]
    for message in messages:
        if message.role == "assistant":
            if request_parts:
                converted.append(ModelRequest(parts=request_parts))
                request_parts = []
            with_thinking = model.can_reason or message.model in ("", model.id)
            parts = _assistant_parts(message, wire, wire_name, with_thinking=with_thinking)
            converted.append(ModelResponse(parts=parts, provider_name=wire_name))
        elif message.role == "tool":
            results = [part.data for part in message.parts if isinstance(part, ToolResultPart)]
            request_parts.extend(_result(result, result_media, takes_media) for result in results)
            if takes_media and not result_media:
                request_parts.extend(_media_message(result) for result in results if _image(result) is not None)
        else:
            request_parts.extend(_user_parts(message, takes_media))
    if request_parts:
        converted.append(ModelRequest(parts=request_parts))
    return converted


def _assistant_parts(message: Message, wire: Wire, wire_name: str, *, with_thinking: bool) -> "list[ModelResponsePart]":
    """Return the parts of an assistant message, thinking, text and calls in their original order (W-22)."""
    from pydantic_ai.messages import TextPart as WireText
    from pydantic_ai.messages import ToolCallPart as WireCall

    blocks = [block for part in message.parts if isinstance(part, ReasoningPart) for block in part.data.blocks]
    if not with_thinking:
        blocks = []
    calls = [part.data for part in message.parts if isinstance(part, ToolCallPart)]
    # OpenAI distinguishes commentary from the final answer, and expects that mark to be sent back.
    details = {"phase": "commentary" if calls else "final_answer"} if wire == "responses" else None
    converted: list[ModelResponsePart] = []
    thinking = [(block, _thinking(block, wire_name)) for block in _signed_first(blocks, wire)]
    converted += [part for block, part in thinking if _leads(block)]
    converted += [
        WireText(content=part.data.text, provider_name=wire_name if details else None, provider_details=details)
        for part in message.parts
        if isinstance(part, TextPart)
    ]
    converted += [part for block, part in thinking if not _leads(block) and not block.calls_before]
    for count, call in enumerate(calls, 1):
        converted.append(WireCall(tool_name=call.name, args=call.input, tool_call_id=call.id))
        converted += [part for block, part in thinking if block.calls_before == count]
    while converted and converted[-1].part_kind == "thinking":
        converted.pop()  # the response was cut off here, and providers reject thinking at the end
    return converted


def _leads(block: ReasoningBlock) -> bool:
    """Return whether the block goes before the text. A signature alone belongs to the call after it."""
    return block.before_text and not block.calls_before and bool(block.thinking or block.id or block.details)


def _signed_first(blocks: Sequence[ReasoningBlock], wire: Wire) -> list[ReasoningBlock]:
    """For OpenAI, move the signature of an item to its first block, and drop items without one, which it rejects."""
    if wire != "responses":
        return list(blocks)
    signatures = {block.id: block.signature for block in blocks if block.id and block.signature}
    converted: list[ReasoningBlock] = []
    for block in blocks:
        if block.id in signatures:
            is_first = all(other.id != block.id for other in converted)
            converted.append(replace(block, signature=signatures[block.id] if is_first else ""))
    return converted


def _thinking(block: ReasoningBlock, wire_name: str) -> "WireThinking":
    from pydantic_ai.messages import ThinkingPart as WireThinking

    return WireThinking(
        content=block.thinking,
        id=block.id or None,
        signature=block.signature or None,
        provider_name=wire_name,
        provider_details=block.details or None,
    )


def _image(data: ToolResultData) -> bytes | None:
    return _decoded(data.data) if data.data and data.mime_type in IMAGE_TYPES else None


def _result(data: ToolResultData, result_media: bool, takes_media: bool) -> "ToolReturnPart":
    from pydantic_ai.messages import BinaryContent, ToolReturnPart

    image = _image(data) if takes_media else None
    text = data.content
    if data.data and image is None:
        text = f"{text}\n[media of type {data.mime_type}, which this model cannot see]".strip()
    elif image is not None and not result_media:
        text = f"{text}\n[media of type {data.mime_type}: see the message after the results]".strip()
    is_inside = image is not None and result_media
    return ToolReturnPart(
        tool_name=data.name,
        content=[text, BinaryContent(data=image or b"", media_type=data.mime_type)] if is_inside else text,
        tool_call_id=data.tool_call_id,
        outcome="failed" if data.is_error else "success",
    )


def _media_message(data: ToolResultData) -> "UserPromptPart":
    """Return the media of a tool result as a user message, for providers whose tool results are text only."""
    from pydantic_ai.messages import BinaryContent, UserPromptPart

    name = f"tool-result-{data.tool_call_id}"
    content: list[UserContent] = [
        f"[{name}: the media that {data.name} returned]",
        BinaryContent(data=_image(data) or b"", media_type=data.mime_type),
    ]
    return UserPromptPart(content=content)


def _user_parts(message: Message, takes_media: bool) -> "list[ModelRequestPart]":
    from pydantic_ai.messages import BinaryContent, ImageUrl, UserPromptPart

    texts: list[str] = []
    media: list[UserContent] = []
    for part in message.parts:
        match part:
            case TextPart(data):
                texts.append(data.text.strip())
            case BinaryPart(data) if is_text(data.mime_type):
                texts.append(_text_file(data))
            case BinaryPart(data) if takes_media and data.mime_type in IMAGE_TYPES:
                media.append(BinaryContent(data=data.data, media_type=data.mime_type))
            case ImageURLPart(data) if takes_media:
                media.append(ImageUrl(url=data.url))
            case ImageURLPart(data):
                texts.append("[an image, which this model cannot see]")
            case ShellCommandPart(data):
                texts.append(_shell(data))
            case BinaryPart(data):
                texts.append(f"[attachment {data.path} of type {data.mime_type}, which this model cannot see]")
            case _:
                pass
    text = "\n\n".join(text for text in texts if text)
    if not media:
        return [UserPromptPart(content=text)] if text else []
    return [UserPromptPart(content=[text, *media] if text else media)]


def is_text(mime_type: str) -> bool:
    """Return whether a file of this type is sent as text."""
    bare = mime_type.partition(";")[0].strip().lower()
    return bare.startswith("text/") or bare in _TEXT_TYPES or bare.endswith(("+json", "+xml"))


def _text_file(data: BinaryData) -> str:
    return f'<file path="{data.path}">\n{data.data.decode(errors="replace")}\n</file>'


def _shell(data: ShellCommandData) -> str:
    output = _ANSI.sub("", data.output)
    return f"<shell_command>\n$ {data.command}\n{output}\n(exit code {data.exit_code})\n</shell_command>"


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
