"""Hold the conversation with one worker process: hello, calls, events, credit.

The router authenticates frames and passes them in; the link never touches the socket itself. A link is made before
its worker is started, opens with the first accepted hello, may see more of them (the worker connects again after an
interruption) and ends for good with `fail`.

A link belongs to one generation of a worker, and it is the fence around it: after `fail` the listeners get nothing
from this process, whatever still arrives. The driver fails the link of a process before it starts the next one.
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


@dataclass(frozen=True, slots=True)
class ExpectedWorker:
    """The process that a link is for. A hello is accepted only with exactly these values."""

    workspace_id: WorkspaceId
    generation: Generation
    token: str


class LifecycleListener(Protocol):
    """Receives what a worker reports about itself: plain methods, on the loop, in the order of the messages."""

    def on_hello(self, message: Hello) -> None: ...

    def on_ready(self, message: Ready) -> None: ...

    def on_heartbeat(self, message: Heartbeat) -> None: ...

    def on_closing(self, message: Closing) -> None: ...

    def on_last_word(self, message: LastWord) -> None: ...


class EventListener(Protocol):
    """Receives a worker's events; grants credit for more of them on the link that it is given."""

    def on_log_opened(self, log_id: str, last_number: int, link: "Link") -> None: ...

    def on_events(self, batch: list[Event], link: "Link") -> None: ...


@dataclass(frozen=True, slots=True)
class LinkListeners:
    """The two receivers of a worker's messages. `events` gets `on_log_opened` before `lifecycle` gets the message."""

    lifecycle: LifecycleListener
    events: EventListener


@dataclass(slots=True, eq=False)
class _Waiting:
    """The callers that wait for one call, and the timer of its next deadline."""

    futures: list["asyncio.Future[Answer]"] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Link:
    """The supervisor's end of the connection to one worker process. Made by `Router.expect`."""

    def __init__(
        self,
        *,
        worker: ExpectedWorker,
        listeners: LinkListeners,
        epoch: Epoch,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        send: Callable[["Link", ToWorker], bool],
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        self.workspace_id = worker.workspace_id
        self.generation = worker.generation
        self.token = worker.token
        self.identity = link_identity(worker.workspace_id, worker.generation, worker.token)
        self.peer = ""  # the address that the accepted hello came from; frames from any other do not count
        self.late_answers = 0  # answers to calls that had ended already: expired, abandoned, or answered before
        self._lifecycle = listeners.lifecycle
        self._events = listeners.events
        self._epoch = epoch
        self._limits = limits
        self._clock = clock
        self._log = log
        self._send_message = send
        self._operations = operations
        self._calls = Calls(count_max=limits.calls_in_flight_max, bytes_max=4 * limits.message_max_bytes)
        self._waiting: dict[str, _Waiting] = {}
        self._counter = 0
        self._owed = 0  # credit not yet granted
        self._error: BulkheadError | None = None
        self._seen_number = 0  # the highest event number that came over this link
        self._behind_at: int | None = None  # `_seen_number` when a heartbeat last reported a higher number

    @property
    def is_open(self) -> bool:
        """Return whether a hello was accepted and the link has not failed since."""
        return bool(self.peer) and self._error is None

    # --- to the worker --------------------------------------------------------------------------------------------

    async def call(
        self,
        operation: str,
        *,
        args: dict[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Answer:
        """Let the worker do `operation`, and return its answer, which contains no error.

        Raises the BulkheadError that the operation ended with; Unavailable `worker_lost` when the worker has exited
        and `deadline` after `timeout_s` seconds (by default the operation's own limit; the outcome is then unknown);
        LimitReached `too_many_calls`; BadInput `too_large`. When the caller is cancelled, an operation that is bound
        to its caller is cancelled in the worker as well; any other operation continues there.
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

    def send(self, message: ToWorker) -> None:
        """Send `message` without waiting for an answer. It is lost when the worker is not connected now."""
        if self._error is None and not self._send_message(self, message):
            self._log.warning(
                "message not delivered", extra=self._fields(message=type(message).__name__, reason="not connected")
            )

    def attached(self, clients: int) -> None:
        """Report how many clients listen to the workspace now."""
        self.send(Attached(epoch=self._epoch, clients=clients))

    def grant(self, more: int) -> None:
        """Allow `more` numbered events. Credit is sent in batches, long before the worker's window is used up."""
        self._owed += more
        if self._owed * 4 >= self._limits.event_window:
            self._grant_owed()

    def fail(self, error: BulkheadError) -> None:
        """End this link: calls in flight and later calls raise `error`, and the listeners get no further message.

        The error of the first call of this method is kept.
        """
        if self._error is None:
            self._error = error
        for flight in self._calls.lost():
            self._finish(flight.call_id, error=self._error)

    # --- from the worker (called by the router, after authentication) ---------------------------------------------

    def accepted(self, hello: Hello, peer: str) -> None:
        """Take an authenticated hello: welcome the worker and send again the calls that it may have missed."""
        if self._error is not None:
            return  # an older process
        self.peer = peer
        self._owed = 0
        self._seen_number = max(self._seen_number, hello.last_number)
        self._behind_at = None
        self._send_message(self, Welcome(epoch=self._epoch, credit=self._limits.event_window, takes_growth=True))
        if hello.ready:
            self._events.on_log_opened(hello.log_id, hello.last_number, self)
        self._lifecycle.on_hello(hello)
        self._perform(self._calls.reconnected())

    def receive(self, message: ToSupervisor) -> None:
        """Take an authenticated message that is not a hello."""
        if self._error is not None:
            return  # an older process; the next one reports again
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
                self._events.on_events(message.events, self)
            case Heartbeat():
                self._look_behind(message)
                self._lifecycle.on_heartbeat(message)
                if self._owed:
                    self._grant_owed()
            case Ready():
                self._seen_number = max(self._seen_number, message.last_number)
                self._events.on_log_opened(message.log_id, message.last_number, self)
                self._lifecycle.on_ready(message)
            case Closing():
                self._lifecycle.on_closing(message)
            case LastWord():
                self._lifecycle.on_last_word(message)
            case Hello():
                raise AssertionError("a hello goes through `accepted`")

    def _look_behind(self, beat: Heartbeat) -> None:
        """Detect that the last events of a burst were lost: no later event will reveal the gap."""
        if beat.last_number <= self._seen_number:
            self._behind_at = None
        elif self._behind_at == self._seen_number:
            self._behind_at = None
            self._seen_number = beat.last_number
            self._events.on_events([Event(kind=MARK_KIND, data=b"", number=beat.last_number)], self)
        else:
            self._behind_at = self._seen_number

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(flight):
                    self._send_call(flight)
                case SendCancel(call_id):
                    self.send(CancelCall(call_id=call_id, epoch=self._epoch))
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
            self._send_message(self, call)
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
        if self._send_message(self, Credit(more=self._owed)):
            self._owed = 0

    def _fields(self, **values: object) -> dict[str, object]:
        return fields(workspace=self.workspace_id, generation=self.generation, **values)


def _overdue(operation: Operation) -> BulkheadError:
    return Unavailable(
        f"cannot report how {operation.name} ended: the worker did not answer in time",
        code="deadline",
        retryable=operation.is_safe,
    )


def _copy(error: BulkheadError) -> BulkheadError:
    """Return the same error as a new object: one exception must not collect the tracebacks of many callers."""
    return from_info(error.info())
