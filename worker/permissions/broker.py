"""The one place where a workspace asks its user: stores a request, tells clients, waits, stores the first answer.

Each request waits for itself (W-46). Its row and its event are one transaction, its decision and the notification of
that another; one whose run ends first is ended in the transaction of that end (`runs/ending.py`), one whose worker dies
by recovery. So whatever happens, a request that was shown is closed again (W-47).
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.api.permission import PermissionRequest, QuestionRequest, QuestionResponse
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.tasks import TaskOwner, run_shielded
from protocol.errors import BulkheadError, Conflict
from protocol.events import Event, numbered_event
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.permissions.client_presence import ClientPresence
from worker.permissions.requests import PendingRequests, RequestDecision
from worker.store import permission_requests
from worker.store.database import Database, Transaction
from worker.store.rows import RequestKind, RequestState, StoredRequest


@dataclass(frozen=True)
class BrokerAnswer:
    """What came of a request. `why` is empty when a client decided, else a sentence on what did."""

    granted: bool
    why: str = ""
    answers: Sequence[QuestionResponse] = ()


@dataclass(eq=False)
class _Waiter:
    request: PermissionRequest | QuestionRequest
    timeout_s: float | None  # None: only while nobody is there to see it
    number: int = 0
    is_gone: bool = False
    done: "asyncio.Future[RequestDecision | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    answers: Sequence[QuestionResponse] = ()
    timeout: asyncio.Timeout | None = None
    limit_s: float = 0.0  # what the running timeout was set to


class PermissionBroker:
    """The open requests of one workspace."""

    def __init__(
        self, *, database: Database, limits: Limits, clock: Clock, random: RandomSource, log: logging.Logger
    ) -> None:
        self.presence = ClientPresence(grace_s=limits.detach_grace_s)
        self._database = database
        self._limits = limits
        self._clock = clock
        self._random = random
        self._owner = TaskOwner("asks", log)
        self._pending = PendingRequests()
        self._waiters: dict[str, _Waiter] = {}

    @property
    def open_count(self) -> int:
        """How many requests wait."""
        return len(self._pending)

    @property
    def cannot_answer(self) -> bool:
        """Is the only client one that said it cannot answer?"""
        return self.presence.cannot_answer(self._clock.now())

    @property
    def is_interactive(self) -> bool | None:
        """Has a client said whether it can answer?"""
        return self.presence.is_interactive(self._clock.now())

    def new_id(self) -> str:
        """An id for a request or a question."""
        return new_uuid(self._random)

    def said(self, interactive: bool) -> None:
        """A client said whether it can answer."""
        self.presence.said(interactive, self._clock.now())

    def attached(self, clients: int) -> None:
        """So many clients listen now. The time of what waits only because nobody is there begins, or stands still."""
        before = self.presence.clients
        self.presence.attached(clients, self._clock.now())
        if bool(before) != bool(clients):
            for waiter in self._waiters.values():
                self._set_deadline(waiter)

    # --- looking ----------------------------------------------------------------------------------------------------

    def open_permissions(self) -> list[PermissionRequest]:
        """The requests that wait, the oldest first."""
        waiting = (self._waiters[asked.id].request for asked in self._pending.open("permission"))
        return [request for request in waiting if isinstance(request, PermissionRequest)]

    def open_questions(self) -> list[QuestionRequest]:
        """The questions that wait, the oldest first."""
        waiting = (self._waiters[asked.id].request for asked in self._pending.open("question"))
        return [request for request in waiting if isinstance(request, QuestionRequest)]

    def open_events(self) -> list[Event]:
        """The events that told of what waits, with their numbers."""
        found = []
        for asked in self._pending.open():
            waiter = self._waiters[asked.id]
            event = numbered_event(waiter.request, number=waiter.number, key=asked.id, session_id=asked.session_id)
            found.append(event)
        return found

    # --- asking -----------------------------------------------------------------------------------------------------

    async def ask(
        self,
        asked: StoredRequest,
        request: PermissionRequest | QuestionRequest,
        *,
        timeout_s: float | None = None,
        refusal: str = "",
    ) -> BrokerAnswer:
        """Ask and wait for what comes of it. What the session was granted before is not asked.

        `timeout_s`: refused at that deadline whoever is there; None: at `permission_wait_s` of nobody being there.
        `refusal`: nobody is to be asked; it is stored as denied for this reason. A cancel takes the request back.
        """
        waiter = _Waiter(request, timeout_s)
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> int:
            """The number of the request's event; 0: granted before, -1: refused."""
            where = (transaction, asked.session_id, asked.run_id, asked.tool_call_id)
            if asked.kind == "permission":
                if permission_requests.is_granted(transaction.connection, asked):
                    permission_requests.notify(*where)
                    permission_requests.notify(*where, granted=True)
                    return 0
                if refusal:
                    permission_requests.notify(*where, denied=True)
                    permission_requests.add(
                        transaction.connection, asked, body=None, number=0, now_ms=now_ms, refused=refusal
                    )
                    return -1
                permission_requests.notify(*where)
            transaction.emit(request, session_id=asked.session_id, run_id=asked.run_id, key=asked.id)
            number = transaction.last_number
            permission_requests.add(transaction.connection, asked, body=request, number=number, now_ms=now_ms)
            return number

        def stored(number: int) -> None:  # before its events go out, so that no answer comes too early
            if number > 0 and not waiter.is_gone:
                waiter.number = number
                self._pending.asked(asked)
                self._waiters[asked.id] = waiter

        try:
            number = await self._database.write(job, then=stored)
            if number <= 0:
                return BrokerAnswer(granted=number == 0, why=refusal if number else "granted to the session before")
            await failpoint("permission.requested")
            return await self._wait(asked, waiter)
        finally:
            waiter.is_gone = True
            self._waiters.pop(asked.id, None)
            self._pending.leave(asked.id)

    async def approve(self, session_id: str, run_id: str, tool_call_id: str) -> None:
        """Somebody else decided before anybody was asked; clients are told."""
        await self._database.write(
            lambda transaction: permission_requests.notify(transaction, session_id, run_id, tool_call_id, granted=True)
        )

    async def _wait(self, asked: StoredRequest, waiter: _Waiter) -> BrokerAnswer:
        while True:
            try:
                async with asyncio.timeout(None) as waiter.timeout:
                    self._set_deadline(waiter)
                    await asyncio.wait({waiter.done})
            except TimeoutError:
                reason = f"nobody answered within {waiter.limit_s:g} s"
                decision = self._pending.expire(asked.id, reason)
                if decision is not None:
                    await self._settled(decision)
                    return BrokerAnswer(granted=False, why=reason)
                # Somebody was faster by a moment: that is being stored.
                await asyncio.wait({waiter.done}, timeout=self._limits.storage_job_s)
            finally:
                waiter.timeout = None
            if waiter.done.done():
                decision = waiter.done.result()
                if decision is None:
                    return BrokerAnswer(granted=False, why="the request was closed")
                return BrokerAnswer(granted=decision.granted, answers=waiter.answers)

    def _set_deadline(self, waiter: _Waiter) -> None:
        if waiter.timeout is None or waiter.timeout.expired():
            return
        timeout_s = waiter.timeout_s
        if timeout_s is None and not self.presence.clients:
            timeout_s = self._limits.permission_wait_s
        waiter.limit_s = timeout_s or 0.0
        if timeout_s is None:
            waiter.timeout.reschedule(None)
        elif waiter.timeout_s is None or waiter.timeout.when() is None:  # a deadline of its own is set once
            waiter.timeout.reschedule(asyncio.get_running_loop().time() + timeout_s)

    # --- answering --------------------------------------------------------------------------------------------------

    async def decide(
        self, ask_id: str, kind: RequestKind, resolution: str, *, granted: bool, for_session: bool = False
    ) -> bool:
        """A client decides a request; False when somebody else was first, or there is no such request.

        Raises Conflict `no_longer_asked` when nobody waits for the answer any more, and what the database raises: the
        request is then open again.
        """
        return await self._decide(ask_id, kind, resolution, (), granted=granted, for_session=for_session)

    async def answer(self, batch_id: str, answers: Sequence[QuestionResponse]) -> bool:
        """A client answers a batch of questions, as `decide`."""
        return await self._decide(batch_id, "question", "answered", answers, granted=True)

    async def _decide(
        self,
        ask_id: str,
        kind: RequestKind,
        resolution: str,
        answers: Sequence[QuestionResponse],
        *,
        granted: bool,
        for_session: bool = False,
    ) -> bool:
        waiter = self._waiters.get(ask_id)
        if waiter is None or (kind == "question") is not isinstance(waiter.request, QuestionRequest):
            return await self._late(ask_id)
        decision = self._pending.resolve(ask_id, resolution, granted=granted, for_session=for_session)
        if decision is None:
            return False
        waiter.answers = answers
        if not await self._settled(decision):
            return await self._late(ask_id)
        if decision.for_session:
            for other in self._pending.alike(decision.asked):
                also = self._pending.resolve(other.id, f"{resolution} of {ask_id}", granted=True)
                if also is not None:
                    await self._settled(also)
        return True

    async def _settled(self, decision: RequestDecision) -> bool:
        """`_store`, although its caller may leave meanwhile: who was first has decided."""
        timeout_s = 2 * self._limits.storage_job_s
        return await run_shielded(
            self._store(decision), owner=self._owner, timeout_s=timeout_s, name=f"decide-{decision.asked.id}"
        )

    async def _store(self, decision: RequestDecision) -> bool:
        """Bring a decision to disk, and wake who waits for it; False when the request had ended in the file."""
        asked = decision.asked
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> bool:
            if not permission_requests.end(
                transaction.connection, asked.id, decision.state, decision.resolution, now_ms
            ):
                return False
            if decision.for_session:
                permission_requests.grant(transaction.connection, asked, now_ms)
            permission_requests.tell_end(
                transaction,
                asked.id,
                asked.kind,
                asked.session_id,
                asked.run_id,
                asked.tool_call_id,
                granted=decision.granted,
            )
            return True

        def stored(is_ours: bool) -> None:
            self._pending.stored(asked.id)
            waiter = self._waiters.get(asked.id)
            if waiter is not None and not waiter.done.done():
                waiter.done.set_result(decision if is_ours else None)

        try:
            return await self._database.write(job, then=stored, is_ending=True)
        except BulkheadError:
            if asked.id in self._pending:
                self._pending.undone(asked.id)
            raise

    async def _late(self, ask_id: str) -> bool:
        """An answer to what is not open here: False, or Conflict when nobody will ever read it."""
        if ask_id in self._pending:
            return False  # somebody was first, and that is being stored
        found = (
            await self._database.read(lambda connection: permission_requests.outcome(connection, ask_id))
            if ask_id
            else None
        )
        if found is None or found.state is RequestState.RESOLVED:
            return False
        why = found.resolution or "its run is over"
        raise Conflict(f"cannot answer this: nobody waits for it any more, because {why}", code="no_longer_asked")

    async def close(self) -> None:
        """The worker closes. What still waits belongs to runs that recovery will end."""
        await self._owner.close(self._limits.settle_s)
