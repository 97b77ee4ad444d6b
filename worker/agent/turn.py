"""Our loop: one model request, its tool calls, again until done. No database or socket knowledge.

A step is: take in prompts that wait, summarise when the context is full, create the assistant row, ask the model, run
its calls, finish the row. A row is finished exactly once (W-04). A turn that is cancelled or fails leaves what it had
in `leftover`, and whoever ends the run writes it: this file never handles a cancel.
"""

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from protocol.api.message import BinaryPart, FinishReason, Message, ToolResultData
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.limits import Limits
from worker.agent.context_budget import ContextBudget
from worker.agent.history import repair
from worker.agent.loop_detection import LoopDetector
from worker.agent.message_draft import MessageDraft, answers_for, calls_of, text_of
from worker.agent.model_request import StepRequest
from worker.agent.summary import GOES_ON_NOTE, SummaryWriter, as_told, summary_request
from worker.agent.tool_calls import ContextMaker, StepCalls
from worker.agent.transcript import Transcript
from worker.agent.turn_result import TurnResult, UnwrittenState
from worker.models.client import ModelClient, ModelFailure, ModelRequest
from worker.toolkit.toolbox import Toolbox

GOES_ON: frozenset[FinishReason] = frozenset({"tool_use", "end_turn", "stop", "unknown"})
"""Reasons after which a step with calls is followed by another; some servers say `stop` although they call tools."""


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
        may_summarize: bool = True,
    ) -> None:
        """`tool_context` is given a call and the id of its assistant row. `max_tokens` 0 leaves it to the model.

        `may_summarize`: when the context is full, the conversation is summarised and the turn goes on.
        """
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
        self._loops = LoopDetector()
        self._budget = ContextBudget(model.model.context_window if may_summarize else 0)
        self._may_summarize = may_summarize
        self._is_short = False  # nothing stands before the next request but a summary
        self._asked: list[Message] = []  # what the user said in this turn
        self._messages: list[Message] = []
        self._call_ids: set[str] = set()
        self._draft: MessageDraft | None = None
        self._calls: StepCalls | None = None
        self._summary: SummaryWriter | None = None  # while it writes

    async def run(self, history: list[Message]) -> TurnResult:
        """Work until the model is done. `history` ends with the new user row.

        Raises ModelFailure, CancelledError and what the transcript raises; `leftover` says then what is unwritten.
        """
        self._take_in(history)
        self._asked = history[-1:]
        session = await self._transcript.session()
        counted = session.prompt_tokens + session.completion_tokens if session is not None else 0
        self._budget.begin(counted, history)
        steps = 0
        while True:
            steps += 1
            draft, reason = await self._ask()
            results = await self._execute(draft)
            stop = self._why_stop(draft, reason, results, steps)
            goes_on = bool(draft.calls) and reason in GOES_ON and stop is None
            if goes_on:
                reason = "tool_use"
            elif stop is not None:
                reason = stop[0]
            elif reason == "tool_use":
                reason = "end_turn"
            await self._finish(draft, reason, stop[1] if stop is not None else "")
            if not goes_on:
                return TurnResult(finish=reason, message_id=draft.message_id, text=draft.text)

    def leftover(self, why: str) -> UnwrittenState:
        """What is unwritten after `run` raised. `why` answers the calls without a result (`stream.…_CALL`)."""
        if self._summary is not None:
            return self._summary.leftover()
        usage = self._request.unaccounted()
        draft, calls = self._draft, self._calls
        if draft is None:
            return UnwrittenState(None, [], usage)
        results: list[ToolResultData] = []
        for call in draft.calls:
            if calls is not None and call.id in calls.rows:
                continue
            known = calls.results.get(call.id) if calls is not None else None
            results.append(known or answers_for([call], why)[0])
        return UnwrittenState(draft.snapshot(), results, usage)

    async def _ask(self) -> tuple[MessageDraft, FinishReason]:
        # They stay in the turn, so every later step sees them (W-08).
        folded = await self._transcript.fold_queued()
        self._asked += folded
        self._take_in(folded)
        self._budget.add(folded)
        if self._budget.is_full and len(self._messages) > 1:
            try:
                await self._summarize()
            except ModelFailure as error:  # the request may well fit: the budget is a guess
                self._log.warning("no summary", extra=fields(category=error.category, error=error.message))
                self._may_summarize = False
                self._budget = ContextBudget(0)
                await self._discard_summary()
        try:
            return await self._request_step()
        except ModelFailure as error:
            if error.category != "context_overflow" or not self._may_summarize or len(self._messages) < 2:
                raise
            draft, self._draft = self._draft, None
            if draft is not None:
                await self._transcript.discard(draft.snapshot())
            await self._summarize()
            return await self._request_step()

    async def _request_step(self) -> tuple[MessageDraft, FinishReason]:
        request = ModelRequest(
            system=self._system_prompt,
            messages=repair(self._messages, self._model.provider_id),
            tools=self._toolbox.specs,
            max_tokens=self._max_tokens,
        )
        row = await self._transcript.create_assistant(model=self._model.model.id, provider=self._model.provider_id)
        self._calls = None
        draft = self._draft = MessageDraft(row)
        reason = await self._request.run(request, draft, self._call_ids)
        was_short, self._is_short = self._is_short, False
        if was_short and self._budget.would_fill(self._request.prompt_tokens):
            self._log.warning("what no summary can shorten fills the context", extra=fields(message=draft.message_id))
            self._budget = ContextBudget(0)
        self._budget.measured(self._request.tokens)
        return draft, reason

    async def _summarize(self) -> None:
        """Put a summary in the place of all that was said. It is part of this run, and ends with it (W-06)."""
        session = await self._transcript.session()
        asked = "\n".join(text for message in self._asked if (text := text_of(message).strip()))
        self._summary = SummaryWriter(
            model=self._model, transcript=self._transcript, limits=self._limits, clock=self._clock, log=self._log
        )
        row = await self._summary.write(
            self._messages,
            summary_request(self._asked[-1].session_id, session.todos if session is not None else ()),
            note=f"{GOES_ON_NOTE}\n\n{asked}" if asked else "",
        )
        await self._transcript.summarized(row)
        self._summary = None
        self._log.info("summarised", extra=fields(messages=len(self._messages), message=row.id))
        # A snapshot cannot be told in words: it stays with the model to the end of the turn.
        shown = [
            replace(message, parts=[part for part in message.parts if isinstance(part, BinaryPart)])
            for message in self._asked
            if any(isinstance(part, BinaryPart) for part in message.parts)
        ]
        self._messages = [*as_told([row]), *shown]
        self._budget.begin(0, self._messages)
        self._is_short = True

    async def _discard_summary(self) -> None:
        summary, self._summary = self._summary, None
        if summary is not None and summary.open_row is not None:
            await self._transcript.discard(summary.open_row)

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
    ) -> tuple[FinishReason, str] | None:
        """What ends the turn although the model would go on, and a word on it; None when nothing does."""
        is_looping = self._loops.step(draft.calls, results)
        if not draft.calls or reason not in GOES_ON:
            return None
        if self._calls is not None and self._calls.has_stopped:
            return "end_turn", ""
        if is_looping:
            return "loop_detected", "Stopped: the model repeats the same tool calls with the same results"
        if steps >= self._limits.steps_max:
            return "step_limit", f"Stopped: the limit of {self._limits.steps_max} steps was reached"
        return None

    async def _finish(self, draft: MessageDraft, reason: FinishReason, message: str) -> None:
        draft.finish(reason, int(self._clock.wall()), message=message)
        finished = draft.snapshot()
        await self._transcript.update(finished)
        rows = list(self._calls.rows.values()) if self._calls is not None else []
        self._take_in([finished, *rows])
        self._budget.add(rows)
        self._draft = self._calls = None

    def _take_in(self, messages: Sequence[Message]) -> None:
        self._messages.extend(messages)
        self._call_ids.update(call.id for message in messages for call in calls_of(message))
