"""Convert a conversation to the messages of pydantic_ai, whose models translate them into Google's and Bedrock's
format.

pydantic_ai is imported inside the functions: only a worker that uses one of these providers should pay for it.
"""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.api.message import ReasoningBlock, ToolCallData
from worker.models.wires.content import Image, ImageLink, ModelTurn, Result, Turn, UserContent

if TYPE_CHECKING:
    from pydantic_ai.messages import (
        BinaryContent,
        ModelMessage,
        ModelRequestPart,
        ModelResponsePart,
        ToolReturnPart,
        UserPromptPart,
    )
    from pydantic_ai.messages import UserContent as Content


def to_messages(turns: Sequence[Turn], *, system: Sequence[str], name: str) -> "list[ModelMessage]":
    """Return the conversation for one request.

    `name` is the name by which pydantic_ai recognises the provider's own thinking. The texts of `system` become
    messages of their own, in this order.
    """
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart

    first: list[ModelRequestPart] = [SystemPromptPart(content=text) for text in system if text]
    converted: list[ModelMessage] = []
    for turn in turns:
        if isinstance(turn, ModelTurn):
            if first:
                converted.append(ModelRequest(parts=first))
                first = []
            converted.append(ModelResponse(parts=_response_parts(turn, name), provider_name=name))
        else:
            parts = [_result(part) if isinstance(part, Result) else _prompt(part) for part in turn.parts]
            converted.append(ModelRequest(parts=[*first, *parts]))
            first = []
    if first:
        converted.append(ModelRequest(parts=first))
    return converted


def _response_parts(turn: ModelTurn, name: str) -> "list[ModelResponsePart]":
    from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart

    parts: list[ModelResponsePart] = []
    for part in turn.parts:
        match part:
            case str():
                parts.append(TextPart(content=part))
            case ToolCallData():
                parts.append(ToolCallPart(tool_name=part.name, args=part.input, tool_call_id=part.id))
            case ReasoningBlock():
                parts.append(
                    ThinkingPart(
                        content=part.thinking,
                        id=part.id or None,
                        signature=part.signature or None,
                        provider_name=name,
                        provider_details=part.details or None,
                    )
                )
    return parts


def _result(result: Result) -> "ToolReturnPart":
    from pydantic_ai.messages import ToolReturnPart

    return ToolReturnPart(
        tool_name=result.name,
        content=[result.text, _binary(result.image)] if result.image is not None else result.text,
        tool_call_id=result.call_id,
        outcome="failed" if result.is_error else "success",
    )


def _prompt(content: UserContent) -> "UserPromptPart":
    from pydantic_ai.messages import ImageUrl, UserPromptPart

    if not content.media:
        return UserPromptPart(content=content.text)
    items: list[Content] = [content.text] if content.text else []
    for item in content.media:
        items.append(ImageUrl(url=item.url) if isinstance(item, ImageLink) else _binary(item))
    return UserPromptPart(content=items)


def _binary(image: Image) -> "BinaryContent":
    from pydantic_ai.messages import BinaryContent

    return BinaryContent(data=base64.b64decode(image.base64), media_type=image.mime_type)
