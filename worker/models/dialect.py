"""Stored rows to the messages of pydantic_ai, whose models translate them into each provider's own.

What comes in was repaired by `worker/agent/history.py`. pydantic_ai is imported inside the functions: the scripted
model needs none of it, and a worker that never asks a real model never pays for it.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.shapes.message import (
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

if TYPE_CHECKING:
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequestPart,
        ModelResponsePart,
        ToolReturnPart,
        UserContent,
    )
    from pydantic_ai.messages import ThinkingPart as WireThinking

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def to_wire(messages: Sequence[Message], *, system: str, wire_name: str, takes_media: bool) -> "list[ModelMessage]":
    """The conversation for one request. `wire_name` is the name under which the provider knows its own thinking.

    Rows of the same side that follow each other become one message, as providers expect.
    """
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart

    wire: list[ModelMessage] = []
    asked: list[ModelRequestPart] = [SystemPromptPart(content=system)] if system else []
    for message in messages:
        if message.role == "assistant":
            if asked:
                wire.append(ModelRequest(parts=asked))
                asked = []
            wire.append(ModelResponse(parts=_answer(message, wire_name), provider_name=wire_name))
        elif message.role == "tool":
            asked.extend(_result(part.data, takes_media) for part in message.parts if isinstance(part, ToolResultPart))
        else:
            asked.extend(_asked(message, takes_media))
    if asked:
        wire.append(ModelRequest(parts=asked))
    return wire


def _answer(message: Message, wire_name: str) -> "list[ModelResponsePart]":
    from pydantic_ai.messages import TextPart as WireText
    from pydantic_ai.messages import ToolCallPart as WireCall

    before: list[ModelResponsePart] = []
    after: list[ModelResponsePart] = []
    texts: list[ModelResponsePart] = []
    calls: list[ModelResponsePart] = []
    for part in message.parts:
        match part:
            case ReasoningPart(data):
                for block in data.blocks:
                    (before if block.before_text else after).append(_thinking(block, wire_name))
            case TextPart(data):
                texts.append(WireText(content=data.text))
            case ToolCallPart(data):
                calls.append(WireCall(tool_name=data.name, args=data.input, tool_call_id=data.id))
            case _:
                pass
    return [*before, *texts, *after, *calls]


def _thinking(block: ReasoningBlock, wire_name: str) -> "WireThinking":
    from pydantic_ai.messages import ThinkingPart as WireThinking

    return WireThinking(
        content=block.thinking, id=block.id or None, signature=block.signature or None, provider_name=wire_name
    )


def _result(data: ToolResultData, takes_media: bool) -> "ToolReturnPart":
    from pydantic_ai.messages import BinaryContent, ToolReturnPart

    media = _decoded(data.data) if data.data and takes_media else None
    text = data.content
    if data.data and media is None:
        text = f"{text}\n[media of type {data.mime_type}, which this model cannot see]".strip()
    return ToolReturnPart(
        tool_name=data.name,
        content=[text, BinaryContent(data=media, media_type=data.mime_type)] if media is not None else text,
        tool_call_id=data.tool_call_id,
        outcome="failed" if data.is_error else "success",
    )


def _asked(message: Message, takes_media: bool) -> "list[ModelRequestPart]":
    from pydantic_ai.messages import BinaryContent, ImageUrl, UserPromptPart

    texts: list[str] = []
    media: list[UserContent] = []
    for part in message.parts:
        match part:
            case TextPart(data):
                texts.append(data.text.strip())
            case BinaryPart(data) if data.mime_type.startswith("text/"):
                texts.append(_text_file(data))
            case BinaryPart(data) if takes_media:
                media.append(BinaryContent(data=data.data, media_type=data.mime_type))
            case ImageURLPart(data) if takes_media:
                media.append(ImageUrl(url=data.url))
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
