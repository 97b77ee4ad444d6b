"""Our loop: one model request, its tool calls, again until done. No database or socket knowledge.

A step is: take in prompts that wait, create the assistant row, ask the model, run its calls, finish the row. A row is
finished exactly once (W-04). A turn that is cancelled or fails leaves what it had in `leftover`, and whoever ends the
run writes it: this file never handles a cancel.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.base.clock import Clock
from protocol.limits import Limits
from protocol.shapes.message import FinishReason, Message, ToolResultData
from worker.agent.calls import ContextMaker, StepCalls
from worker.agent.history import repair
from worker.agent.loops import LoopWatch
from worker.agent.request import StepRequest
from worker.agent.stream import MessageDraft, answers_for, calls_of
from worker.agent.transcript import Transcript
from worker.agent.usage import Usage
from worker.models.client import ModelClient, ModelRequest
from worker.tools.toolbox import Toolbox

GOES_ON: frozenset[FinishReason] = frozenset({"tool_use", "end_turn", "stop", "unknown"})
"""Reasons after which a step with calls is followed by another; some servers say `stop` although they call tools."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended by itself. The row `message_id` is finished and stored."""

    finish: FinishReason
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a turn that was cancelled or failed had not written yet.

    `message` is its open assistant row, to be ended with `stream.close_message`; with a finish part it is complete
    and must be stored as it is, if it is not yet. None: no row is open, the end needs a row of its own. `results`
    answer the calls of that row of which no row is known to be stored. `usage` is that of the attempt under way.
    """

    message: Message | None
    results: list[ToolResultData]
    usage: Usage | None


class Turn:
    """One prompt's work, with one model and one toolbox that do not change meanwhile (W-27). Used once."""

    def __init__(
        self,
        *,
        model: ModelClient,
        toolbox: Toolbox,
        tool_context: ContextMaker,
        transcript: Transcript,
        system_prompt: str,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        max_tokens: int = 0,
    ) -> None:
        """`tool_context` is given a call and the id of its assistant row. `max_tokens` 0 leaves it to the model."""
        self._model = model
        self._toolbox = toolbox
        self._tool_context = tool_context
        self._transcript = transcript
        self._system_prompt = system_prompt
        self._limits = limits
        self._clock = clock
        self._log = log
        self._max_tokens = max_tokens
        self._request = StepRequest(model=model, transcript=transcript, limits=limits, clock=clock, log=log)
        self._loops = LoopWatch()
        self._messages: list[Message] = []
        self._call_ids: set[str] = set()
        self._draft: MessageDraft | None = None
        self._calls: StepCalls | None = None

    async def run(self, history: list[Message]) -> TurnResult:
        """Work until the model is done. `history` ends with the new user row.

        Raises ModelFailure, CancelledError and what the transcript raises; `leftover` says then what is unwritten.
        """
        self._take_in(history)
        steps = 0
        while True:
            steps += 1
            draft, reason = await self._ask()
            results = await self._execute(draft)
            stop = self._why_stop(draft, reason, results, steps)
            goes_on = bool(draft.calls) and reason in GOES_ON and stop is None
            if goes_on:
                reason = "tool_use"
            elif stop is not None or (reason == "tool_use" and not goes_on):
                reason = "end_turn"
            await self._finish(draft, reason, stop or "")
            if not goes_on:
                return TurnResult(finish=reason, message_id=draft.message_id, text=draft.text)

    def leftover(self, why: str) -> Leftover:
        """What is unwritten after `run` raised. `why` answers the calls without a result (`stream.…_CALL`)."""
        usage = self._request.unaccounted()
        draft, calls = self._draft, self._calls
        if draft is None:
            return Leftover(None, [], usage)
        results: list[ToolResultData] = []
        for call in draft.calls:
            if calls is not None and call.id in calls.rows:
                continue
            known = calls.results.get(call.id) if calls is not None else None
            results.append(known or answers_for([call], why)[0])
        return Leftover(draft.snapshot(), results, usage)

    async def _ask(self) -> tuple[MessageDraft, FinishReason]:
        self._take_in(
            await self._transcript.fold_queued()
        )  # they stay in the turn, so every later step sees them (W-08)
        request = ModelRequest(
            system=self._system_prompt,
            messages=repair(self._messages, self._model.provider_id),
            tools=self._toolbox.specs,
            max_tokens=self._max_tokens,
        )
        row = await self._transcript.create_assistant(model=self._model.model.id, provider=self._model.provider_id)
        self._calls = None
        draft = self._draft = MessageDraft(row)
        return draft, await self._request.run(request, draft, self._call_ids)

    async def _execute(self, draft: MessageDraft) -> dict[str, ToolResultData]:
        if not draft.calls:
            return {}
        calls = self._calls = StepCalls(
            toolbox=self._toolbox,
            tool_context=self._tool_context,
            transcript=self._transcript,
            limits=self._limits,
            log=self._log,
            message_id=draft.message_id,
            unreadable=self._request.unreadable,
        )
        await calls.run(draft.calls)
        return calls.results

    def _why_stop(
        self, draft: MessageDraft, reason: FinishReason, results: dict[str, ToolResultData], steps: int
    ) -> str | None:
        """What ends the turn although the model would go on; "" when a result says it all, None when nothing does."""
        is_looping = self._loops.step(draft.calls, results)
        if not draft.calls or reason not in GOES_ON:
            return None
        if self._calls is not None and self._calls.has_stopped:
            return ""
        if is_looping:
            return "Stopped: the model repeats the same tool calls with the same results"
        if steps >= self._limits.steps_max:
            return f"Stopped: the limit of {self._limits.steps_max} steps was reached"
        return None

    async def _finish(self, draft: MessageDraft, reason: FinishReason, message: str) -> None:
        draft.finish(reason, int(self._clock.wall()), message=message)
        finished = draft.snapshot()
        await self._transcript.update(finished)
        rows = list(self._calls.rows.values()) if self._calls is not None else []
        self._take_in([finished, *rows])
        self._draft = self._calls = None

    def _take_in(self, messages: Sequence[Message]) -> None:
        self._messages.extend(messages)
        self._call_ids.update(call.id for message in messages for call in calls_of(message))
