"""Build the message rows that a run writes around its turn. Ids and times are given by the caller."""

from protocol.api.message import (
    Attachment,
    BinaryData,
    BinaryPart,
    FinishData,
    FinishPart,
    FinishReason,
    Message,
    Part,
    ShellCommandData,
    ShellCommandPart,
    TextData,
    TextPart,
    ToolResultData,
    ToolResultPart,
)
from worker.agent.titles import TITLE_COLUMNS

_STOP = FinishPart(FinishData(reason="stop", time=0))


def user_row(*, row_id: str, session_id: str, prompt: str, attachments: list[Attachment], now: int) -> Message:
    """Build the row of a prompt: its text, even when that is empty, and one binary part for each attachment."""
    parts: list[Part] = [TextPart(TextData(text=prompt))]
    for attachment in attachments:
        data = BinaryData(path=attachment.file_path, mime_type=attachment.mime_type, data=attachment.content)
        parts.append(BinaryPart(data))
    parts.append(_STOP)
    return Message(id=row_id, session_id=session_id, role="user", parts=parts, created_at=now, updated_at=now)


def shell_row(*, row_id: str, session_id: str, command: str, output: str, exit_code: int, now: int) -> Message:
    """Build the row of a command that the user ran, with its output."""
    data = ShellCommandData(command=command, output=output, exit_code=exit_code)
    parts: list[Part] = [ShellCommandPart(data), _STOP]
    return Message(id=row_id, session_id=session_id, role="user", parts=parts, created_at=now, updated_at=now)


def assistant_row(*, row_id: str, session_id: str, model: str, provider: str, now: int) -> Message:
    """Build the row of an answer that has not begun."""
    return Message(
        id=row_id,
        session_id=session_id,
        role="assistant",
        parts=[],
        model=model,
        provider=provider,
        created_at=now,
        updated_at=now,
    )


def ended_row(
    *,
    row_id: str,
    session_id: str,
    model: str,
    provider: str,
    reason: FinishReason,
    title: str,
    details: str,
    now: int,
) -> Message:
    """Build the row of an answer that only says why there is none."""
    finish = FinishPart(FinishData(reason=reason, time=now, message=title, details=details))
    return Message(
        id=row_id,
        session_id=session_id,
        role="assistant",
        parts=[finish],
        model=model,
        provider=provider,
        created_at=now,
        updated_at=now,
    )


def tool_row(*, row_id: str, session_id: str, result: ToolResultData, now: int) -> Message:
    """Build the row of the result of one tool call."""
    parts: list[Part] = [ToolResultPart(result), _STOP]
    return Message(id=row_id, session_id=session_id, role="tool", parts=parts, created_at=now, updated_at=now)


def title_from(prompt: str) -> str:
    """Return a title for a session without one: the first line of its first prompt, cut to `TITLE_COLUMNS`."""
    for line in prompt.splitlines():
        words = " ".join(line.split())
        if words:
            return words if len(words) <= TITLE_COLUMNS else words[: TITLE_COLUMNS - 1].rstrip() + "…"
    return ""
