"""One workspace as the supervisor sees it: its leases, its worker, its stream hub.

It wakes the worker when a request needs one, hands events on, and lets the worker sleep when nothing is to be done.
"""

import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from protocol.api.workspace import Description, WorkerStatus, WorkspaceState
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.base.timer import Timer
from protocol.errors import Conflict
from protocol.events import Event, EventId
from protocol.ids import ClientId, SessionId
from protocol.limits import Limits
from protocol.messages import Answer
from supervisor.events.hub import Hub, Stream
from supervisor.routing.link import Link
from supervisor.workers.driver import DriverStatus, WorkerDriver
from supervisor.workspaces.eviction import Eviction, EvictionFacts
from supervisor.workspaces.leases import Arm, Effect, LastGone, Leases
from supervisor.workspaces.worker_calls import SLEEPING, InThread, WorkerCaller
from supervisor.workspaces.workspace_table import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

_events_decoder = msgspec.msgpack.Decoder(list[Event])
_description_decoder = msgspec.json.Decoder(Description)


class Workspace:
    """Created when first asked for; lives as long as its registration. All state changes happen on the loop."""

    def __init__(
        self,
        *,
        registration: Registration,
        make_driver: "Callable[[Workspace], WorkerDriver]",
        in_thread: InThread,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        cancel_on_last_detach: bool = False,
    ) -> None:
        self.registration = registration
        self.env: tuple[str, ...] | None = None  # of the first creator; not known any more after our restart
        self._limits = limits
        self._clock = clock
        self._log = log
        self._cancel_on_last_detach = cancel_on_last_detach
        self._tasks = TaskOwner(f"workspace.{registration.id}", log)
        self._leases = Leases(create_grace_s=limits.create_grace_s, detach_grace_s=limits.detach_grace_s)
        self._alarm = Timer(clock, self._elapsed)
        self._eviction = Eviction(idle_s=limits.evict_idle_s)
        self._evicting = False
        self._streams = 0
        self._link: Link | None = None
        self.hub = Hub(workspace_id=registration.id, limits=limits, clock=clock, log=log, fetch=self._fetch)
        self.driver = make_driver(self)
        self._caller = WorkerCaller(
            identity=registration.identity,
            driver=self.driver,
            in_thread=in_thread,
            limits=limits,
            clock=clock,
            log=log,
            ended=self._call_ended,
        )

    # --- asking the worker ------------------------------------------------------------------------------------------

    async def call(
        self, operation: str, *, args: dict[str, str] | None = None, body: bytes = b"", wakes: bool = True
    ) -> Answer:
        """Let the worker do an operation, waking it first if it sleeps. Raises what `Caller.call` raises."""
        return await self._caller.call(operation, args=args, body=body, wakes=wakes)

    async def describe(self) -> Description:
        """What the worker says of its workspace; wakes it."""
        answer = await self.call("workspace.describe")
        return _description_decoder.decode(answer.body)

    async def restart(self, reason: str) -> None:
        """Replace the worker through the shutdown protocol; also the way out of `failed`."""
        self._caller.check_open()
        await self._caller.check_directory()
        await self.driver.restart(reason)

    async def evict(self) -> None:
        """Let the worker sleep now. Raises Conflict (busy) when something would be lost."""
        if self.driver.status().state == "asleep":
            return
        if not self._eviction.may_sleep(self._facts()):
            raise Conflict("cannot evict: somebody is attached, or a run, a question or a child is open", code="busy")
        await self._sleep("evicted by hand")

    async def close(self, reason: str) -> None:
        """End the worker through the shutdown protocol, then every stream, cleanly. Nothing brings it back."""
        self._caller.end()
        try:
            await self.driver.close(reason, for_good=True)
        finally:
            await self._leave()

    async def detach_all(self) -> None:
        """Forget the worker without ending it, and end every stream cleanly: another supervisor takes over."""
        self._caller.end()
        self.hub.close()
        await self.driver.stop(leave_worker=True)
        await self._leave()

    async def _leave(self) -> None:
        self._alarm.cancel()
        self.hub.close()
        await self.hub.tasks.close()
        await self._caller.close()
        await self._tasks.close()

    # --- clients ----------------------------------------------------------------------------------------------------

    def claim(self, client_id: ClientId) -> None:
        """The client created this workspace, or found it by creating."""
        self._perform(self._leases.create(client_id, self._clock.now()))

    def release(self, client_id: ClientId) -> None:
        """The client gives its claim back."""
        self._perform(self._leases.release(client_id))

    def retire(self, client_id: ClientId) -> None:
        """The client leaves the server."""
        self._perform(self._leases.retire(client_id))

    def view(self, client_id: ClientId, session_id: SessionId) -> None:
        """The client looks at this session. Raises Conflict (not_attached)."""
        self._leases.view(client_id, session_id)

    def viewed(self) -> dict[SessionId, int]:
        """The sessions that somebody looks at, and how many clients look at each."""
        return self._leases.viewed()

    @contextmanager
    def attached(
        self, client_id: ClientId, *, cursor: EventId | None, cursor_is_bad: bool, wants_ids: bool
    ) -> "Iterator[Stream]":
        """A stream of this workspace's events: subscribed first, then attached; both end with the block."""
        stream = self.hub.open_stream(cursor=cursor, cursor_is_bad=cursor_is_bad, wants_ids=wants_ids)
        self._streams += 1
        number = self._streams
        self._perform(self._leases.attach(client_id, number))
        self._tell_attached()
        try:
            yield stream
        finally:
            stream.close()
            self._tell_attached()
            self._perform(self._leases.detach(client_id, number, self._clock.now()))

    async def open_asks(self) -> list[Event]:
        """The requests that wait for an answer of a client, as the events that told of them."""
        link = await self._caller.ready()  # not through `call`: it opens no run that a beat would have to tell of
        answer = await link.call("asks.open", args={}, body=b"", timeout_s=self._limits.call_deadline_s)
        return _events_decoder.decode(answer.body)

    def _tell_attached(self) -> None:
        if self._link is not None and self._link.is_open:
            self._link.attached(self.hub.streams)

    def wake(self) -> None:
        """Start the worker if it sleeps, without waiting; a missing directory shows as `failed`."""
        if not self._caller.is_ending:
            self.driver.want()

    @property
    def is_used(self) -> bool:
        """Does anybody have a claim, or is anything at work?"""
        facts = self._facts()
        if facts.claims or facts.streams or facts.calls:
            return True
        status = self.driver.status()
        return (status.answers or status.state not in SLEEPING) and not self._eviction.may_sleep(facts)

    # --- what the driver tells (DriverSink) -------------------------------------------------------------------------

    def state_changed(self, status: DriverStatus) -> None:
        """The worker's state as clients see it changed (P12)."""
        if status.state == "starting":
            self._eviction.started()
        self.hub.state_changed(
            WorkspaceState(
                workspace_id=self.registration.id,
                state=status.state,
                reason=status.reason,
                pid=status.pid,
                generation=status.generation,
            )
        )

    def log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        """The worker said which event log it has and how far that goes."""
        self.hub.log_opened(log_id, last_number)
        self._link = link
        self._tell_attached()

    def events(self, batch: list[Event], link: Link) -> None:
        """Events arrived; what was taken may be followed by as many."""
        taken = self.hub.take(batch)
        if taken:
            link.grant(taken)

    # --- sleep ------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Look whether the worker may sleep; called every now and then."""
        status = self.driver.status()
        # One that cannot store stays: a database that was unlinked lives no longer than its worker.
        if self._evicting or not status.answers or status.state == "failed":
            return
        if self._eviction.observed(self._facts(), self._clock.now()):
            self._evicting = True
            self._tasks.start(self._evict(), "evict")

    async def _evict(self) -> None:
        try:
            await failpoint("evict.decided")
            if self._eviction.may_sleep(self._facts()):  # a request may have come while a test held us
                await self._sleep("idle")
        finally:
            self._evicting = False

    async def _sleep(self, reason: str) -> None:
        last_word = await self.driver.close(reason)
        self._log.info("worker sleeps", extra=fields(workspace=self.registration.id, reason=reason, word=last_word))

    # --- status -----------------------------------------------------------------------------------------------------

    def status(self) -> WorkerStatus:
        """One row for operators; memory and processor are added by whoever measures them."""
        status = self.driver.status()
        beat = status.heartbeat
        return WorkerStatus(
            id=self.registration.id,
            path=self.registration.identity.path,
            state=status.state,
            reason=status.reason,
            pid=status.pid,
            generation=status.generation,
            started_at=status.started_wall,
            restarts=status.restarts,
            open_runs=beat.open_runs if beat else 0,
            clients=self._leases.attached_clients,
            last_event_id=self.hub.last_event_id,
        )

    def _facts(self) -> EvictionFacts:
        beat = self.driver.status().heartbeat
        return EvictionFacts(
            claims=len(self._leases),
            streams=self.hub.streams,
            calls=self._caller.in_flight,
            beat=beat.sequence if beat else None,
            open_runs=beat.open_runs if beat else 0,
            open_questions=beat.open_questions if beat else 0,
            children=beat.children if beat else 0,
        )

    def _call_ended(self) -> None:
        beat = self.driver.status().heartbeat
        self._eviction.called(beat.sequence if beat else None)

    async def _fetch(self, after_number: int, count: int) -> list[Event]:
        answer = await self.call("events.since", args={"number": str(after_number), "count": str(count)})
        return _events_decoder.decode(answer.body)

    # --- leases -----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Arm(at):
                    self._alarm.set(at)
                case LastGone():
                    self._last_gone()

    def _elapsed(self) -> None:
        self._perform(self._leases.elapsed(self._clock.now()))

    def _last_gone(self) -> None:
        """Nobody is here any more. Runs go on (decisions.md); only a setting asks for the reference's behaviour."""
        self._log.debug("last client left", extra=fields(workspace=self.registration.id))
        if self._cancel_on_last_detach and self.driver.status().state != "asleep":
            self._tasks.start(self._sleep("last client left"), "last_gone")
