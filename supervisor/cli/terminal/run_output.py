"""◇ From the events of a run to what a terminal shows of it: the answer's text as it grows, and notes beside it.

Events carry whole messages, not what was added; what was shown of each message is remembered here.
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
    """More of the answer, for standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """One line about what goes on, for standard error."""

    text: str


Shown = Text | Note


@dataclass
class _Known:
    """What was shown of one message."""

    text: str = ""
    calls: set[str] = field(default_factory=set)
    has_thought: bool = False


class RunOutput:
    """One run in one session. `is_open`: from when on messages belong to the run; until then they are another's."""

    def __init__(self, session_id: str, prompt: str, *, is_open: bool) -> None:
        self.is_open = is_open
        self._session_id = session_id
        self._prompt = prompt
        self._known: dict[str, _Known] = {}
        self._is_line_open = False

    def may_begin(self, message: Message) -> bool:
        """Could this message be the prompt itself, with which the run begins?"""
        if self.is_open or message.role != "user" or message.session_id != self._session_id:
            return False
        return text_of(message) == self._prompt

    def take(self, message: Message) -> list[Shown]:
        """What a message of this moment adds."""
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
        """What is still to be shown of a run that has ended."""
        known = self._known.setdefault(complete.message_id, _Known())
        shown = self._more(known, complete.text) if complete.text else []
        if self._is_line_open:
            self._is_line_open = False
            shown.append(Text("\n"))
        return shown

    def _assistant(self, message: Message) -> list[Shown]:
        shown: list[Shown] = []
        known = self._known.setdefault(message.id, _Known())
        for part in message.parts:
            match part:
                case TextPart(data) if data.text:
                    shown += self._more(known, data.text)
                case ReasoningPart(data) if data.finished_at and not known.has_thought and data.thinking:
                    known.has_thought = True
                    shown += [*self._close_line(), Note(f"· {_short(data.thinking)}")]
                case ToolCallPart(data) if data.finished and data.id not in known.calls:
                    known.calls.add(data.id)
                    shown += [*self._close_line(), Note(_call_line(data))]
                case _:
                    pass
        return shown

    def _more(self, known: _Known, text: str) -> list[Shown]:
        if text == known.text or (len(text) < len(known.text) and known.text.startswith(text)):
            return []  # an older snapshot, or the same again
        shown: list[Shown] = []
        if text.startswith(known.text):
            more = text[len(known.text) :]
            if not known.text:
                shown += self._close_line()  # the text of another step stands above
        else:
            shown += [*self._close_line(), Note("the model began this part again")]
            more = text
        known.text = text
        self._is_line_open = not more.endswith("\n")
        return [*shown, Text(more)]

    def _close_line(self) -> list[Shown]:
        if not self._is_line_open:
            return []
        self._is_line_open = False
        return [Text("\n")]


def text_of(message: Message) -> str:
    """The text of a message, "" when it has none."""
    return next((part.data.text for part in message.parts if isinstance(part, TextPart)), "")


def _call_line(call: ToolCallData) -> str:
    return f"→ {call.name} {_short(call.input)}".rstrip()


def _result_line(result: ToolResultData) -> str:
    mark = "✗" if result.is_error else "✓"
    return f"  {mark} {result.name}: {_short(result.content) or 'no output'}"


def _short(text: str) -> str:
    flat = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return flat if len(flat) <= NOTE_WIDTH else flat[: NOTE_WIDTH - 1] + "…"
