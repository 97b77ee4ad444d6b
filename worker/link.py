"""The DEALER socket: hello on every new connection, calls in, answers and events out, heartbeat from the loop.

ZeroMQ connects again by itself, for ever; its monitor tells us when. So a restarted supervisor is found again, and
hears our hello before anything else counts. The raw socket hangs on the loop by its descriptor, which is
edge-triggered: after every send and every round of receiving, EVENTS is asked again.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from protocol.base.clock import Clock
from protocol.base.failpoints import ENVIRONMENT, FailpointRaised, failpoint, failpoint_blocking
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.codec import TooLarge, WireError, decode_to_worker, encode
from protocol.errors import BadInput, Conflict
from protocol.events import Event
from protocol.ids import Epoch, link_identity
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
    Refusal,
    Shutdown,
    ToSupervisor,
    ToWorker,
    Welcome,
)
from protocol.version import BULKHEAD_VERSION, WIRE_VERSION
from protocol.worker_spec import WorkerSpec
from worker.operations.reply_cache import Known, Replies
from worker.operations.table import OperationTable

_ROUND = 64
"""Messages received before other work of the loop gets its turn."""
_HIGH_WATER = 256
"""Messages that libzmq holds for us in each direction; what is more waits here, or is not made."""
_OUTBOX_MAX = 1024
"""Answers that wait for the socket; above it they are dropped: a call that is repeated gets its answer again."""
_RECONNECT_MS = 50
_FLUSH_MS = 1000
"""How long the last word may take to leave the process."""
_HELLO_AGAIN_S = 1.0
"""After a refusal: the supervisor may only not yet have read of us."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How this worker is, asked for at each hello and each heartbeat."""

    log_id: str = ""
    last_number: int = 0  # of the newest committed event that the publisher was told of
    open_runs: int = 0
    open_questions: int = 0
    children: int = 0
    degraded: str = ""
    failed: str = ""


class EventSource(Protocol):
    """What the link tells the publisher."""

    def connected(self, last_number: int, credit: int) -> None: ...

    def credit(self, more: int) -> None: ...

    def disconnected(self) -> None: ...

    def writable(self) -> None: ...


