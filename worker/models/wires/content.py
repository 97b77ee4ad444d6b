"""Convert stored messages to a conversation that every API can be given: turns of the user side and of the model.

The input has been repaired by `worker/agent/history.py`: every tool call is followed by its result, and thinking of
other providers is gone. Consecutive messages of the same side are merged, as providers expect.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

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
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from protocol.api.provider import Model

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Image types that every provider accepts; other media are mentioned in the text instead of being sent."""
_TEXT_TYPES = frozenset(
    f"application/{name}" for name in ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "sql")
)
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as padded Base64."""

    base64: str
    mime_type: str

    @property
    def data_url(self) -> str:
        """Return the image as a `data:` URL."""
        return f"data:{self.mime_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class ImageLink:
    """An image by its URL."""

    url: str


@dataclass(frozen=True, slots=True)
class UserContent:
    """What the user said: a text, which may be empty if there are media, and the media after it."""

    text: str
    media: tuple[Image | ImageLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a tool call. `image` is only set for APIs whose results may contain media."""

    call_id: str
    name: str
    text: str
    is_error: bool
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class UserTurn:
    """Consecutive contents of the user's side, in order."""

    parts: list[UserContent | Result]


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """One message of the model: thinking, texts and tool calls in their original order (W-22)."""

    parts: list[ReasoningBlock | str | ToolCallData]


Turn = UserTurn | ModelTurn


def conversation(messages: Sequence[Message], model: Model, *, media_in_results: bool) -> list[Turn]:
    """Return the conversation for one request to `model`.

    Another model's thinking is not sent to a model that cannot reason: it would be rejected, or read as plain text.
    `media_in_results`: the API accepts images in tool results; otherwise they follow the results as user contents.
    """
    takes_media = model.supports_attachments
    inside = takes_media and media_in_results
    turns: list[Turn] = []
    parts: list[UserContent | Result] = []
    for message in messages:
        if message.role == "assistant":
            if parts:
                turns.append(UserTurn(parts))
                parts = []
            with_thinking = model.can_reason or message.model in ("", model.id)
            turns.append(ModelTurn(_model_parts(message, with_thinking=with_thinking)))
        elif message.role == "tool":
            results = [part.data for part in message.parts if isinstance(part, ToolResultPart)]
            parts.extend(_result(result, inside, takes_media) for result in results)
            if takes_media and not inside:
                parts.extend(_media_content(result) for result in results if _is_image(result))
        else:
            content = _user_content(message, takes_media)
            if content is not None:
                parts.append(content)
    if parts:
        turns.append(UserTurn(parts))
    return turns


def _model_parts(message: Message, *, with_thinking: bool) -> list[ReasoningBlock | str | ToolCallData]:
    blocks: list[ReasoningBlock] = []
    if with_thinking:
        blocks = [block for part in message.parts if isinstance(part, ReasoningPart) for block in part.data.blocks]
    calls = [part.data for part in message.parts if isinstance(part, ToolCallPart)]
    parts: list[ReasoningBlock | str | ToolCallData] = [block for block in blocks if _leads(block)]
    parts += [part.data.text for part in message.parts if isinstance(part, TextPart)]
    parts += [block for block in blocks if not _leads(block) and not block.calls_before]
    for count, call in enumerate(calls, 1):
        parts.append(call)
        parts += [block for block in blocks if block.calls_before == count]
    while parts and isinstance(parts[-1], ReasoningBlock):
        parts.pop()  # the response was cut off here, and providers reject thinking at the end
    return parts


def _leads(block: ReasoningBlock) -> bool:
    """Return whether the block goes before the text. A signature alone belongs to the call after it."""
    return block.before_text and not block.calls_before and bool(block.thinking or block.id or block.details)


def _is_image(data: ToolResultData) -> bool:
    return bool(data.data) and data.mime_type in IMAGE_TYPES and _is_base64(data.data)


def _result(data: ToolResultData, inside: bool, takes_media: bool) -> Result:
    has_image = takes_media and _is_image(data)
    text = data.content
    if data.data and not has_image:
        text = f"{text}\n[media of type {data.mime_type}, which this model cannot see]".strip()
    elif has_image and not inside:
        text = f"{text}\n[media of type {data.mime_type}: see the message after the results]".strip()
    image = Image(data.data, data.mime_type) if has_image and inside else None
    return Result(data.tool_call_id, data.name, text, data.is_error, image)


def _media_content(data: ToolResultData) -> UserContent:
    """Return the media of a tool result as a user content, for APIs whose tool results are text only."""
    text = f"[tool-result-{data.tool_call_id}: the media that {data.name} returned]"
    return UserContent(text, (Image(data.data, data.mime_type),))


def _user_content(message: Message, takes_media: bool) -> UserContent | None:
    texts: list[str] = []
    media: list[Image | ImageLink] = []
    for part in message.parts:
        match part:
            case TextPart(data):
                texts.append(data.text.strip())
            case BinaryPart(data) if is_text(data.mime_type):
                texts.append(_text_file(data))
            case BinaryPart(data) if takes_media and data.mime_type in IMAGE_TYPES:
                media.append(Image(base64.b64encode(data.data).decode(), data.mime_type))
            case ImageURLPart(data) if takes_media:
                media.append(ImageLink(data.url))
            case ImageURLPart(data):
                texts.append("[an image, which this model cannot see]")
            case ShellCommandPart(data):
                texts.append(_shell(data))
            case BinaryPart(data):
                texts.append(f"[attachment {data.path} of type {data.mime_type}, which this model cannot see]")
            case _:
                pass
    text = "\n\n".join(text for text in texts if text)
    return UserContent(text, tuple(media)) if text or media else None


def is_text(mime_type: str) -> bool:
    """Return whether a file of this type is sent as text."""
    bare = mime_type.partition(";")[0].strip().lower()
    return bare.startswith("text/") or bare in _TEXT_TYPES or bare.endswith(("+json", "+xml"))


def _text_file(data: BinaryData) -> str:
    return f'<file path="{data.path}">\n{data.data.decode(errors="replace")}\n</file>'


def _shell(data: ShellCommandData) -> str:
    output = _ANSI.sub("", data.output)
    return f"<shell_command>\n$ {data.command}\n{output}\n(exit code {data.exit_code})\n</shell_command>"


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def session_headers(messages: Sequence[Message]) -> dict[str, str]:
    """Return headers that route a conversation to the provider's cache of it; they do not reveal the session's id."""
    session_id = next((message.session_id for message in messages if message.session_id), "")
    if not session_id:
        return {}
    name = xxhash.xxh3_64_hexdigest(session_id.encode())
    return {"x-session-id": name, "x-session-affinity": name}
