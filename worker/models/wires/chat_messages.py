"""Convert a conversation to the messages of the Chat Completions API."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from protocol.api.message import ReasoningBlock, ToolCallData
from worker.models.wires.content import Image, ModelTurn, Result, Turn, UserContent
from worker.models.wires.special_tokens import break_tokens

FIELDS = ("reasoning", "reasoning_content")
"""The fields in which compatible servers send thinking, and expect it back."""
IN_TEXT = "content"
"""The id of thinking that came between tags of the text."""
CALL_EXTRA = "extra_content"
"""Google's compatible API signs a tool call in this field, and requires it back."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """How the server of a model differs from others."""

    has_details: bool  # OpenRouter: thinking travels as `reasoning_details`
    merges_system: bool  # its chat template rejects a second system message
    breaks_tokens: bool  # it may read control tokens in texts


def chat_messages(systems: Sequence[str], turns: Sequence[Turn], dialect: ChatDialect) -> list[Message]:
    """Return the messages of a request; the texts of `systems` come first, each as a message of its own or merged."""
    if dialect.merges_system and systems:
        systems = ["\n\n".join(systems)]
    messages: list[Message] = [{"role": "system", "content": text} for text in systems]
    has_thought = False
    for turn in turns:
        if isinstance(turn, ModelTurn):
            has_thought = has_thought or any(isinstance(part, ReasoningBlock) for part in turn.parts)
            message = _Answer(dialect).message(turn)
            if message is None:
                continue
            if has_thought and dialect.has_details and "tool_calls" in message:
                message.setdefault(FIELDS[0], "")
            messages.append(message)
        else:
            messages += [_user_message(part, dialect) for part in turn.parts]
    if not dialect.has_details:
        _fill_thinking(messages)
    return messages


def _user_message(part: UserContent | Result, dialect: ChatDialect) -> Message:
    text = break_tokens(part.text) if dialect.breaks_tokens else part.text
    if isinstance(part, Result):
        if part.is_error:
            text = msgspec.json.encode({"error": text}).decode()
        return {"role": "tool", "tool_call_id": part.call_id, "content": text}
    if not part.media:
        return {"role": "user", "content": text}
    content: list[Message] = [{"type": "text", "text": text}] if text else []
    for item in part.media:
        url = item.data_url if isinstance(item, Image) else item.url
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": content}


@dataclass(slots=True)
class _Answer:
    """Collects the parts of one message of the model."""

    dialect: ChatDialect
    texts: list[str] = field(default_factory=list)
    thinking: dict[str, list[str]] = field(default_factory=dict)
    details: list[Message] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)
    extra: Any = None  # belongs to the next call

    def message(self, turn: ModelTurn) -> Message | None:
        """Return the message, None when there is nothing to send, which servers reject."""
        for part in turn.parts:
            if isinstance(part, str):
                self.texts.append(self._text(part))
            elif isinstance(part, ToolCallData):
                self._call(part)
            else:
                self._block(part)
        if not self.texts and not self.calls and not self.details:
            return None
        message: Message = {"role": "assistant"}
        message |= {name: "\n\n".join(texts) for name, texts in self.thinking.items()}
        message["content"] = "\n\n".join(self.texts) if self.texts else None
        if self.calls:
            message["tool_calls"] = self.calls
        if self.details:
            message["reasoning_details"] = self.details
        return message

    def _block(self, block: ReasoningBlock) -> None:
        if block.details.get(CALL_EXTRA) is not None:
            self.extra = block.details[CALL_EXTRA]
        elif self.dialect.has_details:
            detail = _detail(block)
            if detail is not None:
                self.details.append(detail)
        elif block.id and block.id != IN_TEXT:
            self.thinking.setdefault(block.id, []).append(self._text(block.thinking))
        else:
            self.texts.append(f"<think>\n{self._text(block.thinking)}\n</think>")

    def _call(self, call: ToolCallData) -> None:
        call_message: Message = {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": self._text(_arguments(call.input, self.dialect.breaks_tokens)),
            },
        }
        if self.extra is not None:
            call_message[CALL_EXTRA], self.extra = self.extra, None
        self.calls.append(call_message)

    def _text(self, text: str) -> str:
        return break_tokens(text) if self.dialect.breaks_tokens else text


def _arguments(text: str, breaks_tokens: bool) -> str:
    """Return the arguments as the model wrote them, so that the provider finds them in its cache of the conversation.

    Text that is no JSON object, which servers reject, becomes the value of one field. Escapes, which could hide a
    control token, are resolved if tokens are to be broken.
    """
    if not text.strip():
        return "{}"
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        value = None
    if not isinstance(value, dict):
        return msgspec.json.encode({"INVALID_JSON": text}).decode()
    return msgspec.json.encode(value).decode() if breaks_tokens and "\\u" in text else text


def _detail(block: ReasoningBlock) -> Message | None:
    """Return OpenRouter's form of a thinking block, None for thinking that came without details."""
    kind = block.details.get("type")
    common = {"type": kind, "id": block.id or None} | {name: block.details.get(name) for name in ("format", "index")}
    match kind:
        case "reasoning.text":
            return common | {"text": block.thinking, "signature": block.signature or None}
        case "reasoning.summary":
            return common | {"summary": block.thinking}
        case "reasoning.encrypted":
            return common | {"data": block.signature}
        case _:
            return None


def _fill_thinking(messages: list[Message]) -> None:
    """Give every call of the current turn the field of thinking, if the conversation uses one.

    Servers like DeepSeek's reject a call without it once the model has thought.
    """
    used = {name for message in messages if message["role"] == "assistant" for name in FIELDS if name in message}
    if len(used) != 1:
        return
    (name,) = used
    for message in reversed(messages):
        if message["role"] == "user":
            return
        if message["role"] == "assistant" and "tool_calls" in message:
            message.setdefault(name, "")
