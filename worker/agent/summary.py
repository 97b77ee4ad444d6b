"""The turn that writes a summary: one request without tools, whose answer stands for all that was said before.

It looks like any other turn to whoever runs it (`run`, `leftover`).
"""

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from protocol.base.clock import Clock
from protocol.limits import Limits
from protocol.shapes.message import FinishReason, Message, TextData, TextPart
from protocol.shapes.session import Todo
from worker.agent.history import repair
from worker.agent.request import StepRequest
from worker.agent.stream import MessageDraft
from worker.agent.transcript import Transcript
from worker.agent.turn import Leftover, TurnResult
from worker.models.client import ModelClient, ModelRequest
from worker.models.failures import failure

SYSTEM = """\
You write the summary that will replace a conversation between a user and a coding agent. The agent will go on from
your text alone: what you leave out is lost. Write for the agent, not for the user. Be exact and complete, without
praise and without advice that nobody asked for."""

REQUEST = """\
Summarise this conversation so far. Say, each as far as there is something to say:

- what the user wants, in his words where they matter, and every rule and preference that he gave;
- what was done: files read, made and changed with their paths, commands run and what came of them;
- what was learnt about the code: structure, names, conventions, causes of errors;
- what was decided, what was tried and failed, and why;
- the state now, and the next steps in order."""

_SUMMARY_FINISHES: frozenset[FinishReason] = frozenset({"max_tokens", "content_filter"})


def summary_request(session_id: str, todos: Sequence[Todo]) -> Message:
    """The user row that asks for the summary; it is sent and never stored."""
    text = REQUEST
    if todos:
        lines = "\n".join(f"- [{todo.status}] {todo.content}" for todo in todos)
        text += f"\n\nThis is the list of tasks. Copy it with each status, so that it can be carried on:\n{lines}"
    parts = [TextPart(TextData(text=text))]
    return Message(id="summary-request", session_id=session_id, role="user", parts=[*parts])


def as_told(history: Sequence[Message]) -> list[Message]:
    """A history that begins with a summary, as a model is told it: providers want the user to speak first."""
    if not history or not history[0].is_summary_message:
        return list(history)
    first = history[0]
    texts = [part for part in first.parts if isinstance(part, TextPart)]
    return [replace(first, role="user", parts=[*texts]), *history[1:]]


class SummaryTurn:
    """Used once."""

    def __init__(
        self, *, model: ModelClient, transcript: Transcript, limits: Limits, clock: Clock, log: logging.Logger
    ) -> None:
        self._model = model
        self._transcript = transcript
        self._clock = clock
        self._request = StepRequest(model=model, transcript=transcript, limits=limits, clock=clock, log=log)
        self._draft: MessageDraft | None = None

    async def run(self, history: list[Message]) -> TurnResult:
        """Ask once. `history` ends with the request for the summary. Raises ModelFailure."""
        row = await self._transcript.create_assistant(model=self._model.model.id, provider=self._model.provider_id)
        draft = self._draft = MessageDraft(row)
        request = ModelRequest(system=SYSTEM, messages=repair(history, self._model.provider_id))
        reason = await self._request.run(request, draft, ())
        if draft.calls or not draft.text.strip():
            raise failure("garbage", "the model gave no summary")
        reason = reason if reason in _SUMMARY_FINISHES else "end_turn"
        draft.finish(reason, int(self._clock.wall()))
        await self._transcript.update(draft.snapshot())
        self._draft = None
        return TurnResult(finish=reason, message_id=draft.message_id, text=draft.text)

    def leftover(self, why: str) -> Leftover:
        """The open row and the usage of the attempt under way."""
        draft = self._draft
        return Leftover(draft.snapshot() if draft is not None else None, [], self._request.unaccounted())
