"""One workspace as the supervisor sees it: its leases, its worker, its event hub.

It wakes the worker when a request needs one, passes the worker's events to the hub, and lets the worker sleep when it
has nothing to do.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from protocol.api.workspace import Description, WorkerCrash, WorkerStatus, WorkspaceState
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.base.timer import Timer
from protocol.errors import Conflict
from protocol.events import Event, EventId
from protocol.ids import ClientId, SessionId
from protocol.limits import Limits
from protocol.messages import Answer, SendWhole
from supervisor.events.hub import Hub, Stream
from supervisor.routing.link import Link
from supervisor.workers.crash_history import Crash
from supervisor.workers.driver import DriverStatus, WorkerDriver
from supervisor.workspaces.debt_file import DebtFile
from supervisor.workspaces.debts import DebtFacts
from supervisor.workspaces.eviction import Eviction, EvictionFacts
from supervisor.workspaces.leases import Arm, Effect, LastClaimEnded, Leases
from supervisor.workspaces.worker_calls import SLEEPING, WorkerCaller
from supervisor.workspaces.workspace_table import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACCEPTING = frozenset({"prompt.submit", "agent.summarize"})
"""Operations that accept a run."""
_CRASH_LINES = 20
"""Lines of output shown with a crash."""

_events_decoder = msgspec.msgpack.Decoder(list[Event])
_description_decoder = msgspec.json.Decoder(Description)


class ManagedWorkspace:
    """Created by the first request for it; lives as long as its registration. All state changes happen on the loop."""

    def __init__(
        self,
        *,
        registration: Registration,
        make_driver: "Callable[[ManagedWorkspace], WorkerDriver]",
        check_folder: Callable[[], Awaitable[None]],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        cancel_on_last_detach: bool = False,
        debts: DebtFile | None = None,
    ) -> None:
        """`debts` stores whether the workspace owes a run."""
        self._debts = debts
        self.registration = registration
        self.env: tuple[str, ...] | None = None  # of the first creator; None again after a restart of the supervisor
        self._limits = limits
        self._clock = clock
        self._log = log
        self._cancel_on_last_detach = cancel_on_last_detach
        self._tasks = TaskOwner(f"workspace.{registration.id}", log)
        self._leases = Leases(create_grace_s=limits.create_grace_s, detach_grace_s=limits.detach_grace_s)
        self._timer = Timer(clock, self._elapsed)
        self._eviction = Eviction(idle_s=limits.evict_idle_s, attached_idle_s=limits.evict_attached_idle_s)
        self._evicting = False
        self._streams = 0
        self._link: Link | None = None
        self.hub = Hub(workspace_id=registration.id, limits=limits, clock=clock, log=log, fetch=self._fetch)
        self.driver = make_driver(self)
        self._caller = WorkerCaller(
            workspace_id=registration.id,
            driver=self.driver,
            check_folder=check_folder,
            limits=limits,
            clock=clock,
            log=log,
            on_call_ended=self._call_ended,
        )

    # --- calls to the worker ----------------------------------------------------------------------------------------

    async def call(
        self, operation: str, *, args: dict[str, str] | None = None, body: bytes = b"", wakes: bool = True
    ) -> Answer:
        """Let the worker do an operation; wake it first if it sleeps. Raises as `WorkerCaller.call` does.

        An operation that accepts a run returns when it is also stored that the workspace owes one.
        """
        if operation not in _ACCEPTING or self._debts is None:
            return await self._caller.call(operation, args=args, body=body, wakes=wakes)
        self._debts.begin(self.registration.id)  # written while the worker stores the run
        answer = await self._caller.call(operation, args=args, body=body, wakes=wakes)
        await self._debts.accept(self.registration.id)
        return answer

    async def describe(self) -> Description:
        """Return the worker's description of its workspace; wakes the worker."""
        answer = await self.call("workspace.describe")
        return _description_decoder.decode(answer.body)

    async def restart(self, reason: str) -> None:
        """Replace the worker through the shutdown protocol. This also ends the state `failed`."""
        self._caller.check_open()
        await self._caller.check_directory()
        await self.driver.restart(reason)

    async def relocate(self) -> None:
        """End a worker that was started with a former directory; the next request starts one in the present one.

        Its runs end as in a restart, and its failure is forgotten.
        """
        await self.driver.close("folder moved")

    async def evict(self) -> None:
        """Let the worker sleep now. Raises Conflict `busy` when something would be lost."""
        if self.driver.status().state == "asleep":
            return
        if not self._eviction.may_sleep(self._facts()):
            raise Conflict(
                "cannot evict: a client is attached, or a run, a question or a child process is open", code="busy"
            )
        await self._sleep("evicted by hand")

    async def close(self, reason: str, *, cancel_queued: bool = False) -> None:
        """End the worker through the shutdown protocol, then every stream, cleanly. It is not started again.

        Runs that have not begun stay accepted on disk, unless they are cancelled with `cancel_queued`.
        """
        self._caller.end()
        try:
            await self.driver.close(reason, for_good=True, cancel_queued=cancel_queued)
        finally:
            await self._release_all()

    async def detach_all(self) -> None:
        """Forget the worker without ending it, and end every stream cleanly: another supervisor takes over."""
        self._caller.end()
        self.hub.close()
        await self.driver.stop(leave_worker=True)
        await self._release_all()

    async def _release_all(self) -> None:
        self._timer.cancel()
        self.hub.close()
        await self.hub.tasks.close()
        await self._caller.close()
        await self._tasks.close()

    # --- clients ----------------------------------------------------------------------------------------------------

    def claim(self, client_id: ClientId) -> None:
        """Claim the workspace for a client that created it, or found it by creating."""
        self._perform(self._leases.create(client_id, self._clock.now()))

    def release(self, client_id: ClientId) -> None:
        """End the client's claim."""
        self._perform(self._leases.release(client_id))

    def retire(self, client_id: ClientId) -> None:
        """End the client's claim at once, streams or not: it leaves the server for good."""
        self._perform(self._leases.retire(client_id))

    def view(self, client_id: ClientId, session_id: SessionId) -> None:
        """Note that the client looks at this session. Raises Conflict `not_attached`."""
        self._leases.view(client_id, session_id)

    def viewed(self) -> dict[SessionId, int]:
        """Return the sessions that clients look at, with the number of clients for each."""
        return self._leases.viewed()

    @contextmanager
    def attached(
        self,
        client_id: ClientId,
        *,
        cursor: EventId | None,
        cursor_is_bad: bool,
        wants_ids: bool,
        wants_deltas: bool,
    ) -> "Iterator[Stream]":
        """Open a stream of this workspace's events for a client; it is closed at the end of the block.

        The stream is subscribed before the claim begins, so that no event is missed.
        """
        stream = self.hub.open_stream(
            cursor=cursor, cursor_is_bad=cursor_is_bad, wants_ids=wants_ids, wants_deltas=wants_deltas
        )
        self._streams += 1
        number = self._streams
        self._perform(self._leases.attach(client_id, number))
        self._report_attached()
        try:
            yield stream
        finally:
            stream.close()
            self._report_attached()
            self._perform(self._leases.detach(client_id, number, self._clock.now()))

    async def open_requests(self) -> list[Event]:
        """Return the requests that wait for a client's answer, as the events that announced them."""
        link = await self._caller.ready()  # not through `call`: it opens no run that a heartbeat has to report
        answer = await link.call("asks.open", args={}, body=b"", timeout_s=self._limits.call_deadline_s)
        return _events_decoder.decode(answer.body)

    def _report_attached(self) -> None:
        if self._link is not None and self._link.is_open:
            self._link.attached(self.hub.streams)

    def wake(self) -> None:
        """Start the worker if it is asleep, without waiting; a missing directory shows as `failed`."""
        if not self._caller.is_ending:
            self.driver.want()

    @property
    def is_used(self) -> bool:
        """Return whether a client has a claim, or the worker has something to do."""
        facts = self._facts()
        if facts.claims or facts.streams or facts.calls:
            return True
        status = self.driver.status()
        return (status.answers or status.state not in SLEEPING) and not self._eviction.may_sleep(facts)

    # --- messages of the worker and its driver (DriverListener) -----------------------------------------------------

    def on_state_changed(self, status: DriverStatus) -> None:
        """Publish the worker's new state to the streams."""
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

    def on_log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        """Take the id of the worker's event log and the number of its last event."""
        self.hub.log_opened(log_id, last_number)
        self._link = link
        self._report_attached()

    def on_events(self, batch: list[Event], link: Link) -> None:
        """Pass events to the hub; grant credit for as many as it took, and ask for snapshots that it misses."""
        taken = self.hub.take(batch)
        if taken:
            link.grant(taken)
        if unfit := self.hub.take_unfit():
            link.send(SendWhole(keys=unfit))

    # --- sleep ------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Let the worker sleep if it has been idle for long enough; called by the housekeeping."""
        status = self.driver.status()
        # A worker that cannot store keeps running: a database that was unlinked lives no longer than its worker.
        if self._evicting or not status.answers or status.state == "failed":
            return
        if self._eviction.observed(self._facts(), self._clock.now()):
            self._evicting = True
            self._tasks.start(self._evict(), "evict")

    async def _evict(self) -> None:
        try:
            await failpoint("evict.decided")
            if (
                self._eviction.idle_time_s(self._facts()) is not None
            ):  # a request may have come while a failpoint waited
                await self._sleep("idle")
        finally:
            self._evicting = False

    async def _sleep(self, reason: str, *, cancel_queued: bool = False) -> None:
        last_word = await self.driver.close(reason, cancel_queued=cancel_queued)
        self._log.info("worker sleeps", extra=fields(workspace=self.registration.id, reason=reason, word=last_word))

    # --- status -----------------------------------------------------------------------------------------------------

    def status(self, *, crashes_max: int | None = None) -> WorkerStatus:
        """Return the operators' row, with up to `crashes_max` crashes. Memory and processor are added by the caller."""
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
            open_runs=beat.open_runs if beat else self._owed_runs,
            clients=self._leases.attached_clients,
            last_event_id=self.hub.last_event_id,
            loop_lag_s=beat.loop_lag_s if beat else 0.0,
            loop_lag_max_s=status.loop_lag_max_s,
            late_answers=status.late_answers,
            last_crashes=[_to_shape(crash) for crash in self.driver.crashes.newest(crashes_max)],
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
            holds_choices=beat.holds_choices if beat else False,
        )

    @property
    def _owed_runs(self) -> int:
        return self._debts.book.open_runs(self.registration.id) if self._debts is not None else 0

    def debt_facts(self) -> DebtFacts:
        """Return what decides whether the workspace owes a run."""
        facts, status, word = self._facts(), self.driver.status(), self.driver.last_word
        is_known = status.answers and self._eviction.is_reported(facts)
        return DebtFacts(
            state=status.state,
            open_runs=facts.open_runs if is_known else None,
            calls=facts.calls,
            left_open=len(word.held_runs) + len(word.left_runs) if word is not None and word.flushed else None,
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
                    self._timer.set(at)
                case LastClaimEnded():
                    self._last_claim_ended()

    def _elapsed(self) -> None:
        self._perform(self._leases.elapsed(self._clock.now()))

    def _last_claim_ended(self) -> None:
        """Cancel the runs by ending the worker, if the server's setting says so. Without it runs continue."""
        self._log.debug("last client left", extra=fields(workspace=self.registration.id))
        if self._cancel_on_last_detach and self.driver.status().state != "asleep":
            self._tasks.start(self._sleep("last client left", cancel_queued=True), "last_gone")


def _to_shape(crash: Crash) -> WorkerCrash:
    return WorkerCrash(
        cause=crash.cause,
        ended_at=crash.at_wall,
        generation=crash.generation,
        pid=crash.pid,
        lifetime_s=crash.lifetime_s,
        peak_rss_bytes=crash.peak_rss_bytes,
        last_lines=crash.log_tail.splitlines()[-_CRASH_LINES:],
    )
