"""Turn the events of a run into terminal output: the text of the answer as it grows, and one-line notes.

Events carry whole messages, so this remembers what was already shown of each message.
"""

from dataclasses import dataclass, field

from protocol.api.agent import RunComplete
from protocol.api.message import (
    Message,
    ReasoningPart,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)

NOTE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece of the answer, for standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """One line about the progress of the run, for standard error."""

    text: str


Shown = Text | Note


@dataclass
class _ShownMessage:
    """What was already shown of one message."""

    text: str = ""
    calls: set[str] = field(default_factory=set)
    has_reasoning: bool = False


class RunOutput:
    """Shows one run of one session. While `is_open` is False, messages belong to an earlier run and are skipped."""

    def __init__(self, session_id: str, prompt: str, *, is_open: bool) -> None:
        self.is_open = is_open
        self._session_id = session_id
        self._prompt = prompt
        self._messages: dict[str, _ShownMessage] = {}
        self._is_line_open = False

    def may_begin(self, message: Message) -> bool:
        """Return whether this message could be the run's own prompt, with which its messages begin."""
        if self.is_open or message.role != "user" or message.session_id != self._session_id:
            return False
        return text_of(message) == self._prompt

    def take(self, message: Message) -> list[Shown]:
        """Return what to show for the current version of a message."""
        if not self.is_open or message.session_id != self._session_id:
            return []
        match message.role:
            case "assistant":
                return self._assistant(message)
            case "tool":
                return [Note(_result_line(part.data)) for part in message.parts if isinstance(part, ToolResultPart)]
            case _:
                return []

    def finish(self, complete: RunComplete) -> list[Shown]:
        """Return what remains to be shown of a run that has ended."""
        previous = self._messages.setdefault(complete.message_id, _ShownMessage())
        shown = self._new_text(previous, complete.text) if complete.text else []
        if self._is_line_open:
            self._is_line_open = False
            shown.append(Text("\n"))
        return shown

    def _assistant(self, message: Message) -> list[Shown]:
        shown: list[Shown] = []
        previous = self._messages.setdefault(message.id, _ShownMessage())
        for part in message.parts:
            match part:
                case TextPart(data) if data.text:
                    shown += self._new_text(previous, data.text)
                case ReasoningPart(data) if data.finished_at and not previous.has_reasoning and data.thinking:
                    previous.has_reasoning = True
                    shown += [*self._close_line(), Note(f"· {_short(data.thinking)}")]
                case ToolCallPart(data) if data.finished and data.id not in previous.calls:
                    previous.calls.add(data.id)
                    shown += [*self._close_line(), Note(_call_line(data))]
                case _:
                    pass
        return shown

    def _new_text(self, previous: _ShownMessage, text: str) -> list[Shown]:
        if text == previous.text or (len(text) < len(previous.text) and previous.text.startswith(text)):
            return []  # an older snapshot, or the same one again
        shown: list[Shown] = []
        if text.startswith(previous.text):
            addition = text[len(previous.text) :]
            if not previous.text:
                shown += self._close_line()  # ends the text of the previous step
        else:
            shown += [*self._close_line(), Note("the model started this part again")]
            addition = text
        previous.text = text
        self._is_line_open = not addition.endswith("\n")
        return [*shown, Text(addition)]

    def _close_line(self) -> list[Shown]:
        if not self._is_line_open:
            return []
        self._is_line_open = False
        return [Text("\n")]


def text_of(message: Message) -> str:
    """Return the text of a message, "" when it has none."""
    return next((part.data.text for part in message.parts if isinstance(part, TextPart)), "")


def _call_line(call: ToolCallData) -> str:
    return f"→ {call.name} {_short(call.input)}".rstrip()


def _result_line(result: ToolResultData) -> str:
    mark = "✗" if result.is_error else "✓"
    return f"  {mark} {result.name}: {_short(result.content) or 'no output'}"


def _short(text: str) -> str:
    flat = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return flat if len(flat) <= NOTE_WIDTH else flat[: NOTE_WIDTH - 1] + "…"
