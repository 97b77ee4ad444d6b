"""Connect a worker to its supervisor: handshake, calls in, answers and events out, heartbeats from the loop."""

import asyncio
import logging
import os
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.base.failpoints import ENVIRONMENT, FailpointRaised, failpoint_blocking
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.codec import TooLarge, WireError, decode_to_worker, encode
from protocol.errors import Conflict
from protocol.events import Event
from protocol.ids import Epoch, link_identity
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
    Refusal,
    SendWhole,
    Shutdown,
    ToSupervisor,
    ToWorker,
    Welcome,
)
from protocol.worker_spec import WorkerSpec
from worker.link.calls import CallRunner
from worker.link.dealer_socket import DealerSocket
from worker.link.handshake import Handshake
from worker.link.heartbeat import Heartbeats
from worker.link.interfaces import EventSource, LinkCallbacks, WorkerStats
from worker.operations.reply_cache import ReplyCache
from worker.operations.table import OperationTable

_HELLO_AGAIN_S = 1.0
"""After a refusal: the supervisor may not have read of this worker yet."""


class WorkerLink:
    """This worker's connection to the supervisor that is there, whichever it is. All on the loop; nothing blocks."""

    socket_class = DealerSocket

    def __init__(
        self,
        *,
        spec: WorkerSpec,
        clock: Clock,
        log: logging.Logger,
        table: OperationTable,
        replies: ReplyCache,
        publisher: EventSource,
        stats: Callable[[], WorkerStats],
        callbacks: LinkCallbacks,
    ) -> None:
        self._spec = spec
        self._limits = spec.limits
        self._clock = clock
        self._log = log
        self._publisher = publisher
        self._stats = stats
        self._callbacks = callbacks
        self._tasks = TaskOwner("link", log)
        self._handshake = Handshake(spec, stats)
        self._calls = CallRunner(table=table, replies=replies, send=self._send, log=log)
        self._socket = self.socket_class(
            endpoint=spec.endpoint,
            identity=link_identity(spec.workspace_id, spec.generation, spec.token),
            message_max_bytes=spec.limits.message_max_bytes,
            clock=clock,
            listener=self,
        )
        self._heartbeats = Heartbeats(limits=spec.limits, clock=clock, is_busy=self._is_busy, beat=self._beat)
        self._beats = 0
        self._bad_messages = 0
        self._has_failpoints = ENVIRONMENT in os.environ

    @property
    def is_welcome(self) -> bool:
        """Return whether the supervisor at the other end has accepted the hello."""
        return self._handshake.is_welcome

    @property
    def epoch(self) -> Epoch:
        """Return the highest epoch of a supervisor that was ever received."""
        return self._handshake.epoch

    async def start(self) -> None:
        """Begin to connect; does not wait for a supervisor."""
        self._socket.start()
        self._heartbeats.start()

    async def ready(self, message: Ready) -> None:
        """Recovery is done: calls may come. The numbers in `message` are brought up to date when it is sent."""
        self._handshake.recovered(message)
        if self.is_welcome:
            self._say_ready()

    def send_events(self, events: list[Event]) -> bool:
        """Send a batch; False when the socket takes nothing now, `publisher.writable` is called when it does."""
        if not self.is_welcome or self._socket.is_busy:
            return False
        self._heartbeats.stir()
        if self._has_failpoints and not _passes("events.before_send"):
            return True  # lost, as the test asked
        try:
            frame = encode(EventBatch(events=events), max_bytes=self._limits.message_max_bytes)
        except TooLarge as error:
            if len(events) > 1:
                return all(self.send_events([event]) for event in events)  # an event sent twice is dropped by number
            event = events[0]
            self._log.error("event too large", extra=self._fields(number=event.number, reason=error))
            # The number must arrive, else clients would wait for it for ever.
            omitted = Event(kind="omitted", data=b'{"type":"omitted"}', number=event.number, run_id=event.run_id)
            frame = encode(EventBatch(events=[omitted]), max_bytes=self._limits.message_max_bytes)
        return self._socket.try_send(frame)

    def closing(self, stage: str, open_runs: int) -> None:
        """Report that a stage of the shutdown was reached."""
        self._send(Closing(stage=stage, open_runs=open_runs))

    async def last_word(self, message: LastWord) -> None:
        """Send why this worker ends. On return it was handed to the socket, and `close` lets it leave. Bounded."""
        self._send(message)
        await self._socket.flush()

    async def close(self) -> None:
        """End the calls that still run and let what was sent leave the process, bounded."""
        self._heartbeats.stop()
        await self._calls.close()
        await self._tasks.close()
        if not self._socket.is_open:
            return
        was_welcome, self._handshake.is_welcome = self.is_welcome, False
        self._publisher.disconnected()
        await self._socket.close(linger=was_welcome)

    # --- the socket's callbacks -------------------------------------------------------------------------------------

    def on_connected(self) -> None:
        """Say hello first: nothing else counts before it."""
        self._interrupted()
        self._send(self._handshake.hello())

    def on_disconnected(self) -> None:
        """Wait for the next connection."""
        self._log.info("supervisor not connected", extra=self._fields(epoch=self.epoch))
        self._interrupted()

    def on_writable(self) -> None:
        """Let the publisher send on."""
        if self.is_welcome:
            self._publisher.writable()

    def on_frames(self, frames: list[bytes]) -> None:
        """Decode a message and act on it; count and drop what cannot be read."""
        self._heartbeats.stir()
        try:
            if len(frames) != 1:
                raise WireError(f"cannot read {len(frames)} frames; one is a message")
            message = decode_to_worker(frames[0])
        except WireError as error:
            self._bad_messages += 1
            self._log.warning("bad message dropped", extra=self._fields(reason=error, count=self._bad_messages))
            return
        match message:
            case Welcome():
                self._welcomed(message)
                self._callbacks.on_supervisor_heard()
                return
            case Refusal():
                self._log.error("hello refused", extra=self._fields(reason=message.error.message))
                self._interrupted()
                asyncio.get_running_loop().call_later(_HELLO_AGAIN_S, self._hello_again)
                return
            case Call() | CancelCall() | Attached() | Shutdown():
                if message.epoch < self.epoch:
                    self._reject_stale(message, message.epoch)
                    return
            case Credit() | SendWhole():
                pass
        self._callbacks.on_supervisor_heard()
        self._obey(message)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _interrupted(self) -> None:
        """Rely on nothing that was sent over the previous connection."""
        if self.is_welcome:
            self._handshake.is_welcome = False
            self._publisher.disconnected()
            self._callbacks.on_attached(0)  # clients listen to a supervisor; the next one reports how many
        self._socket.discard_outbox()

    def _welcomed(self, message: Welcome) -> None:
        if message.epoch < self.epoch:
            self._reject_stale(message, message.epoch)
            return
        self._handshake.welcomed(message)
        self._log.info("supervisor found", extra=self._fields(epoch=message.epoch))
        if self._handshake.has_said_ready:
            self._connected(self._handshake.hello_number)
        elif self._handshake.owes_ready:
            self._say_ready()

    def _say_ready(self) -> None:
        message = self._handshake.ready()
        self._send(message)
        self._connected(message.last_number)

    def _connected(self, last_number: int) -> None:
        handshake = self._handshake
        self._publisher.connected(last_number, handshake.credit, takes_growth=handshake.takes_growth)

    def _hello_again(self) -> None:
        if self._socket.is_open and not self.is_welcome:
            self._send(self._handshake.hello())

    def _obey(self, message: ToWorker) -> None:
        match message:
            case Call():
                self._calls.start(message)
            case CancelCall():
                self._calls.cancel(message.call_id)
            case Credit():
                self._publisher.credit(message.more)
            case SendWhole():
                self._publisher.unfit(message.keys)
            case Attached():
                self._callbacks.on_attached(message.clients)
            case Shutdown():
                self._callbacks.on_shutdown(message)
            case _:
                raise AssertionError(message)

    def _reject_stale(self, message: ToWorker, epoch: Epoch) -> None:
        """Reject a command of a supervisor that has a successor (S06)."""
        name = type(message).__name__
        self._log.warning("command of a former supervisor", extra=self._fields(epoch=epoch, command=name))
        if isinstance(message, Call):
            error = Conflict(f"cannot obey epoch {epoch}: a supervisor of epoch {self.epoch} was heard")
            self._send(Answer(call_id=message.call_id, status=error.status, error=error.info()))

    # --- sending ----------------------------------------------------------------------------------------------------

    def _send(self, message: ToSupervisor) -> None:
        """Send in order, now or when the socket takes it. Before the welcome only a hello. Raises TooLarge."""
        if self.is_welcome or isinstance(message, Hello):
            self._socket.send(encode(message, max_bytes=self._limits.message_max_bytes))

    def _is_busy(self) -> bool:
        """Return whether the supervisor has to learn soon of changes that no message of its own causes."""
        stats = self._stats()
        return bool(stats.open_runs or stats.degraded or stats.failed)

    def _beat(self, loop_lag_s: float, interval_s: float) -> None:
        self._socket.check()
        if not self.is_welcome or self._socket.is_busy:
            return
        self._beats += 1
        stats = self._stats()
        self._send(
            Heartbeat(
                sequence=self._beats,
                loop_lag_s=loop_lag_s,
                interval_s=interval_s,
                open_runs=stats.open_runs,
                open_questions=stats.open_questions,
                children=stats.children,
                holds_choices=stats.holds_choices,
                last_number=stats.last_number,
                degraded=stats.degraded,
                failed=stats.failed,
            )
        )

    def _fields(self, **values: object) -> dict[str, object]:
        return fields(workspace=self._spec.workspace_id, generation=self._spec.generation, **values)


def _passes(point: str) -> bool:
    try:
        failpoint_blocking(point)
    except (FailpointRaised, OSError):
        return False
    return True
