"""API types for messages and their parts, which are also the form in which the database stores them.

A part is wrapped as `{"type": tag, "data": {…}}`. The list of tags is closed: clients cannot read a list of messages
with an unknown tag.
"""

from typing import Any, Literal

import msgspec

Role = Literal["user", "assistant", "tool", "system"]
FinishReason = Literal[
    "end_turn",
    "max_tokens",
    "tool_use",
    "canceled",
    "error",
    "content_filter",
    "unknown",
    "stop",
    "loop_detected",  # the model repeated the same tool calls
    "step_limit",
]


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A text in a message."""

    data: "TextData"


class TextData(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a `text` part."""

    text: str = ""


class ReasoningPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """The reasoning of the model before its answer."""

    data: "ReasoningData"


class ReasoningData(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a `reasoning` part. `blocks` keeps each block with the provider's metadata, in order."""

    thinking: str = ""
    signature: str = ""
    started_at: int = 0
    finished_at: int = 0
    blocks: list["ReasoningBlock"] = []


class ReasoningBlock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reasoning block, in the form that the provider requires in later requests.

    `before_text` and `calls_before` give its position: before or after the text of the step, and after how many of its
    tool calls. `details` holds further data for the provider.
    """

    thinking: str = ""
    signature: str = ""
    id: str = ""
    provider: str = ""
    before_text: bool = True
    calls_before: int = 0
    details: dict[str, Any] = {}


class ImageURLData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The URL of an `image_url` part."""

    url: str
    detail: str = ""


class ImageURLPart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image in a message, by its URL."""

    data: ImageURLData


class BinaryPart(msgspec.Struct, frozen=True, tag_field="type", tag="binary"):
    """An attached file in a message."""

    data: "BinaryData"


class BinaryData(
    msgspec.Struct, frozen=True, kw_only=True, rename={"path": "Path", "mime_type": "MIMEType", "data": "Data"}
):
    """The content of a `binary` part; the only type with capitalised keys. `Data` is padded Base64."""

    path: str = ""
    mime_type: str = ""
    data: bytes = b""


class ToolCallPart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call"):
    """A tool call of the model."""

    data: "ToolCallData"


class ToolCallData(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a `tool_call` part. `input` is a string that contains JSON; `finished`: it is complete."""

    id: str
    name: str
    input: str = ""
    finished: bool = False


class ToolResultPart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """The result of a tool call."""

    data: "ToolResultData"


class ToolResultData(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a `tool_result` part.

    `data` is an image or audio clip of the type `mime_type`, as Base64. `metadata` is empty or a string that contains
    JSON.
    """

    tool_call_id: str
    name: str
    content: str = ""
    data: str = ""
    mime_type: str = ""
    metadata: str = ""
    is_error: bool = False


class FinishPart(msgspec.Struct, frozen=True, tag_field="type", tag="finish"):
    """The end of an assistant's message."""

    data: "FinishData"


class FinishData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reason why an assistant's message ended. `time` is in Unix seconds."""

    reason: FinishReason = msgspec.field()
    time: int = msgspec.field()
    message: str = ""
    details: str = ""


class ShellCommandPart(msgspec.Struct, frozen=True, tag_field="type", tag="shell_command"):
    """A shell command that the user ran in the session."""

    data: "ShellCommandData"


class ShellCommandData(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a `shell_command` part."""

    command: str
    output: str
    exit_code: int


Part = (
    TextPart | ReasoningPart | ImageURLPart | BinaryPart | ToolCallPart | ToolResultPart | FinishPart | ShellCommandPart
)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a session. Times are Unix seconds."""

    id: str
    session_id: str
    role: Role
    parts: list[Part]
    model: str = ""
    provider: str = ""
    created_at: int = 0
    updated_at: int = 0
    is_summary_message: bool = False


GrowingField = Literal["text", "thinking"]


class MessageDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Text to append to the message `message_id`: to `field` of the data of its part number `part`, counted from 0.

    `at` is the length of that text before, in Unicode code points. A client that has another length has missed a
    delta; it ignores further ones until the next whole message.
    """

    message_id: str
    session_id: str
    run_id: str
    part: int
    field: GrowingField
    at: int
    text: str


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is sent with a prompt. `content` is padded Base64."""

    file_path: str = ""
    file_name: str = ""
    mime_type: str = ""
    content: bytes = b""
