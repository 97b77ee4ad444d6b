"""Receive the events of one workspace and give them to every stream.

Numbered events are taken strictly in their order. A hole (an event was lost on the way, or the worker committed some
while it was not connected) is filled by fetching from the worker. A bounded number of later events waits meanwhile;
the rest is fetched as well.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

from protocol.api.workspace import WorkspaceState
from protocol.base.backoff import Backoff
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.events import MARK_KIND, Event, EventId, event_data
from protocol.limits import Limits
from supervisor.events.notifier import StreamNotifier, Writer
from supervisor.events.publication import Publication
from supervisor.events.replay import ReplayLog
from supervisor.events.stream import ClientStream, base_text

Fetch = Callable[[int, int], Awaitable[list[Event]]]

_ALIVE = frozenset({"ready", "degraded", "closing"})
_FETCH_ATTEMPTS = 5
_FETCH_PAUSE = Backoff(first_s=0.4, max_s=3.2)
_PAGE_PAUSE = Backoff(first_s=1.0, max_s=30.0)
"""Between two fetches for one client while there is no worker."""


class Output(Protocol):
    """The connection of one client."""

    def try_write(self, data: bytes) -> bool:
        """Send `data` now. Return False if a part of it could not be sent and waits for the next write."""
        ...


class Hub:
    """The events of one workspace. Methods that do not wait are plain functions, called on the event loop."""

    def __init__(
        self,
        *,
        workspace_id: str,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        fetch: Fetch,
        random: Random | None = None,
    ) -> None:
        """`fetch(after, count)` asks the worker; it raises BulkheadError, with code `reset` when they were deleted."""
        self.workspace_id = workspace_id
        self._limits = limits
        self._clock = clock
        self._log = log
        self.fetch = fetch
        self._random = random or Random(workspace_id)
        self.tasks = TaskOwner(f"hub.{workspace_id}", log)
        self._replay = ReplayLog(
            kept=limits.replay_kept,
            kept_bytes=limits.replay_kept_bytes,
            behind_max=limits.stream_queue_max,
            behind_max_bytes=limits.stream_queue_max_bytes,
            snapshot_max_bytes=limits.message_max_bytes,
        )
        self.known_to = 0  # the highest number that the worker has mentioned
        self._after_hole: list[Event] = []  # numbered events behind a hole
        self._filling = False
        self._streams: set[Stream] = set()
        self._notifier = StreamNotifier(clock=clock, on_delivered=self._delivered)
        self._publication = Publication(self._replay.snapshots, limits=limits, clock=clock, on_published=self.wake)
        self._unfit: list[str] = []
        self._state_text = b""
        self._closed = False

    @property
    def last_event_id(self) -> str:
        """The id of the newest event, "" while the log is not known."""
        return f"{self._replay.log_id}.{self._replay.last}" if self._replay.log_id else ""

    @property
    def log_id(self) -> str:
        """The id of the event log, "" while it is not known."""
        return self._replay.log_id

    @property
    def streams(self) -> int:
        """The number of listening clients."""
        return len(self._streams)

    # --- from the worker --------------------------------------------------------------------------------------------

    def log_opened(self, log_id: str, last_number: int) -> None:
        """A worker has opened the log with this id; its newest event is `last_number`."""
        if self._closed or not log_id:
            return
        self._after_hole.clear()
        replay = self._replay
        if not replay.log_id:
            replay.opened(log_id, last_number)
            for stream in self._streams:
                stream.client.began(last_number)
            self.known_to = last_number
            replay.remarked(base_text(replay))
        elif replay.log_id != log_id or last_number < replay.last:
            # Another file, or one that lost its end (D06): its numbers belong to other events now.
            self.known_to = last_number
            self._start_over(log_id, last_number, "the event log was replaced")
        else:
            self.known_to = last_number
            self._fill_hole()
        self._changed()

    def take(self, events: list[Event]) -> int:
        """Take events of the worker, in its order. Return how many of them count for its credit."""
        numbered = 0
        for event in events:
            if event.number == 0:
                if self._replay.log_id and not self._closed:
                    self._take_snapshot(event)
            elif event.kind == MARK_KIND:
                self.known_to = max(self.known_to, event.number)
            else:
                numbered += 1
                self._take_numbered(event)
        self._fill_hole()
        self._publication.grown()
        self._changed()
        return numbered

    def take_unfit(self) -> list[str]:
        """Return the keys of snapshots that could not be continued since the last call."""
        unfit, self._unfit = self._unfit, []
        return unfit

    def state_changed(self, state: WorkspaceState) -> None:
        """Send the state of the worker to clients that asked for ids (P12)."""
        self._state_text = b"data: " + event_data(state) + b"\n\n"
        if state.state not in _ALIVE:
            self._replay.snapshots.clear()  # the worker that made them has ended
        if not self._closed:
            self._replay.remarked(self._state_text)
            self._changed()

    def _take_snapshot(self, event: Event) -> None:
        snapshots = self._replay.snapshots
        if event.growth is None:
            snapshots.replace(event)
        elif not snapshots.grow(event) and event.key not in self._unfit:
            self._unfit.append(event.key)

    def _take_numbered(self, event: Event) -> None:
        replay = self._replay
        if not replay.log_id or self._closed or event.number <= replay.last:
            return  # it cannot be given a place in a log, or was fetched meanwhile
        self.known_to = max(self.known_to, event.number)
        if event.number == replay.last + 1:
            replay.added(event)
            self._take_after_hole()
        elif not self._streams:
            replay.skipped_to(event.number - 1)  # a later client that needs them fetches them
            replay.added(event)
        elif len(self._after_hole) < self._limits.event_window:
            self._after_hole.append(event)

    def _take_after_hole(self) -> None:
        while self._after_hole and self._after_hole[0].number <= self._replay.last + 1:
            event = self._after_hole.pop(0)
            if event.number == self._replay.last + 1:
                self._replay.added(event)

    # --- holes ------------------------------------------------------------------------------------------------------

    def _fill_hole(self) -> None:
        if self.known_to <= self._replay.last or self._filling or self._closed or not self._replay.log_id:
            return
        if not self._streams:
            self._replay.skipped_to(self.known_to)
            self._after_hole.clear()
            return
        self._filling = True
        self.tasks.start(self._fill(), "fill")

    async def _fill(self) -> None:
        attempt = 0
        try:
            while (after := self._replay.last) < self.known_to and not self._closed:
                log_id = self._replay.log_id
                self._log.info(
                    "fetching events", extra=fields(workspace=self.workspace_id, after=after, known_to=self.known_to)
                )
                reason = "the worker did not return them"
                try:
                    page = await self.fetch(after, min(self._limits.event_batch_max, self.known_to - after))
                except BulkheadError as error:
                    page, reason = [], error.message
                    if error.code == "reset":
                        attempt = _FETCH_ATTEMPTS
                if self._replay.log_id != log_id:
                    continue
                for event in page:
                    self._take_numbered(event)
                if self._replay.last > after:
                    attempt = 0
                    self._changed()
                    continue
                attempt += 1
                if attempt >= _FETCH_ATTEMPTS:
                    self._give_up(reason)
                    return
                await asyncio.sleep(_FETCH_PAUSE.delay_s(attempt - 1))
        finally:
            self._filling = False

    def _give_up(self, reason: str) -> None:
        self._log.warning(
            "events lost to clients", extra=fields(workspace=self.workspace_id, after=self._replay.last, reason=reason)
        )
        after_hole, self._after_hole = self._after_hole, []
        last = after_hole[0].number - 1 if after_hole else self.known_to
        self._start_over(self._replay.log_id, last, "the events are no longer stored")
        for event in after_hole:
            self._take_numbered(event)
        self._changed()

    def _start_over(self, log_id: str, last: int, reason: str) -> None:
        self._replay.opened(log_id, last)
        for stream in self._streams:
            stream.client.reset(reason)

    # --- streams ----------------------------------------------------------------------------------------------------

    def open_stream(
        self, *, cursor: EventId | None, cursor_is_bad: bool, wants_ids: bool, wants_deltas: bool = False
    ) -> "Stream":
        """Subscribe a client, from now on or from the event after `cursor`."""
        preamble = b""
        if wants_ids:
            retry_ms = self._limits.stream_retry_ms + self._random.randrange(self._limits.stream_retry_jitter_ms + 1)
            preamble = b"retry: %d\n\n" % retry_ms + self._state_text
        client = ClientStream(
            self._replay,
            cursor=cursor,
            cursor_is_bad=cursor_is_bad,
            wants_ids=wants_ids,
            wants_deltas=wants_deltas,
            known_to=self.known_to,
            preamble=preamble,
        )
        if self._closed:
            client.end()
        stream = Stream(self, client)
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """End every stream cleanly, after the events that it has already. The hub takes no further ones."""
        self._closed = True
        self._publication.close()
        for stream in self._streams:
            stream.client.end()
        self.wake()

    async def page(self, after: int) -> list[Event] | BulkheadError:
        """Fetch a page from the worker for a client that is behind. An error is returned, not raised."""
        try:
            return await self.fetch(after, self._limits.event_batch_max)
        except BulkheadError as error:
            return error

    def forget(self, stream: "Stream") -> None:
        """Remove a stream that is closed."""
        self._streams.discard(stream)
        self.wake()

    async def changed(self, timeout_s: float, writer: Writer | None = None) -> bool:
        """Wait until there is more to do than what `writer` did. Return False after `timeout_s` seconds."""
        return await self._notifier.changed(timeout_s, writer)

    def _changed(self) -> None:
        if self._replay.is_over:
            positions = [stream.client.position for stream in self._streams if stream.client.is_reading]
            self._replay.trim(min(positions, default=self._replay.end))
        self.wake()

    def wake(self) -> None:
        """Let every waiting stream check again."""
        self._notifier.wake()

    def _delivered(self, took_s: float) -> None:
        self._publication.delivered(took_s)


class Stream:
    """One client's stream. Made by `Hub.open_stream`; its reader calls `next_chunk` repeatedly."""

    def __init__(self, hub: Hub, client: ClientStream) -> None:
        self.client = client
        self._hub = hub
        self._page: asyncio.Task[list[Event] | BulkheadError] | None = None
        self._page_of: EventId | None = None
        self._attempt = 0
        self._next_fetch_at = 0.0
        self._output: Output | None = None
        self._has_written = False
        self._is_partial = False  # the output could not take all of it

    def write(self) -> bool:
        """Send the text that is there to the output. Return whether there is more to do (Writer)."""
        assert self._output is not None
        while text := self.client.take():
            self._has_written = True
            if not self._output.try_write(text):
                self._is_partial = True
                return True
        return self.client.is_over or self.client.wants_page is not None

    async def next_chunk(self, timeout_s: float, output: Output | None = None) -> bytes | None:
        """Return all waiting events as SSE text; b"" when none came within `timeout_s`; None at the clean end.

        With an `output`, events that come while this waits are sent to it at once. When it could not take all, this
        returns b"", so that the caller waits for it.
        """
        self._output = output
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if text := self.client.take():
                return text
            if self.client.is_over:
                return None
            now = loop.time()
            if now >= deadline:
                return b""
            wait_s = deadline - now
            if (cursor := self.client.wants_page) is not None:
                if self._page is not None and self._page.done():
                    self._take_page(self._page.result(), now)
                    continue
                if self._page is None and now >= self._next_fetch_at:
                    self._fetch_page(cursor)
                elif self._page is None:
                    wait_s = min(wait_s, self._next_fetch_at - now)
            if output is None:
                await self._hub.changed(wait_s)
                continue
            self._has_written = self._is_partial = False
            await self._hub.changed(wait_s, self)
            if self._is_partial:
                return b""
            if self._has_written:
                deadline = loop.time() + timeout_s

    def add_open_requests(self, events: Sequence[Event]) -> None:
        """Send the client those events of open requests that are older than its stream."""
        self.client.add_open_requests(events)
        self._hub.wake()

    def close(self) -> None:
        """The client has left; a waiting `next_chunk` returns None."""
        self.client.close()
        if self._page is not None:
            self._page.cancel()
        self._hub.forget(self)

    def _fetch_page(self, cursor: EventId) -> None:
        self._page_of = cursor
        self._page = self._hub.tasks.start(self._hub.page(cursor.number), "page")
        self._page.add_done_callback(lambda _: self._hub.wake())

    def _take_page(self, page: list[Event] | BulkheadError, now: float) -> None:
        cursor, self._page, self._page_of = self._page_of, None, None
        assert cursor is not None
        if isinstance(page, BulkheadError) and page.code != "reset":
            # No worker now. The client keeps this stream, which shows the state of the workspace, and waits.
            self.client.try_live(self._hub.known_to)
            self._next_fetch_at = now + _PAGE_PAUSE.delay_s(self._attempt)
            self._attempt += 1
            return
        self._attempt = 0
        if not isinstance(page, BulkheadError) and page and cursor.log_id == self._hub.log_id:
            # The page may overtake the batch with the same events. Without this the client would be ahead of the hub,
            # and would be reset.
            self._hub.known_to = max(self._hub.known_to, page[-1].number)
        if isinstance(page, BulkheadError) or not self.client.paged(cursor, page, self._hub.known_to):
            self.client.reset("the events are no longer stored")
