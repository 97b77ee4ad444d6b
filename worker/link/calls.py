"""Run the calls of a supervisor and send their answers: each call once, also when it is repeated."""

import asyncio
import logging
import os
from collections.abc import Callable

from protocol.base.failpoints import ENVIRONMENT, FailpointRaised, failpoint
from protocol.base.tasks import TaskOwner
from protocol.codec import TooLarge
from protocol.errors import BadInput
from protocol.messages import Answer, Call
from worker.operations.reply_cache import CachedReply, ReplyCache
from worker.operations.table import OperationTable


class CallRunner:
    """Runs each call as a task of its own."""

    def __init__(
        self, *, table: OperationTable, replies: ReplyCache, send: Callable[[Answer], None], log: logging.Logger
    ) -> None:
        """`send` raises TooLarge for an answer that does not fit into a message."""
        self._table = table
        self._replies = replies
        self._send = send
        self._tasks = TaskOwner("link", log)
        self._bound: dict[str, asyncio.Task[None]] = {}  # calls that end when their caller leaves
        self._has_failpoints = ENVIRONMENT in os.environ

    def start(self, call: Call) -> None:
        """Run the call, or answer from the cache when it was run before."""
        match self._replies.begin(call.call_id):
            case CachedReply.NEW:
                task = self._tasks.start(self._run(call), call.operation)
                if self._table.is_bound(call.operation):
                    self._bound[call.call_id] = task
            case CachedReply.RUNNING:
                pass  # its one answer goes to the supervisor that is connected then
            case Answer() as answer:
                self._answer(answer)

    def cancel(self, call_id: str) -> None:
        """The caller left: end the call if its operation is bound to the caller."""
        if (task := self._bound.get(call_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel the calls that still run and wait for their end, bounded."""
        await self._tasks.close()

    async def _run(self, call: Call) -> None:
        try:
            answer = await self._table.run(call)
        except asyncio.CancelledError:
            self._replies.dropped(call.call_id)
            raise
        finally:
            self._bound.pop(call.call_id, None)
        self._replies.finished(answer)
        if self._has_failpoints:
            try:
                await failpoint("answer.before_send")
            except (FailpointRaised, OSError):
                return  # lost, as the test asked
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        try:
            self._send(answer)
        except TooLarge as error:
            refused = BadInput(f"cannot answer: {error}", code="too_large", status=500)
            self._send(Answer(call_id=answer.call_id, status=refused.status, error=refused.info()))
