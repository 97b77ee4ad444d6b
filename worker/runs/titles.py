"""Let a model find a title for a session without one, beside the session's first run and without delaying it.

Until then the title is the beginning of the first prompt. Only that is replaced: a title that a client has set
meanwhile stays (W-34). The cost is added to the session; its token counts stay those of the conversation (W-33).
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
from worker.store.database import Database, Transaction
from worker.store.tables import sessions

ANSWER_CHARACTERS = 20_000


class Titles:
    """Find titles for sessions."""

    def __init__(
        self,
        *,
        database: Database,
        models: Callable[[], Sequence[ModelClient]],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`models` returns the models to ask, in order; empty when no model can find a title."""
        self._database = database
        self._models = models
        self._limits = limits
        self._clock = clock
        self._log = log

    async def name(self, session_id: str, prompt: str, so_far: str) -> None:
        """Replace the title `so_far`. Raises nothing but a cancel: a missing title must not fail a run."""
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
        """Return the title ("" for none) and the cost of asking for it."""
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
