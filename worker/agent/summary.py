"""Write a summary that replaces the earlier conversation, with one request without tools.

`SummaryTurn` has the interface of a turn (`run`, `leftover`). A turn whose context is full uses `SummaryWriter` and
continues.
"""

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from protocol.api.message import FinishReason, Message, Part, TextData, TextPart, ToolResultPart
from protocol.api.session import Todo
from protocol.base.clock import Clock
from protocol.limits import Limits
from worker.agent.history import repair
from worker.agent.message_draft import MessageDraft, finish_of, text_of
from worker.agent.model_request import StepRequest
from worker.agent.transcript import Transcript
from worker.agent.turn_result import TurnResult, UnwrittenState
from worker.models.client import ModelClient, ModelFailure, ModelRequest
from worker.models.failures import failure

SYSTEM = """\
You write the summary that will replace a conversation between a user and a coding agent. The agent will continue
from your text alone: what you leave out is lost. Write for the agent, not for the user. Be exact and complete, without
praise and without unrequested advice."""

REQUEST = """\
Summarise this conversation so far. Cover each of these, as far as there is something to say:

- what the user wants, in their words where they matter, and every rule and preference that they gave;
- what was done: files read, created and changed with their paths, commands run and their results;
- what was learned about the code: structure, names, conventions, causes of errors;
- what was decided, what was tried and failed, and why;
- the state now, and the next steps in order."""

CONTINUATION_NOTE = """\
The conversation was summarised here because it had become too long for the model. The user's last request, on which
work continues without asking:"""

CLIP_CHARACTERS = 2000  # kept of the beginning and of the end of a long text when the conversation does not fit
KEPT_MIN = 4  # messages

_SUMMARY_FINISHES: frozenset[FinishReason] = frozenset({"max_tokens", "content_filter"})


def summary_request(session_id: str, todos: Sequence[Todo]) -> Message:
    """Make the user row that requests the summary; it is sent and never stored."""
    text = REQUEST
    if todos:
        lines = "\n".join(f"- [{todo.status}] {todo.content}" for todo in todos)
        text += f"\n\nThis is the list of tasks. Copy it with each status, so that the work can continue:\n{lines}"
    parts = [TextPart(TextData(text=text))]
    return Message(id="summary-request", session_id=session_id, role="user", parts=[*parts])


def for_model(history: Sequence[Message]) -> list[Message]:
    """Return a history for a model: a summary at its beginning becomes a user row, as providers require."""
    if not history or not history[0].is_summary_message:
        return list(history)
    first = history[0]
    texts = [part for part in first.parts if isinstance(part, TextPart)]
    return [replace(first, role="user", parts=[*texts]), *history[1:]]


def clipped(messages: Sequence[Message], level: int) -> list[Message]:
    """Shorten a conversation for the model that summarises it.

    `level` 0 keeps it, 1 leaves out the middle of long texts and results, 2 and more also all but the newest half,
    quarter and so on.
    """
    if level == 0:
        return list(messages)
    kept = list(messages)
    if level > 1:
        kept = kept[-max(KEPT_MIN, len(kept) >> (level - 1)) :]
    shorter = [replace(message, parts=[_clipped_part(part) for part in message.parts]) for message in kept]
    if level > 1:
        left_out = [TextPart(TextData(text="[The beginning of the conversation is left out: it is too long.]"))]
        shorter.insert(0, Message(id="left-out", session_id=kept[0].session_id, role="user", parts=[*left_out]))
    return shorter


def _clipped_part(part: Part) -> Part:
    match part:
        case TextPart(data):
            return TextPart(replace(data, text=_clipped_text(data.text)))
        case ToolResultPart(data):
            return ToolResultPart(replace(data, content=_clipped_text(data.content), data="", mime_type=""))
        case _:
            return part


def _clipped_text(text: str) -> str:
    if len(text) <= 2 * CLIP_CHARACTERS:
        return text
    left_out = len(text) - 2 * CLIP_CHARACTERS
    return f"{text[:CLIP_CHARACTERS]}\n[… {left_out} characters left out …]\n{text[-CLIP_CHARACTERS:]}"


class SummaryWriter:
    """Writes one summary. Used once."""

    def __init__(
        self, *, model: ModelClient, transcript: Transcript, limits: Limits, clock: Clock, log: logging.Logger
    ) -> None:
        self._model = model
        self._transcript = transcript
        self._clock = clock
        self._limits = limits
        self._request = StepRequest(model=model, transcript=transcript, limits=limits, clock=clock, log=log)
        self._draft: MessageDraft | None = None

    async def write(self, history: Sequence[Message], ask: Message, *, note: str = "") -> Message:
        """Return the finished row, to be stored by the caller. `ask` requests it, `note` is added to its text.

        A conversation that does not fit is clipped, more with each attempt. Raises ModelFailure.
        """
        row = await self._transcript.create_assistant(
            model=self._model.model.id, provider=self._model.provider_id, is_summary=True
        )
        draft = self._draft = MessageDraft(row)
        reason = await self._ask(history, ask, draft)
        if draft.calls or not draft.text.strip():
            raise failure("garbage", "the model gave no summary")
        if note:
            draft.add_text(f"\n\n{note}")
        draft.finish(reason if reason in _SUMMARY_FINISHES else "end_turn", int(self._clock.wall()))
        return draft.snapshot()

    async def _ask(self, history: Sequence[Message], ask: Message, draft: MessageDraft) -> FinishReason:
        level = 0
        while True:
            messages = repair([*clipped(history, level), ask], self._model.provider_id)
            try:
                return await self._request.run(ModelRequest(system=SYSTEM, messages=messages), draft, ())
            except ModelFailure as error:
                if error.category != "context_overflow" or level >= self._limits.summary_clips_max:
                    raise
                level += 1
                draft.reset()

    @property
    def open_row(self) -> Message | None:
        """Return the row as it is so far; None before it was created."""
        return self._draft.snapshot() if self._draft is not None else None

    def leftover(self) -> UnwrittenState:
        """Return the row and the usage of the attempt in progress, after `write` raised."""
        return UnwrittenState(self.open_row, [], self._request.unaccounted())


class SummaryTurn:
    """The turn of a summary that a user requested. Used once."""

    def __init__(
        self, *, model: ModelClient, transcript: Transcript, limits: Limits, clock: Clock, log: logging.Logger
    ) -> None:
        self._transcript = transcript
        self._writer = SummaryWriter(model=model, transcript=transcript, limits=limits, clock=clock, log=log)
        self._is_finished = False

    async def run(self, history: list[Message]) -> TurnResult:
        """Write the summary. `history` ends with the request for it. Raises ModelFailure."""
        row = await self._writer.write(history[:-1], history[-1])
        await self._transcript.update(row)
        self._is_finished = True
        finish = finish_of(row)
        assert finish is not None
        return TurnResult(finish=finish.reason, message_id=row.id, text=text_of(row))

    def leftover(self, why: str) -> UnwrittenState:
        """Return the open row and the usage of the attempt in progress."""
        state = self._writer.leftover()
        return UnwrittenState(None, [], state.usage) if self._is_finished else state