class WorkerLink:
    """This worker's connection to whichever supervisor is there. All on the loop; nothing blocks."""

    def __init__(
        self,
        *,
        spec: WorkerSpec,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        table: OperationTable,
        replies: Replies,
        publisher: EventSource,
        vitals: Callable[[], Vitals],
        on_shutdown: Callable[[Shutdown], None],
        on_supervisor_heard: Callable[[], None],
        on_attached: Callable[[int], None],
    ) -> None:
        """`on_supervisor_heard` is called at every word of a supervisor, and every heartbeat while one is there;
        `on_attached` when another number of clients listens."""
        self.epoch = Epoch(0)  # the highest that was ever heard
        self.is_welcome = False  # has the supervisor at the other end accepted our hello?
        self.stale_commands = 0
        self._spec = spec
        self._limits = limits
        self._clock = clock
        self._log = log
        self._table = table
        self._replies = replies
        self._publisher = publisher
        self._vitals = vitals
        self._on_shutdown = on_shutdown
        self._on_supervisor_heard = on_supervisor_heard
        self._on_attached = on_attached
        self._tasks = TaskOwner("link", log)
        self._bound: dict[str, asyncio.Task[None]] = {}  # calls that end when their caller goes away
        self._outbox: deque[bytes] = deque()
        self._is_blocked = False
        self._ready: Ready | None = None
        self._ready_told = False
        self._hello_number = 0
        self._credit = 0
        self._bad_messages = 0
        self._has_failpoints = ENVIRONMENT in os.environ
        self._start_ticks, self._boot_id = _identity()
        self._check_scheduled = False
        self._loop: asyncio.AbstractEventLoop
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes]
        self._fds: tuple[int, int] = (-1, -1)

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect; does not wait for a supervisor."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        identity = link_identity(self._spec.workspace_id, self._spec.generation, self._spec.token)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues for a supervisor that is not there
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, self._limits.message_max_bytes)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket = socket
        self._fds = (_descriptor(socket), _descriptor(self._monitor))
        self._loop.add_reader(self._fds[0], self._readable)
        self._loop.add_reader(self._fds[1], self._watch)
        socket.connect(self._spec.endpoint)
        self._tasks.start(self._beat(), "heartbeat")
        self._watch()  # a socket that nobody has read from yet does not signal
        self._schedule_check()

    async def ready(self, message: Ready) -> None:
        """Recovery is done: calls may come. The numbers in `message` are brought up to date when it is sent."""
        self._ready = message
        if self.is_welcome:
            self._tell_ready()

    def send_events(self, events: list[Event]) -> bool:
        """Send a batch; False when the socket takes nothing now, `publisher.writable` is called when it does."""
        if not self.is_welcome or self._outbox or self._is_blocked:
            return False
        if self._has_failpoints and not _passes("events.before_send"):
            return True  # lost, as a test wished
        try:
            frame = encode(EventBatch(events=events), max_bytes=self._limits.message_max_bytes)
        except TooLarge as error:
            if len(events) > 1:
                return all(self.send_events([event]) for event in events)  # what goes twice is dropped by number
            self._log.error("event too large", extra=self._fields(number=events[0].number, reason=error))
            event = events[0]
            # The number must arrive, or it would be a hole for ever.
            told = Event(kind="omitted", data=b'{"type":"omitted"}', number=event.number, run_id=event.run_id)
            frame = encode(EventBatch(events=[told]), max_bytes=self._limits.message_max_bytes)
        return self._offer(frame)

    def closing(self, stage: str, open_runs: int) -> None:
        """Tell that a stage of the shutdown was reached."""
        self._tell(Closing(stage=stage, open_runs=open_runs))

    async def last_word(self, message: LastWord) -> None:
        """Say why we go; on return it was handed to the socket, and `close` lets it leave. Bounded."""
        self._tell(message)
        deadline = self._clock.now() + _FLUSH_MS / 1000
        while self._outbox and self.is_welcome and self._clock.now() < deadline:
            await asyncio.sleep(0.01)  # the edge of the descriptor may be anybody's; this is the end, so we look
            self._readable()

    async def close(self) -> None:
        """End the calls that still run and let what was sent leave the process, bounded."""
        await self._tasks.close()
        socket, self._socket = self._socket, None
        if socket is None or self._context is None:
            return
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._publisher.disconnected()
        socket.disable_monitor()
        self._monitor.close(linger=0)
        socket.close(linger=_FLUSH_MS if self.is_welcome else 0)
        self.is_welcome = False
        # Waits for the last bytes, at most _FLUSH_MS; the loop may have timers that matter until then.
        await self._loop.run_in_executor(None, self._context.term)

    # --- connection -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """The monitor has something: a connection came or went."""
        while self._socket is not None:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            match parse_monitor_message(parts)["event"]:
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._interrupted()
                    self._say_hello()
                case zmq.EVENT_DISCONNECTED:
                    self._log.info("supervisor not connected", extra=self._fields(epoch=self.epoch))
                    self._interrupted()

    def _interrupted(self) -> None:
        """Nothing that was sent over the former connection may be relied on."""
        if self.is_welcome:
            self.is_welcome = False
            self._publisher.disconnected()
            self._on_attached(0)  # clients listen to a supervisor; the next one says how many
        self._outbox.clear()
        self._is_blocked = False

    def _say_hello(self) -> None:
        vitals = self._vitals()
        self._hello_number = vitals.last_number
        self._tell(
            Hello(
                wire_version=WIRE_VERSION,
                code_version=BULKHEAD_VERSION,
                workspace_id=self._spec.workspace_id,
                generation=self._spec.generation,
                token=self._spec.token,
                pid=os.getpid(),
                start_ticks=self._start_ticks,
                boot_id=self._boot_id,
                epoch=self.epoch,
                ready=self._ready_told,
                log_id=vitals.log_id,
                last_number=vitals.last_number,
                open_runs=vitals.open_runs,
                failed=vitals.failed,
            )
        )

    def _welcomed(self, message: Welcome) -> None:
        if message.epoch < self.epoch:
            self._stale(message, message.epoch)
            return
        self.epoch = message.epoch
        self.is_welcome = True
        self._credit = message.credit
        self._log.info("supervisor found", extra=self._fields(epoch=message.epoch))
        if self._ready_told:
            self._publisher.connected(self._hello_number, message.credit)
        elif self._ready is not None:
            self._tell_ready()

    def _tell_ready(self) -> None:
        assert self._ready is not None
        vitals = self._vitals()
        now = {"last_number": vitals.last_number, "open_runs": vitals.open_runs, "failed": vitals.failed}
        self._tell(msgspec.structs.replace(self._ready, **now))
        self._ready_told = True
        self._publisher.connected(vitals.last_number, self._credit)

    # --- receiving --------------------------------------------------------------------------------------------------

    def _schedule_check(self) -> None:
        """A send may have swallowed the edge of the descriptor: look again, once in this round of the loop."""
        if not self._check_scheduled:
            self._check_scheduled = True
            self._loop.call_soon(self._check)

    def _check(self) -> None:
        self._check_scheduled = False
        self._readable()

    def _readable(self) -> None:
        if self._is_blocked:
            self._flush_outbox()
        for _ in range(_ROUND):
            if self._socket is None:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._received(frames)
            except BaseException:
                self._schedule_check()  # the loop reports the error; what waits must still be read
                raise
        self._schedule_check()

    def _received(self, frames: list[bytes]) -> None:
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
                self._on_supervisor_heard()
                return
            case Refusal():
                self._log.error("hello refused", extra=self._fields(reason=message.error.message))
                self._interrupted()
                self._loop.call_later(_HELLO_AGAIN_S, self._hello_again)
                return
            case Call() | CancelCall() | Attached() | Shutdown():
                if message.epoch < self.epoch:
                    self._stale(message, message.epoch)
                    return
            case Credit():
                pass
        self._on_supervisor_heard()
        self._obey(message)

    def _obey(self, message: ToWorker) -> None:
        match message:
            case Call():
                self._called(message)
            case CancelCall():
                if (task := self._bound.get(message.call_id)) is not None:
                    task.cancel()
            case Credit():
                self._publisher.credit(message.more)
            case Attached():
                self._on_attached(message.clients)
            case Shutdown():
                self._on_shutdown(message)
            case _:
                raise AssertionError(message)

    def _stale(self, message: ToWorker, epoch: Epoch) -> None:
        """A command of a supervisor that has a successor (S06): not done, and said so."""
        self.stale_commands += 1
        name = type(message).__name__
        self._log.warning("command of a former supervisor", extra=self._fields(epoch=epoch, command=name))
        if isinstance(message, Call):
            error = Conflict(f"cannot obey epoch {epoch}: a supervisor of epoch {self.epoch} was heard")
            self._tell(Answer(call_id=message.call_id, status=error.status, error=error.info()))

    def _hello_again(self) -> None:
        if self._socket is not None and not self.is_welcome:
            self._say_hello()

    # --- calls ------------------------------------------------------------------------------------------------------

    def _called(self, call: Call) -> None:
        match self._replies.begin(call.call_id):
            case Known.NEW:
                task = self._tasks.start(self._do(call), call.operation)
                if self._table.is_bound(call.operation):
                    self._bound[call.call_id] = task
            case Known.RUNNING:
                pass  # its one answer goes to whoever is connected then
            case Answer() as answer:
                self._answer(answer)

    async def _do(self, call: Call) -> None:
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
                return  # lost, as a test wished
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        try:
            self._tell(answer)
        except TooLarge as error:
            refused = BadInput(f"cannot answer: {error}", code="too_large", status=500)
            self._tell(Answer(call_id=answer.call_id, status=refused.status, error=refused.info()))

    # --- sending ----------------------------------------------------------------------------------------------------

    def _tell(self, message: ToSupervisor) -> None:
        """Send in order, now or when the socket takes it; without a supervisor only a hello. Raises TooLarge."""
        if not self.is_welcome and not isinstance(message, Hello):
            return
        frame = encode(message, max_bytes=self._limits.message_max_bytes)
        if (self._outbox or not self._offer(frame)) and len(self._outbox) < _OUTBOX_MAX:
            self._outbox.append(frame)

    def _offer(self, frame: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self._is_blocked = True
            return False
        finally:
            self._schedule_check()
        return True

    def _flush_outbox(self) -> None:
        self._is_blocked = False
        while self._outbox:
            if not self._offer(self._outbox[0]):
                return
            self._outbox.popleft()
        if self.is_welcome:
            self._publisher.writable()

    async def _beat(self) -> None:
        """From the loop itself: when the loop hangs, the beat stops (W12)."""
        sequence = 0
        interval_s = self._limits.heartbeat_interval_s
        while True:
            due = self._clock.now() + interval_s
            await asyncio.sleep(interval_s)
            # A lost edge would leave us deaf for ever; looking costs next to nothing.
            self._watch()
            self._readable()
            if not self.is_welcome:
                continue
            self._on_supervisor_heard()
            if self._is_blocked or self._outbox:
                continue
            sequence += 1
            vitals = self._vitals()
            self._tell(
                Heartbeat(
                    sequence=sequence,
                    loop_lag_s=round(max(0.0, self._clock.now() - due), 4),
                    open_runs=vitals.open_runs,
                    open_questions=vitals.open_questions,
                    children=vitals.children,
                    last_number=vitals.last_number,
                    degraded=vitals.degraded,
                    failed=vitals.failed,
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


def _descriptor(socket: "zmq.Socket[bytes]") -> int:
    return int(socket.getsockopt(zmq.FD))


def _identity() -> tuple[int, str]:
    """Start ticks and boot id of this process; zero and "" where the system has no /proc."""
    try:
        stat = Path("/proc/self/stat").read_text()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return 0, ""
    return int(stat.rpartition(")")[2].split()[19]), boot_id
