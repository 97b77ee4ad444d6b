"""Send one model request of a turn, with its retries, and stream the answer into the draft and the transcript.

Only this module retries, before any tool of the step has run, so that no tool runs twice (W-29). What a failed attempt
streamed is dropped before the delay, and a cancel ends the delay at once.
"""

import asyncio
import logging
from collections.abc import Collection
from contextlib import aclosing

import msgspec

from protocol.api.agent import AgentEvent
from protocol.api.message import FinishReason
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.limits import Limits
from worker.agent.message_draft import EMPTY_INPUT, MessageDraft
from worker.agent.transcript import Transcript
from worker.agent.usage import Ended, Usage, measure
from worker.models.client import (
    Counted,
    Finished,
    ModelClient,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.failures import cut_off
from worker.models.retry import delay_before_retry

_as_object = msgspec.json.Decoder(dict[str, object])


class StepRequest:
    """Sends the requests of one turn, one after the other."""

    def __init__(
        self, *, model: ModelClient, transcript: Transcript, limits: Limits, clock: Clock, log: logging.Logger
    ) -> None:
        self._model = model
        self._transcript = transcript
        self._limits = limits
        self._clock = clock
        self._log = log
        self._tokens = Tokens()
        self.tokens = 0
        """Tokens of the last request that was answered, with its answer."""
        self.prompt_tokens = 0
        """Tokens of that request alone."""
        self._in_progress: tuple[ModelRequest, MessageDraft] | None = None
        self._unique_ids: dict[str, list[str]] = {}  # for each id of the model, of the calls whose input is incomplete
        self._taken: set[str] = set()
        self.unreadable: set[str] = set()
        """Ids of the calls of the last step whose input was not a JSON object; their stored input is `{}`."""

    async def run(self, request: ModelRequest, draft: MessageDraft, taken: Collection[str]) -> FinishReason:
        """Fill `draft` with the answer and return why it ended. `taken` are call ids that are already in use.

        Raises ModelFailure after the last attempt; the draft then has what that attempt streamed.
        """
        attempts = 0
        while True:
            attempts += 1
            self._unique_ids, self._taken, self.unreadable = {}, set(taken), set()
            self._tokens = Tokens()
            self._in_progress = (request, draft)
            try:
                reason = await self._attempt(request, draft)
            except ModelFailure as error:
                await self._account("failed")
                delay_s = delay_before_retry(error, attempts, self._limits)
                if delay_s is None:
                    raise
                await self._announce_retry(error, attempts, delay_s, draft)
                await asyncio.sleep(delay_s)
                continue
            await self._account("completed")
            return reason

    def unaccounted(self) -> Usage | None:
        """Return the usage of an attempt that a cancel ended, to be written with the last rows; None without one."""
        if self._in_progress is None:
            return None
        return self._usage("cancelled")

    async def _attempt(self, request: ModelRequest, draft: MessageDraft) -> FinishReason:
        finished: Finished | None = None
        async with aclosing(self._model.stream(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    finished = event
                    break
                if isinstance(event, Counted):
                    self._tokens = event.tokens
                    continue
                if self._apply(event, draft):
                    await self._transcript.update(draft.snapshot())
                else:
                    self._transcript.grown(draft)
        if finished is None:
            raise cut_off()
        self._tokens = finished.tokens
        self._close_open_calls(draft)
        return finished.reason

    def _apply(self, event: ModelEvent, draft: MessageDraft) -> bool:
        """Add the event to the draft. Return whether the draft must be stored at once."""
        match event:
            case TextDelta(text):
                draft.add_text(text)
                return False
            case ThinkingDelta(text):
                draft.add_thinking(text, self._now())
                return False
            case ThinkingEnd(signature, block_id, provider, details):
                return draft.end_thinking(
                    self._now(), signature=signature, block_id=block_id, provider=provider, details=details
                )
            case ToolCallStart(call_id, name):
                draft.start_tool_call(self._unique(call_id), name)
            case ToolCallEnd(call_id, text) if self._unique_ids.get(call_id):
                unique = self._unique_ids[call_id].pop(0)
                draft.end_tool_call(unique, self._check_input(unique, text))
            case _:
                return False
        return True

    def _unique(self, call_id: str) -> str:
        """Return an id that is unique in this conversation; some servers reuse ids (L06)."""
        base = call_id or "call"
        unique, count = base, 1
        while unique in self._taken:
            count += 1
            unique = f"{base}_{count}"
        self._taken.add(unique)
        self._unique_ids.setdefault(call_id, []).append(unique)
        return unique

    def _check_input(self, call_id: str, text: str) -> str:
        if not text.strip():
            return EMPTY_INPUT  # a tool without parameters
        try:
            _as_object.decode(text)
        except msgspec.MsgspecError:
            self.unreadable.add(call_id)
            return EMPTY_INPUT
        return text

    def _close_open_calls(self, draft: MessageDraft) -> None:
        for call in draft.calls:
            if not call.finished:
                self.unreadable.add(call.id)
                draft.end_tool_call(call.id, EMPTY_INPUT)

    async def _announce_retry(self, error: ModelFailure, attempts: int, delay_s: float, draft: MessageDraft) -> None:
        self._log.warning(
            "model request failed, trying again",
            extra=fields(category=error.category, status=error.provider_status, attempt=attempts, in_s=delay_s),
        )
        await self._reset(draft)
        text = f"{error.title}: {error.message} (attempt {attempts}, next in {delay_s:g} s)"
        await self._transcript.agent_event(AgentEvent(type="retrying", progress=text))

    async def _reset(self, draft: MessageDraft) -> None:
        had_calls = bool(draft.calls)
        draft.reset()
        if had_calls:
            await self._transcript.update(draft.snapshot())
        else:
            self._transcript.grown(draft)

    async def _account(self, ended: Ended) -> None:
        usage = self._usage(ended)
        if ended == "completed":
            self.prompt_tokens = usage.prompt_tokens
            self.tokens = usage.prompt_tokens + usage.completion_tokens
        self._in_progress = None  # a cancel from here on has nothing to account for
        await self._transcript.account(usage)

    def _usage(self, ended: Ended) -> Usage:
        assert self._in_progress is not None
        request, draft = self._in_progress
        return measure(
            self._model.model,
            self._tokens,
            request=request.messages,
            system=request.system,
            answer=draft.snapshot(),
            ended=ended,
            is_flat_rate=self._model.is_flat_rate,
        )

    def _now(self) -> int:
        return int(self._clock.wall())
