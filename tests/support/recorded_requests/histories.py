"""Conversations whose requests are recorded: each is valid for a provider, as `worker/agent/history.py` leaves it."""

import base64
from typing import Any

from protocol.api.message import (
    BinaryData,
    BinaryPart,
    ImageURLData,
    ImageURLPart,
    Message,
    Part,
    ReasoningBlock,
    ReasoningData,
    ReasoningPart,
    Role,
    ShellCommandData,
    ShellCommandPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)

PROVIDER_ID = "loop"
PNG = b"\x89PNG\r\n\x1a\nno image data"
IMAGE = base64.b64encode(PNG).decode()


def row(role: Role, *parts: Part, model: str = "") -> Message:
    return Message(id="m", session_id="s1", role=role, parts=list(parts), model=model)


def text(content: str) -> TextPart:
    return TextPart(TextData(text=content))


def user(content: str) -> Message:
    return row("user", text(content))


def said(content: str) -> Message:
    return row("assistant", text(content))


def call(call_id: str, arguments: str = "{}", name: str = "view") -> ToolCallPart:
    return ToolCallPart(ToolCallData(id=call_id, name=name, input=arguments, finished=True))


def result(call_id: str, content: str = "of it", name: str = "view", **values: Any) -> ToolResultPart:
    return ToolResultPart(ToolResultData(tool_call_id=call_id, name=name, content=content, **values))


def attachment(path: str, mime_type: str, data: bytes) -> BinaryPart:
    return BinaryPart(BinaryData(path=path, mime_type=mime_type, data=data))


def reasoning(*blocks: ReasoningBlock) -> ReasoningPart:
    return ReasoningPart(ReasoningData(thinking="".join(block.thinking for block in blocks), blocks=list(blocks)))


def block(thinking: str = "", signature: str = "", **values: Any) -> ReasoningBlock:
    return ReasoningBlock(thinking=thinking, signature=signature, provider=PROVIDER_ID, **values)


_CALLS_AND_RESULTS = [
    user("hi"),
    row("assistant", text("looking"), call("c1", '{"file_path": "a"}'), call("c2")),
    row("tool", result("c1", "it failed", is_error=True), result("c2", "two\nlines")),
    said("done"),
    user("and?"),
]

HISTORIES: dict[str, list[Message]] = {
    "one_prompt": [user("hi")],
    "several_turns": [user("hi"), said("hello"), user("how are you?"), said("fine"), user("good")],
    "calls_and_results": _CALLS_AND_RESULTS,
    "ends_with_results": [
        user("hi"),
        row("assistant", call("c1", '{"file_path": "a"}')),
        row("tool", result("c1", "")),
    ],
    "calls_without_text": [user("hi"), row("assistant", call("c1", "")), row("tool", result("c1")), user("next")],
    "consecutive_rows_of_one_side": [
        user("one"),
        user("two"),
        said("three"),
        said("four"),
        user("five"),
        user("six"),
    ],
    "text_after_calls_and_several_texts": [
        user("hi"),
        row("assistant", text("first"), call("c1"), text("second")),
        row("tool", result("c1")),
        user("next"),
    ],
    "unicode_and_whitespace": [
        user("  grüße 🙂 日本語 \u2028 end  "),
        said("\n ünïcode \n"),
        user('quotes " and \\ and \x01 control'),
    ],
    "tags_in_texts": [
        user("<system>not a system message</system>"),
        said("<thinking>aloud</thinking> yes"),
        user("<system-reminder>x</system-reminder>"),
    ],
    "attachments": [
        row(
            "user",
            text("look"),
            attachment("a.png", "image/png", PNG),
            attachment("b.bmp", "image/bmp", b"BM"),
            attachment("c.json", "application/json", b'{"in": "side"}'),
            attachment("d.txt", "text/plain; charset=utf-8", b"plain words"),
            attachment("e.pdf", "application/pdf", b"%PDF"),
        )
    ],
    "only_an_image": [row("user", attachment("a.png", "image/png", PNG))],
    "image_url": [row("user", text("see"), ImageURLPart(ImageURLData(url="https://example.com/x.png")))],
    "shell_command": [
        row(
            "user",
            ShellCommandPart(ShellCommandData(command="ls", output="\x1b[31ma\x1b[0m\n", exit_code=1)),
            text("why?"),
        )
    ],
    "empty_user_row": [user("hi"), said("yes"), user("   "), user("more")],
    "media_in_results": [
        user("hi"),
        row("assistant", call("c1"), call("c2"), call("c3")),
        row(
            "tool",
            result("c1", "shown", data=IMAGE, mime_type="image/png"),
            result("c2", "sound", data=IMAGE, mime_type="audio/wav"),
            result("c3", "", data="not base64", mime_type="image/png"),
        ),
        user("and?"),
    ],
    "thinking_around_text_and_calls": [
        user("hi"),
        row(
            "assistant",
            reasoning(
                block("first", "sig-1", id="rs_1"),
                block("second", "sig-2", id="rs_2"),
                block("late", "sig-3", id="rs_3", before_text=False),
                block("third", "sig-4", id="rs_4", before_text=False, calls_before=1),
            ),
            text("looking"),
            call("c1"),
            call("c2"),
        ),
        row("tool", result("c1"), result("c2")),
        user("and?"),
    ],
    "thinking_of_one_item_signed_last": [
        user("hi"),
        row(
            "assistant",
            reasoning(block("first", id="rs_1"), block("second", "sig-1", id="rs_1"), block("unsigned", id="rs_2")),
            text("done"),
        ),
        user("and?"),
    ],
    "thinking_without_text": [
        user("hi"),
        row("assistant", reasoning(block("", "sig-1", id="rs_1")), call("c1")),
        row("tool", result("c1")),
    ],
    "redacted_thinking": [
        user("hi"),
        row(
            "assistant",
            reasoning(block("", "opaque", id="redacted_thinking"), block("seen", "sig-1")),
            text("done"),
        ),
        user("and?"),
    ],
    "thinking_at_the_end": [
        user("hi"),
        row("assistant", reasoning(block("late", "sig-1", id="rs_1", before_text=False)), text("done")),
        user("and?"),
    ],
    "unsigned_thinking": [
        user("hi"),
        row("assistant", reasoning(block("unsigned", id="rs_1")), text("done")),
        user("and?"),
    ],
    "thinking_of_another_model": [
        user("hi"),
        row("assistant", reasoning(block("other", "sig-1", id="rs_1")), text("done"), model="another"),
        user("and?"),
    ],
    "raw_reasoning": [
        user("hi"),
        row(
            "assistant",
            reasoning(block("", "sig-1", id="rs_1", details={"raw_content": ["raw one", "raw two"]})),
            text("done"),
        ),
        user("and?"),
    ],
    "many_turns": [message for n in range(6) for message in (user(f"prompt {n}"), said(f"answer {n}"))] + [user("?")],
}
