"""Run the agent loop of one turn: a model request, its tool calls, and again until the model is done.

A step merges queued prompts, summarises when the context is full, creates the assistant row, sends the model request,
runs the tool calls, and finishes the row. A row is finished exactly once (W-04). After a cancel or a failure `leftover`
returns what is not written, and the caller that ends the run writes it: this module never handles a cancel. It knows
neither database nor sockets.
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
from worker.agent.summary import CONTINUATION_NOTE, SummaryWriter, for_model, summary_request
from worker.agent.tool_calls import ContextMaker, StepCalls
from worker.agent.transcript import Transcript
from worker.agent.turn_result import TurnResult, UnwrittenState
from worker.models.client import ModelClient, ModelFailure, ModelRequest
from worker.toolkit.toolbox import Toolbox

CONTINUING: frozenset[FinishReason] = frozenset({"tool_use", "end_turn", "stop", "unknown"})
"""Reasons after which a step with calls is followed by another; some servers say `stop` although they call tools."""


class Turn:
    """The work on one prompt, with one model and one toolbox that do not change meanwhile (W-27). Used once."""

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
        may_summarize: bool = True,
    ) -> None:
        """`tool_context` takes a call and the id of its assistant row.

        `may_summarize`: when the context is full, the conversation is summarised and the turn continues. It takes nine
        parameters because a turn connects the model, the tools and the transcript, which know nothing of each other.
        """
        self._model = model
        self._toolbox = toolbox
        self._tool_context = tool_context
        self._transcript = transcript
        self._system_prompt = system_prompt
        self._limits = limits
        self._clock = clock
        self._log = log
        self._request = StepRequest(model=model, transcript=transcript, limits=limits, clock=clock, log=log)
        self._loops = LoopDetector()
        self._budget = ContextBudget(model.model.context_window if may_summarize else 0)
        self._may_summarize = may_summarize
        self._is_summarized = False  # the next request contains only a summary
        self._prompts: list[Message] = []  # of the user in this turn
        self._messages: list[Message] = []
        self._call_ids: set[str] = set()
        self._draft: MessageDraft | None = None
        self._calls: StepCalls | None = None
        self._summary: SummaryWriter | None = None  # while one is written

    async def run(self, history: list[Message]) -> TurnResult:
        """Run steps until the model is done. `history` ends with the new user row.

        Raises ModelFailure, CancelledError and what the transcript raises; `leftover` then returns what is unwritten.
        """
        self._add_messages(history)
        self._prompts = history[-1:]
        session = await self._transcript.session()
        counted = session.prompt_tokens + session.completion_tokens if session is not None else 0
        self._budget.begin(counted, history)
        steps = 0
        while True:
            steps += 1
            draft, reason = await self._ask()
            results = await self._execute(draft)
            stop = self._stop_reason(draft, reason, results, steps)
            continues = bool(draft.calls) and reason in CONTINUING and stop is None
            if continues:
                reason = "tool_use"
            elif stop is not None:
                reason = stop[0]
            elif reason == "tool_use":
                reason = "end_turn"
            await self._finish(draft, reason, stop[1] if stop is not None else "")
            if not continues:
                return TurnResult(finish=reason, message_id=draft.message_id, text=draft.text)

    def leftover(self, why: str) -> UnwrittenState:
        """Return what is unwritten after `run` raised. `why` becomes the result of calls without one."""
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
            result = calls.results.get(call.id) if calls is not None else None
            results.append(result or answers_for([call], why)[0])
        return UnwrittenState(draft.snapshot(), results, usage)

    async def _ask(self) -> tuple[MessageDraft, FinishReason]:
        # Merged prompts stay in the turn, so that every later step sees them (W-08).
        merged = await self._transcript.merge_queued()
        self._prompts += merged
        self._add_messages(merged)
        self._budget.add(merged)
        if self._budget.is_full and len(self._messages) > 1:
            try:
                await self._summarize()
            except ModelFailure as error:  # the request may still fit: the budget is an estimate
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
        )
        row = await self._transcript.create_assistant(model=self._model.model.id, provider=self._model.provider_id)
        self._calls = None
        draft = self._draft = MessageDraft(row)
        reason = await self._request.run(request, draft, self._call_ids)
        was_summarized, self._is_summarized = self._is_summarized, False
        if was_summarized and self._budget.would_fill(self._request.prompt_tokens):
            self._log.warning("what no summary can shorten fills the context", extra=fields(message=draft.message_id))
            self._budget = ContextBudget(0)
        self._budget.measured(self._request.tokens)
        return draft, reason

    async def _summarize(self) -> None:
        """Replace the conversation by a summary. It is part of this run, and ends with it (W-06)."""
        session = await self._transcript.session()
        prompts = "\n".join(text for message in self._prompts if (text := text_of(message).strip()))
        self._summary = SummaryWriter(
            model=self._model, transcript=self._transcript, limits=self._limits, clock=self._clock, log=self._log
        )
        row = await self._summary.write(
            self._messages,
            summary_request(self._prompts[-1].session_id, session.todos if session is not None else ()),
            note=f"{CONTINUATION_NOTE}\n\n{prompts}" if prompts else "",
        )
        await self._transcript.summarized(row)
        self._summary = None
        self._log.info("summarised", extra=fields(messages=len(self._messages), message=row.id))
        # A summary cannot contain an image, so images are sent again until the end of the turn.
        images = [
            replace(message, parts=[part for part in message.parts if isinstance(part, BinaryPart)])
            for message in self._prompts
            if any(isinstance(part, BinaryPart) for part in message.parts)
        ]
        self._messages = [*for_model([row]), *images]
        self._budget.begin(0, self._messages)
        self._is_summarized = True

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

    def _stop_reason(
        self, draft: MessageDraft, reason: FinishReason, results: dict[str, ToolResultData], steps: int
    ) -> tuple[FinishReason, str] | None:
        """Return why the turn ends although the model would continue, with a text for the user; None if it does not."""
        is_looping = self._loops.step(draft.calls, results)
        if not draft.calls or reason not in CONTINUING:
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
        self._add_messages([finished, *rows])
        self._budget.add(rows)
        self._draft = self._calls = None

    def _add_messages(self, messages: Sequence[Message]) -> None:
        self._messages.extend(messages)
        self._call_ids.update(call.id for message in messages for call in calls_of(message))
