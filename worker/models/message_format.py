"""Stored rows to the messages of pydantic_ai, whose models translate them into each provider's own.

What comes in was repaired by `worker/agent/history.py`. pydantic_ai is imported inside the functions: the scripted
model needs none of it, and a worker that never asks a real model never pays for it.
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
"""What every provider takes as a picture; anything else is named and not sent."""
_TEXT_TYPES = frozenset(
    f"application/{name}" for name in ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "sql")
)
_MEDIA_IN_RESULTS: frozenset[Wire] = frozenset({"anthropic", "bedrock"})
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def to_wire(
    messages: Sequence[Message], *, system: Sequence[str], wire: Wire, wire_name: str, model: Model
) -> "list[ModelMessage]":
    """The conversation for one request to `model`. `wire_name` is the name under which the provider knows its own
    thinking; the texts of `system` go out as messages of their own, in this order.

    Rows of the same side that follow each other become one message, as providers expect. What another model thought is
    not sent to one that cannot: it would be refused, or taken for something that was said.
    """
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart

    takes_media = model.supports_attachments
    result_media = takes_media and wire in _MEDIA_IN_RESULTS
    made: list[ModelMessage] = []
    asked: list[ModelRequestPart] = [SystemPromptPart(content=text) for text in system if text]
    for message in messages:
        if message.role == "assistant":
            if asked:
                made.append(ModelRequest(parts=asked))
                asked = []
            knows_thinking = model.can_reason or message.model in ("", model.id)
            parts = _answer(message, wire, wire_name, knows_thinking=knows_thinking)
            made.append(ModelResponse(parts=parts, provider_name=wire_name))
        elif message.role == "tool":
            results = [part.data for part in message.parts if isinstance(part, ToolResultPart)]
            asked.extend(_result(result, result_media, takes_media) for result in results)
            if takes_media and not result_media:
                asked.extend(_shown_beside(result) for result in results if _picture(result) is not None)
        else:
            asked.extend(_asked(message, takes_media))
    if asked:
        made.append(ModelRequest(parts=asked))
    return made


def _answer(message: Message, wire: Wire, wire_name: str, *, knows_thinking: bool) -> "list[ModelResponsePart]":
    """Thinking, text and calls in the order in which they came (W-22)."""
    from pydantic_ai.messages import TextPart as WireText
    from pydantic_ai.messages import ToolCallPart as WireCall

    blocks = [block for part in message.parts if isinstance(part, ReasoningPart) for block in part.data.blocks]
    if not knows_thinking:
        blocks = []
    calls = [part.data for part in message.parts if isinstance(part, ToolCallPart)]
    # OpenAI tells what is said on the way from the final answer, and wants that back.
    details = {"phase": "commentary" if calls else "final_answer"} if wire == "responses" else None
    made: list[ModelResponsePart] = []
    thinking = [(block, _thinking(block, wire_name)) for block in _signed_first(blocks, wire)]
    made += [ready for block, ready in thinking if _leads(block)]
    made += [
        WireText(content=part.data.text, provider_name=wire_name if details else None, provider_details=details)
        for part in message.parts
        if isinstance(part, TextPart)
    ]
    made += [ready for block, ready in thinking if not _leads(block) and not block.calls_before]
    for count, call in enumerate(calls, 1):
        made.append(WireCall(tool_name=call.name, args=call.input, tool_call_id=call.id))
        made += [ready for block, ready in thinking if block.calls_before == count]
    while made and made[-1].part_kind == "thinking":
        made.pop()  # it led to nothing: the answer was cut there, and providers refuse it
    return made


def _leads(block: ReasoningBlock) -> bool:
    """Does it stand before the text? A signature and nothing else belongs to the call behind it."""
    return block.before_text and not block.calls_before and bool(block.thinking or block.id or block.details)


def _signed_first(blocks: Sequence[ReasoningBlock], wire: Wire) -> list[ReasoningBlock]:
    """For OpenAI: of the blocks of one item the first one bears the signature. An item without one is unknown there."""
    if wire != "responses":
        return list(blocks)
    signatures = {block.id: block.signature for block in blocks if block.id and block.signature}
    made: list[ReasoningBlock] = []
    for block in blocks:
        if block.id in signatures:
            is_first = all(other.id != block.id for other in made)
            made.append(replace(block, signature=signatures[block.id] if is_first else ""))
    return made


def _thinking(block: ReasoningBlock, wire_name: str) -> "WireThinking":
    from pydantic_ai.messages import ThinkingPart as WireThinking

    return WireThinking(
        content=block.thinking,
        id=block.id or None,
        signature=block.signature or None,
        provider_name=wire_name,
        provider_details=block.details or None,
    )


def _picture(data: ToolResultData) -> bytes | None:
    return _decoded(data.data) if data.data and data.mime_type in IMAGE_TYPES else None


def _result(data: ToolResultData, holds_media: bool, takes_media: bool) -> "ToolReturnPart":
    from pydantic_ai.messages import BinaryContent, ToolReturnPart

    picture = _picture(data) if takes_media else None
    text = data.content
    if data.data and picture is None:
        text = f"{text}\n[media of type {data.mime_type}, which this model cannot see]".strip()
    elif picture is not None and not holds_media:
        text = f"{text}\n[media of type {data.mime_type}: see the message after the results]".strip()
    is_inside = picture is not None and holds_media
    return ToolReturnPart(
        tool_name=data.name,
        content=[text, BinaryContent(data=picture or b"", media_type=data.mime_type)] if is_inside else text,
        tool_call_id=data.tool_call_id,
        outcome="failed" if data.is_error else "success",
    )


def _shown_beside(data: ToolResultData) -> "UserPromptPart":
    """A file that a result holds, for providers whose results are texts (5.7)."""
    from pydantic_ai.messages import BinaryContent, UserPromptPart

    name = f"tool-result-{data.tool_call_id}"
    content: list[UserContent] = [
        f"[{name}: the media that {data.name} returned]",
        BinaryContent(data=_picture(data) or b"", media_type=data.mime_type),
    ]
    return UserPromptPart(content=content)


def _asked(message: Message, takes_media: bool) -> "list[ModelRequestPart]":
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
                texts.append("[a picture, which this model cannot see]")
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
    """Is a file of this type sent as text?"""
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
