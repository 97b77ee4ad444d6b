"""The conversation with one worker process: hello, calls, events, credit, generation fence.

The router authenticates frames and hands them in; the link never touches the socket itself. A link is made before
its worker is started, opens with the first accepted hello, may see more of them (the worker connects again after an
interruption) and ends with `fail`, for good.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.codec import TooLarge
from protocol.errors import BadInput, BulkheadError, Unavailable, from_info
from protocol.events import MARK_KIND, Event
from protocol.ids import Epoch, Generation, WorkspaceId, link_identity
from protocol.limits import Limits
from protocol.messages import (
    Answer,
    Attached,
    Call,
    CancelCall,
    Closing,
    Credit,
    EventBatch,
    Heartbeat,
    Hello,
    LastWord,
    Ready,
    ToSupervisor,
    ToWorker,
    Welcome,
)
from protocol.operations import OPERATIONS, Operation
from supervisor.routing.calls import Calls, Effect, Expire, Flight, Send, SendCancel


class LinkSink(Protocol):
    """What the owner of a link hears. Plain methods, called on the loop, in the order the worker spoke."""

    def hello(self, message: Hello) -> None: ...

    def ready(self, message: Ready) -> None: ...

    def heartbeat(self, message: Heartbeat) -> None: ...

    def events(self, batch: list[Event]) -> None: ...

    def closing(self, message: Closing) -> None: ...

    def last_word(self, message: LastWord) -> None: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """Who waits for one call, and the timer of its next deadline."""

    futures: list["asyncio.Future[Answer]"] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Link:
    """One worker process as the supervisor talks to it. Made by `Router.expect`."""

    def __init__(
        self,
        *,
        workspace_id: WorkspaceId,
        generation: Generation,
        token: str,
        sink: LinkSink,
        epoch: Epoch,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        send: Callable[["Link", ToWorker], bool],
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        self.workspace_id = workspace_id
        self.generation = generation
        self.token = token
        self.identity = link_identity(workspace_id, generation, token)
        self.peer = ""  # the address that the accepted hello came from; frames of any other are a stranger's
        self.late_answers = 0
        self._sink = sink
        self._epoch = epoch
        self._limits = limits
        self._clock = clock
        self._log = log
        self._send = send
        self._operations = operations
        self._calls = Calls(count_max=limits.calls_in_flight_max, bytes_max=4 * limits.message_max_bytes)
        self._waiting: dict[str, _Waiting] = {}
        self._counter = 0
        self._owed = 0  # credit not yet granted
        self._error: BulkheadError | None = None
        self._seen_number = 0  # the highest event number that came over this link
        self._behind_at: int | None = None  # `_seen_number` when a heartbeat last told of more

    @property
    def is_open(self) -> bool:
        """Was a hello accepted, and has the link not failed since?"""
        return bool(self.peer) and self._error is None

    @property
    def calls_in_flight(self) -> int:
        """How many calls wait for an answer."""
        return len(self._calls)

    # --- what the supervisor wants --------------------------------------------------------------------------------

    async def call(
        self,
        operation: str,
        *,
        args: dict[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Answer:
        """Let the worker do `operation`; the answer has no error in it.

        Raises the BulkheadError that the operation ended with; Unavailable `worker_lost` when the worker is gone and
        `deadline` after `timeout_s` seconds (by default the operation's own limit; the outcome is then unknown);
        LimitReached `too_many_calls`; BadInput `too_large`. When the caller is cancelled, an operation that is bound
        to its caller is cancelled in the worker as well; any other goes on there.
        """
        if self._error is not None:
            raise _copy(self._error)
        row = self._operations[operation]
        if call_id is None:
            self._counter += 1
            call_id = f"{self._epoch}.{self.generation}.{self._counter}"
        timeout_s = timeout_s or row.timeout_s or self._limits.call_deadline_s
        effects = self._calls.opened(call_id, row, args or {}, body, timeout_s=timeout_s, now=self._clock.now())
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(call_id, _Waiting()).futures.append(future)
        self._perform(effects)
        try:
            answer = await future
        except asyncio.CancelledError:
            waiting = self._waiting.get(call_id)
            if waiting is not None and future in waiting.futures:
                waiting.futures.remove(future)
                effects = self._calls.abandoned(call_id)
                if not waiting.futures:
                    self._end(call_id)
                self._perform(effects)
            raise
        if answer.error is not None:
            raise from_info(answer.error)
        return answer

    def tell(self, message: ToWorker) -> None:
        """Send `message` without waiting for anything; to a worker that is not connected now it is lost."""
        if self._error is None and not self._send(self, message):
            self._log.warning(
                "message not delivered", extra=self._fields(message=type(message).__name__, reason="not connected")
            )

    def attached(self, clients: int) -> None:
        """So many clients listen to the workspace now."""
        self.tell(Attached(epoch=self._epoch, clients=clients))

    def grant(self, more: int) -> None:
        """`more` numbered events may follow. Sent in lots, long before the worker's window is used up."""
        self._owed += more
        if self._owed * 4 >= self._limits.event_window:
            self._grant_owed()

    def fail(self, error: BulkheadError) -> None:
        """The worker is gone: every call ends with `error`, also those to come. The first error stays."""
        if self._error is None:
            self._error = error
        for flight in self._calls.lost():
            self._finish(flight.call_id, error=self._error)

    # --- what the worker said (called by the router, after authentication) ------------------------------------------

    def accepted(self, hello: Hello, peer: str) -> None:
        """This hello is genuine: welcome the worker and send again what it may have missed."""
        self.peer = peer
        self._owed = 0
        self._seen_number = max(self._seen_number, hello.last_number)
        self._behind_at = None
        self._send(self, Welcome(epoch=self._epoch, credit=self._limits.event_window))
        self._sink.hello(hello)
        self._perform(self._calls.reconnected())

    def receive(self, message: ToSupervisor) -> None:
        """One authenticated message that is not a hello."""
        if self._error is not None:
            return  # a word of the dead; its successor says it again
        match message:
            case Answer():
                if self._calls.answered(message.call_id) is None:
                    self.late_answers += 1
                else:
                    self._finish(message.call_id, answer=message)
            case EventBatch():
                for event in message.events:
                    if event.number > self._seen_number:
                        self._seen_number = event.number
                self._sink.events(message.events)
            case Heartbeat():
                self._look_behind(message)
                self._sink.heartbeat(message)
                if self._owed:
                    self._grant_owed()
            case Ready():
                self._seen_number = max(self._seen_number, message.last_number)
                self._sink.ready(message)
            case Closing():
                self._sink.closing(message)
            case LastWord():
                self._sink.last_word(message)
            case Hello():
                raise AssertionError("a hello goes through `accepted`")

    def _look_behind(self, beat: Heartbeat) -> None:
        """Notice that the last events of a burst were lost: no later one will show the hole."""
        if beat.last_number <= self._seen_number:
            self._behind_at = None
        elif self._behind_at == self._seen_number:
            self._behind_at = None
            self._seen_number = beat.last_number
            self._sink.events([Event(kind=MARK_KIND, data=b"", number=beat.last_number)])
        else:
            self._behind_at = self._seen_number

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(flight):
                    self._send_call(flight)
                case SendCancel(call_id):
                    self.tell(CancelCall(call_id=call_id, epoch=self._epoch))
                case Expire(flight):
                    self._finish(flight.call_id, error=_overdue(flight.operation))

    def _send_call(self, flight: Flight) -> None:
        now = self._clock.now()
        waiting = self._waiting[flight.call_id]
        if waiting.timer is not None:
            waiting.timer.cancel()
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(max(0.0, flight.again_at - now), self._due, flight.call_id)
        call = Call(
            call_id=flight.call_id,
            epoch=self._epoch,
            operation=flight.operation.name,
            args=flight.args,
            body=flight.body,
            within_s=max(0.0, flight.deadline - now),
        )
        try:
            # A worker that is not connected now gets the call with its next hello; the deadline covers both.
            self._send(self, call)
        except TooLarge as error:
            self._calls.answered(flight.call_id)
            self._finish(flight.call_id, error=BadInput(str(error), code="too_large"))

    def _due(self, call_id: str) -> None:
        flight = self._calls.get(call_id)
        if flight is not None:
            # The timer may be early by the resolution of the loop's clock.
            self._perform(self._calls.due(call_id, max(self._clock.now(), flight.again_at)))

    def _finish(self, call_id: str, *, answer: Answer | None = None, error: BulkheadError | None = None) -> None:
        for future in self._end(call_id):
            if future.done():
                continue  # its caller was cancelled
            if answer is not None:
                future.set_result(answer)
            elif error is not None:
                future.set_exception(_copy(error))

    def _end(self, call_id: str) -> list["asyncio.Future[Answer]"]:
        waiting = self._waiting.pop(call_id, None)
        if waiting is None:
            return []
        if waiting.timer is not None:
            waiting.timer.cancel()
        return waiting.futures

    def _grant_owed(self) -> None:
        if self._send(self, Credit(more=self._owed)):
            self._owed = 0

    def _fields(self, **values: object) -> dict[str, object]:
        return fields(workspace=self.workspace_id, generation=self.generation, **values)


def _overdue(operation: Operation) -> BulkheadError:
    return Unavailable(
        f"cannot tell how {operation.name} ended: the worker did not answer in time",
        code="deadline",
        retryable=operation.is_safe,
    )


def _copy(error: BulkheadError) -> BulkheadError:
    """The same error as a new object: one exception must not collect the traces of many callers."""
    return from_info(error.info())
