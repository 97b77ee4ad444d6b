"""Ask the user of a workspace: store a request, notify clients, wait, and store the first answer.

Each request waits independently of the others (W-46). Its row and its event are one transaction, its decision and the
notification of that another. When its run ends first, the transaction of that end (`runs/run_end.py`) closes it; when
the worker dies, recovery does. So every request that was shown is closed again (W-47).
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
from worker.store.database import Database, Transaction
from worker.store.rows import RequestKind, RequestState, StoredRequest
from worker.store.tables import permission_requests


@dataclass(frozen=True)
class BrokerAnswer:
    """The outcome of a request. `why` is empty when a client decided, else the reason for the outcome."""

    granted: bool
    why: str = ""
    answers: Sequence[QuestionResponse] = ()


@dataclass(eq=False)
class _Waiter:
    shape: PermissionRequest | QuestionRequest
    timeout_s: float | None  # None: the time counts only while no client listens
    number: int = 0  # of the event that showed it
    is_abandoned: bool = False
    done: "asyncio.Future[RequestDecision | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    answers: Sequence[QuestionResponse] = ()
    timeout: asyncio.Timeout | None = None
    limit_s: float = 0.0  # the value of the running timeout


class PermissionBroker:
    """Ask for permissions and answers, and keep the open requests of one workspace."""

    def __init__(
        self, *, database: Database, limits: Limits, clock: Clock, random: RandomSource, log: logging.Logger
    ) -> None:
        self.presence = ClientPresence(grace_s=limits.detach_grace_s)
        self._database = database
        self._limits = limits
        self._clock = clock
        self._random = random
        self._owner = TaskOwner("requests", log)
        self._pending = PendingRequests()
        self._waiters: dict[str, _Waiter] = {}

    @property
    def open_count(self) -> int:
        """The number of open requests."""
        return len(self._pending)

    @property
    def cannot_answer(self) -> bool:
        """Return whether the only client said that it cannot answer."""
        return self.presence.cannot_answer(self._clock.now())

    @property
    def is_interactive(self) -> bool | None:
        """What clients said: True when one can answer, False when none can, None when none has said so."""
        return self.presence.is_interactive(self._clock.now())

    def new_id(self) -> str:
        """Make an id for a request or a question."""
        return new_uuid(self._random)

    def said(self, interactive: bool) -> None:
        """Record that a client said whether it can answer."""
        self.presence.said(interactive, self._clock.now())

    def attached(self, clients: int) -> None:
        """Set the number of listening clients. Starts or stops the no-client timeout of open requests."""
        before = self.presence.clients
        self.presence.attached(clients, self._clock.now())
        if bool(before) != bool(clients):
            for waiter in self._waiters.values():
                self._set_deadline(waiter)

    # --- open requests ----------------------------------------------------------------------------------------------

    def open_permissions(self) -> list[PermissionRequest]:
        """Return the open permission requests, the oldest first."""
        shapes = (self._waiters[request.id].shape for request in self._pending.open("permission"))
        return [shape for shape in shapes if isinstance(shape, PermissionRequest)]

    def open_questions(self) -> list[QuestionRequest]:
        """Return the open batches of questions, the oldest first."""
        shapes = (self._waiters[request.id].shape for request in self._pending.open("question"))
        return [shape for shape in shapes if isinstance(shape, QuestionRequest)]

    def open_events(self) -> list[Event]:
        """Return the events that showed the open requests, with their numbers."""
        events = []
        for request in self._pending.open():
            waiter = self._waiters[request.id]
            event = numbered_event(waiter.shape, number=waiter.number, key=request.id, session_id=request.session_id)
            events.append(event)
        return events

    # --- asking -----------------------------------------------------------------------------------------------------

    async def ask(
        self,
        request: StoredRequest,
        shape: PermissionRequest | QuestionRequest,
        *,
        timeout_s: float | None = None,
        refusal: str = "",
    ) -> BrokerAnswer:
        """Ask, wait for the outcome and return it. A permission that the session has already is granted at once.

        `shape` is the request as clients see it. `timeout_s`: refuse after this time in any case; None: after
        `permission_wait_s` without a listening client. `refusal`: ask no client, and store the request as denied for
        this reason. A cancel takes the request back.
        """
        waiter = _Waiter(shape, timeout_s)
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> int:
            """Return the number of the request's event; 0: granted before, -1: refused."""
            call = (transaction, request.session_id, request.run_id, request.tool_call_id)
            if request.kind == "permission":
                if permission_requests.is_granted(transaction.connection, request):
                    permission_requests.notify(*call)
                    permission_requests.notify(*call, granted=True)
                    return 0
                if refusal:
                    permission_requests.notify(*call, denied=True)
                    permission_requests.add(
                        transaction.connection, request, body=None, number=0, now_ms=now_ms, refused=refusal
                    )
                    return -1
                permission_requests.notify(*call)
            transaction.emit(shape, session_id=request.session_id, run_id=request.run_id, key=request.id)
            number = transaction.last_number
            permission_requests.add(transaction.connection, request, body=shape, number=number, now_ms=now_ms)
            return number

        def stored(number: int) -> None:  # before its events are published, so that no answer comes too early
            if number > 0 and not waiter.is_abandoned:
                waiter.number = number
                self._pending.add(request)
                self._waiters[request.id] = waiter

        try:
            number = await self._database.write(job, on_commit=stored)
            if number <= 0:
                return BrokerAnswer(granted=number == 0, why=refusal if number else "granted to the session before")
            await failpoint("permission.requested")
            return await self._wait(request, waiter)
        finally:
            waiter.is_abandoned = True
            self._waiters.pop(request.id, None)
            self._pending.abandon(request.id)

    async def approve(self, session_id: str, run_id: str, tool_call_id: str) -> None:
        """Notify clients that a call is granted, which a hook decided without asking."""
        await self._database.write(
            lambda transaction: permission_requests.notify(transaction, session_id, run_id, tool_call_id, granted=True)
        )

    async def _wait(self, request: StoredRequest, waiter: _Waiter) -> BrokerAnswer:
        while True:
            try:
                async with asyncio.timeout(None) as waiter.timeout:
                    self._set_deadline(waiter)
                    await asyncio.wait({waiter.done})
            except TimeoutError:
                reason = f"no client answered within {waiter.limit_s:g} s"
                decision = self._pending.expire(request.id, reason)
                if decision is not None:
                    await self._store_shielded(decision)
                    return BrokerAnswer(granted=False, why=reason)
                # A client was faster by a moment: its decision is being stored.
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
        elif waiter.timeout_s is None or waiter.timeout.when() is None:  # the request's own deadline is set once
            waiter.timeout.reschedule(asyncio.get_running_loop().time() + timeout_s)

    # --- answering --------------------------------------------------------------------------------------------------

    async def decide(
        self, request_id: str, kind: RequestKind, resolution: str, *, granted: bool, for_session: bool = False
    ) -> bool:
        """Decide a request for a client. Return False when another decision was first or there is no such request.

        Raises Conflict `no_longer_asked` when the run no longer waits for the answer, and as `Database.write`: the
        request is then open again.
        """
        return await self._decide(request_id, kind, resolution, (), granted=granted, for_session=for_session)

    async def answer(self, batch_id: str, answers: Sequence[QuestionResponse]) -> bool:
        """Answer a batch of questions for a client, as `decide`."""
        return await self._decide(batch_id, "question", "answered", answers, granted=True)

    async def _decide(
        self,
        request_id: str,
        kind: RequestKind,
        resolution: str,
        answers: Sequence[QuestionResponse],
        *,
        granted: bool,
        for_session: bool = False,
    ) -> bool:
        waiter = self._waiters.get(request_id)
        if waiter is None or (kind == "question") is not isinstance(waiter.shape, QuestionRequest):
            return await self._late(request_id)
        decision = self._pending.resolve(request_id, resolution, granted=granted, for_session=for_session)
        if decision is None:
            return False
        waiter.answers = answers
        if not await self._store_shielded(decision):
            return await self._late(request_id)
        if decision.for_session:
            for other in self._pending.equivalent(decision.request):
                also = self._pending.resolve(other.id, f"{resolution} of {request_id}", granted=True)
                if also is not None:
                    await self._store_shielded(also)
        return True

    async def _store_shielded(self, decision: RequestDecision) -> bool:
        """Store a decision as `_store`, even when the caller is cancelled meanwhile: the first decision counts."""
        timeout_s = 2 * self._limits.storage_job_s
        return await run_shielded(
            self._store(decision), owner=self._owner, timeout_s=timeout_s, name=f"decide-{decision.request.id}"
        )

    async def _store(self, decision: RequestDecision) -> bool:
        """Store a decision and wake its waiter. Return False when the request had ended in the file."""
        request = decision.request
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> bool:
            if not permission_requests.end(
                transaction.connection, request.id, decision.state, decision.resolution, now_ms
            ):
                return False
            if decision.for_session:
                permission_requests.grant(transaction.connection, request, now_ms)
            permission_requests.notify_end(
                transaction,
                request.id,
                request.kind,
                request.session_id,
                request.run_id,
                request.tool_call_id,
                granted=decision.granted,
            )
            return True

        def stored(is_ours: bool) -> None:
            self._pending.stored(request.id)
            waiter = self._waiters.get(request.id)
            if waiter is not None and not waiter.done.done():
                waiter.done.set_result(decision if is_ours else None)

        try:
            return await self._database.write(job, on_commit=stored, is_ending=True)
        except BulkheadError:
            if request.id in self._pending:
                self._pending.undone(request.id)
            raise

    async def _late(self, request_id: str) -> bool:
        """Answer for a request that is not open: return False, or raise Conflict when its run did not wait for it."""
        if request_id in self._pending:
            return False  # another decision was first, and is being stored
        outcome = (
            await self._database.read(lambda connection: permission_requests.outcome(connection, request_id))
            if request_id
            else None
        )
        if outcome is None or outcome.state is RequestState.RESOLVED:
            return False
        why = outcome.resolution or "its run is over"
        raise Conflict(f"cannot answer this: the run no longer waits for it, because {why}", code="no_longer_asked")

    async def close(self) -> None:
        """Finish the decisions under way. Recovery closes the requests that are still open, with their runs."""
        await self._owner.close(self._limits.settle_s)
