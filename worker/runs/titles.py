"""Gives a session that nobody named a title of a model's making, beside its first run and without holding it up.

Until then the session bears the beginning of its first prompt. Only that is replaced: a title that somebody chose
meanwhile stays (W-34). What it cost is added to the session; its gauges stay those of the conversation (W-33).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.errors import BulkheadError
from protocol.limits import Limits
from worker.agent.titles import title_of, title_request
from worker.agent.usage import cost_of
from worker.models.client import Finished, ModelClient, ModelFailure, TextDelta
from worker.store import sessions
from worker.store.database import Database, Transaction

ANSWER_CHARACTERS = 20_000


class Titles:
    """Names sessions."""

    def __init__(
        self,
        *,
        database: Database,
        models: Callable[[], Sequence[ModelClient]],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`models` gives those to ask, the first one first; none when no model can think of a title."""
        self._database = database
        self._models = models
        self._limits = limits
        self._clock = clock
        self._log = log

    async def name(self, session_id: str, prompt: str, so_far: str) -> None:
        """Replace the title `so_far`. Never raises but for a cancel: a title is worth no failure."""
        try:
            async with asyncio.timeout(self._limits.title_s):
                for model in self._models():
                    title, cost = await self._ask(model, prompt)
                    await self._database.write(
                        partial(self._store, session_id=session_id, title=title, so_far=so_far, cost=cost)
                    )
                    if title:
                        return
        except (TimeoutError, BulkheadError) as error:
            self._log.info("no title", extra=fields(session=session_id, error=error))

    async def _ask(self, model: ModelClient, prompt: str) -> tuple[str, float]:
        """The title, "" for none, and what asking for it cost."""
        text = ""
        try:
            async with aclosing(model.stream(title_request(prompt, thinks=model.model.can_reason))) as events:
                async for event in events:
                    match event:
                        case TextDelta(more) if len(text) < ANSWER_CHARACTERS:
                            text += more
                        case Finished(reason, tokens):
                            cost = 0.0 if model.is_flat_rate else cost_of(model.model, tokens)
                            return (title_of(text) if reason != "max_tokens" else ""), cost
                        case _:
                            pass
        except ModelFailure as error:
            self._log.info("no title from a model", extra=fields(model=model.model.id, category=error.category))
        return "", 0.0

    def _store(self, transaction: Transaction, *, session_id: str, title: str, so_far: str, cost: float) -> None:
        connection = transaction.connection
        now = int(self._clock.wall())
        is_renamed = bool(title) and sessions.rename(connection, session_id, so_far, title)
        if cost:
            sessions.account(connection, session_id, input_tokens=0, output_tokens=0, cost=cost, now=now)
        session = sessions.get(connection, session_id)
        if session is not None and (is_renamed or cost):
            transaction.emit(session, "updated", session_id=session_id)
