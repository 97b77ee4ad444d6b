"""Messages and their parts, as API v1 sends them and as the workspace's file stores them (http-api 3.6).

A part is wrapped as `{"type": tag, "data": {…}}`. Unknown tags make a whole list unreadable for clients, so there
are exactly these.
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
    "loop_detected",  # the model went in circles (W-17)
    "step_limit",
]


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    data: "TextData"


class TextData(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""


class ReasoningPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    data: "ReasoningData"


class ReasoningData(msgspec.Struct, frozen=True, kw_only=True):
    """Thinking of the model. `blocks` keeps each block with the provider's metadata and order (W-22)."""

    thinking: str = ""
    signature: str = ""
    started_at: int = 0
    finished_at: int = 0
    blocks: list["ReasoningBlock"] = []


class ReasoningBlock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thinking block as the provider wants it back."""

    thinking: str = ""
    signature: str = ""
    id: str = ""
    provider: str = ""
    before_text: bool = True  # where it stood: before or after the step's text
    calls_before: int = 0  # and behind how many of its tool calls
    details: dict[str, Any] = {}  # what else the provider wants back with it


class ImageURLPart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    data: "ImageURLData"


class ImageURLData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    url: str
    detail: str = ""


class BinaryPart(msgspec.Struct, frozen=True, tag_field="type", tag="binary"):
    data: "BinaryData"


class BinaryData(
    msgspec.Struct, frozen=True, kw_only=True, rename={"path": "Path", "mime_type": "MIMEType", "data": "Data"}
):
    """An attachment; the only shape with capitalised keys. `data` is Base64 with padding on the wire."""

    path: str = ""
    mime_type: str = ""
    data: bytes = b""


class ToolCallPart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call"):
    data: "ToolCallData"


class ToolCallData(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    input: str = ""  # a string that holds JSON
    finished: bool = False


class ToolResultPart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    data: "ToolResultData"


class ToolResultData(msgspec.Struct, frozen=True, kw_only=True):
    tool_call_id: str
    name: str
    content: str = ""
    data: str = ""  # Base64 text of media
    mime_type: str = ""
    metadata: str = ""  # a string that holds JSON, or nothing
    is_error: bool = False


class FinishPart(msgspec.Struct, frozen=True, tag_field="type", tag="finish"):
    data: "FinishData"


class FinishData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: FinishReason = msgspec.field()
    time: int = msgspec.field()  # Unix seconds
    message: str = ""
    details: str = ""


class ShellCommandPart(msgspec.Struct, frozen=True, tag_field="type", tag="shell_command"):
    data: "ShellCommandData"


class ShellCommandData(msgspec.Struct, frozen=True, kw_only=True):
    command: str
    output: str
    exit_code: int


Part = (
    TextPart | ReasoningPart | ImageURLPart | BinaryPart | ToolCallPart | ToolResultPart | FinishPart | ShellCommandPart
)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a conversation. Times are Unix seconds."""

    id: str
    session_id: str
    role: Role
    parts: list[Part]
    model: str = ""
    provider: str = ""
    created_at: int = 0
    updated_at: int = 0
    is_summary_message: bool = False


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that comes with a prompt. `content` is Base64 with padding on the wire."""

    file_path: str = ""
    file_name: str = ""
    mime_type: str = ""
    content: bytes = b""
