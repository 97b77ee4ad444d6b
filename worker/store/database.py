"""Run all reads and writes of a worker's database file on one thread.

The thread owns one connection for the worker's life. Callers hand it jobs, plain functions of a transaction. All
waiting write jobs are committed together (one fsync for all), each in a savepoint of its own, so that a bad job does
not undo the batch. A job may be run a second time, in a new transaction, when its first batch could not be committed:
it must do nothing but read and write through its argument.

Events emitted in a transaction get their numbers in it and are published after its commit, in commit order, before
any caller learns of the commit. Errors: a full disk and a busy file are raised to the caller; any other storage error
is fatal: the worker ends itself and starts again from the file. A file that is read-only, or that was moved or
replaced, is still read.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection

from protocol.api.envelope import Change
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint_blocking
from protocol.base.logs import fields
from protocol.errors import Unavailable
from protocol.events import Event, numbered_event
from protocol.ids import RandomSource
from protocol.limits import Limits
from worker.store import events as event_rows
from worker.store.database_file import MOVED, READ_ONLY, DatabaseFile, StorageCorrupt, StorageUnusable
from worker.store.disk_reserve import DiskReserve
from worker.store.engine import wrap
from worker.store.error_classes import StorageErrorClass, is_corrupt, storage_fault
from worker.store.migrations import SchemaNewer, bring_up_to_date, check_schema, schema_version

T = TypeVar("T")

_PRUNE_EVERY = 256
_PROBE_S = 1.0
_PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "journal_size_limit=16777216",
    "temp_store=MEMORY",
    "cache_size=-2000",
)


class Transaction:
    """The argument of a write job: the connection, and the events that report its changes."""

    def __init__(self, connection: Connection, last_number: int | None = None) -> None:
        self.connection = connection
        self._last_number = last_number
        self.events: list[Event] = []

    @property
    def last_number(self) -> int:
        """The number of the newest event, including those of this transaction."""
        if self._last_number is None:
            self._last_number = event_rows.last_number(self.connection)
        return self._last_number

    def emit(
        self,
        payload: msgspec.Struct,
        change: Change | None = None,
        *,
        session_id: str = "",
        run_id: str = "",
        key: str = "",
    ) -> None:
        """Store an event under the next number; it is published after the commit.

        The payload's type decides the kind (`protocol.events.EVENTS`); `change` is needed where the kind has several.
        """
        number = self.last_number + 1
        event = numbered_event(payload, change, number=number, key=key, session_id=session_id, run_id=run_id)
        event_rows.append(self.connection, event)
        self._last_number = event.number
        self.events.append(event)

    def mark(self) -> tuple[int | None, int]:
        """Return the present state, for `back_to`."""
        return self._last_number, len(self.events)

    def back_to(self, mark: tuple[int | None, int]) -> None:
        """Forget the events emitted since `mark`; their rows are undone by the savepoint."""
        self._last_number, count = mark
        del self.events[count:]


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    work: Callable[[Any], T]
    future: "asyncio.Future[T]"
    is_write: bool = True
    is_ending: bool = False
    on_commit: Callable[[T], None] | None = None
    result: Any = None
    error: BaseException | None = None


class Database:
    """The workspace's database. Made by `open`; every other public method is for the event loop."""

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        random: RandomSource,
        on_commit: Callable[[list[Event]], None],
        on_fatal: Callable[[BaseException], None],
        on_writable: Callable[[], None],
    ) -> None:
        self.path = path
        self.log_id = ""
        self.last_number = 0
        self.degraded = ""
        self.failed = ""  # why writes are refused although reads work: READ_ONLY, MOVED or ""
        self._limits = limits
        self._clock = clock
        self._log = log
        self._random = random
        self._on_commit = on_commit
        self._on_fatal = on_fatal
        self._on_writable = on_writable
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._closed = False
        self._broken = False
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # The attributes below are used by the thread only.
        self._raw: sqlite3.Connection
        self._connection: Connection
        self._file = DatabaseFile(path)
        self._is_moved = False  # at the last check
        self._reserve = DiskReserve(path.parent / "reserve")
        self._probed_at = 0.0

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        random: RandomSource,
        on_commit: Callable[[list[Event]], None],
        on_fatal: Callable[[BaseException], None],
        on_writable: Callable[[], None] = lambda: None,
    ) -> "Database":
        """Open or create the file and migrate it to the current schema. Raises SchemaNewer, StorageUnusable.

        `on_writable` is called, once or more, when a file that was opened read-only may be written.
        """
        database = cls(
            path,
            limits=limits,
            clock=clock,
            log=log,
            random=random,
            on_commit=on_commit,
            on_fatal=on_fatal,
            on_writable=on_writable,
        )
        threading.Thread(target=database._serve, name="database", daemon=True).start()
        await database._opened
        return database

    async def write(
        self, job: Callable[[Transaction], T], *, on_commit: Callable[[T], None] | None = None, is_ending: bool = False
    ) -> T:
        """Run `job` in a transaction and commit it. Returns when it is on disk.

        `on_commit` is called on the loop right after the commit, before its events are published. `is_ending`: the job
        may use the reserve when the disk is full. Raises LimitReached `storage_full`, Unavailable `storage_busy`
        (nothing was stored) or `storage_failed` (the outcome is unknown), and what `job` raises. When the caller is
        cancelled the outcome is unknown as well.
        """
        return await self.finish(self._put(_Job(job, self._loop.create_future(), True, is_ending, on_commit)))

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Run `job`, which only reads. Raises as `write`."""
        return await self.finish(self._put(_Job(job, self._loop.create_future(), is_write=False)))

    async def close(self, timeout_s: float) -> bool:
        """Finish the waiting jobs and close the file. Return False when that took longer than `timeout_s` seconds."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._ended)
        except TimeoutError:
            return False
        return True

    def post(self, job: Callable[[Transaction], T]) -> "asyncio.Future[T]":
        """Enqueue `job` at once, in the order of these calls and of `write`; `finish` waits for it."""
        return self._put(_Job(job, self._loop.create_future()))

    async def finish(self, posted: "asyncio.Future[T]") -> T:
        """Wait for a posted job. Raises as `write`."""
        try:
            async with asyncio.timeout(self._limits.storage_job_s):
                return await posted
        except TimeoutError as error:
            self._break(error)
            message = f"cannot tell whether this was stored: no answer within {self._limits.storage_job_s} s"
            raise Unavailable(message, code="storage_failed") from error

    def _put(self, job: _Job[T]) -> "asyncio.Future[T]":
        if self._closed or self._broken:
            raise Unavailable("cannot use the storage: it is closed", code="storage_failed")
        if self._waiting >= self._limits.storage_backlog_max:
            message = f"cannot store this now: {self._waiting} writes wait already; try again"
            raise Unavailable(message, code="storage_busy", retry_after_s=1.0)
        self._waiting += 1
        self._queue.put(job)
        return job.future

    def _break(self, error: BaseException) -> None:
        if not self._broken:
            self._broken = True
            self._log.error("storage failed", extra=fields(path=self.path, error=error))
            self._on_fatal(error)

    def _deliver(self, jobs: list[_Job[Any]], events: list[Event], degraded: str, failed: str) -> None:
        """Report a batch on the loop: first `on_commit` of each job, then the events, then the callers."""
        self._waiting -= len(jobs)
        self.degraded = degraded
        self.failed = failed
        for job in jobs:
            if job.on_commit is not None and job.error is None:
                job.on_commit(job.result)
        if events:
            self.last_number = events[-1].number
            self._on_commit(events)
        for job in jobs:
            if job.future.done():
                continue  # the caller was cancelled
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            reason = f"cannot open the database {self.path}: {error}; the file is left as it is"
            kind = StorageCorrupt if is_corrupt(error) else StorageUnusable
            self._call_on_loop(_fail, self._opened, kind(reason))
            return
        except (SchemaNewer, StorageUnusable) as error:
            self._call_on_loop(_fail, self._opened, error)
            return
        self._call_on_loop(_done, self._opened)
        while (jobs := self._take()) is not None:
            try:
                events = self._perform(jobs)
            except BaseException as error:  # nothing may leave the thread unreported
                for job in jobs:
                    job.error = Unavailable(f"cannot tell whether this was stored: {error}", code="storage_failed")
                # First, so that a caller that gets the failure finds the worker leaving.
                self._call_on_loop(self._break, error)
                self._call_on_loop(self._deliver, jobs, [], "storage failed", "")
                break
            self._call_on_loop(self._deliver, jobs, events, *self._problems())
        try:
            self._connection.close()
        except sqlite3.Error as error:
            self._log.warning("database did not close", extra=fields(error=error))
        self._call_on_loop(_done, self._ended)

    def _open(self) -> None:
        self._raw = self._file.connect(self._limits.storage_busy_s)
        try:
            self._begin()
        except BaseException:
            self._raw.close()
            raise

    def _begin(self) -> None:
        if self._file.is_read_only:
            check_schema(self._raw)
            self.failed = READ_ONLY
        else:
            self._open_for_writing()
        self._connection = wrap(self._raw)
        self.log_id = event_rows.log_id(self._connection)
        self.last_number = event_rows.last_number(self._connection)
        self._file.remember()

    def _open_for_writing(self) -> None:
        schema_version(
            self._raw
        )  # first: the mode is written into the file, and a file of a newer version must not be changed
        mode = self._raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StorageUnusable(f"cannot use the database {self.path}: WAL mode is needed, it stays in {mode!r}")
        for pragma in _PRAGMAS:
            self._raw.execute(f"PRAGMA {pragma}")
        bring_up_to_date(self._raw, self.path, self._random, self._log)
        try:
            self._reserve.restore(self._raw)
        except (sqlite3.Error, OSError) as error:
            if is_corrupt(error):
                raise
            self._log.warning("no space for the reserve", extra=fields(error=error))

    def _take(self) -> list[_Job[Any]] | None:
        """Wait for jobs and return all that wait; None at the end. Probes once a second while storing is impossible."""
        while True:
            is_well = self._reserve.is_whole and not self._is_moved
            try:
                first = self._queue.get(timeout=None if is_well else _PROBE_S)
                break
            except queue.Empty:
                self._probe()
                self._call_on_loop(self._deliver, [], [], *self._problems())
        if first is None:
            return None
        jobs = [first]
        while len(jobs) < 256:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)  # the end comes after this batch
                break
            jobs.append(job)
        return jobs

    def _perform(self, jobs: list[_Job[Any]]) -> list[Event]:
        """Run a batch: its writes in one commit, then its reads. Raises only fatal errors."""
        events: list[Event] = []
        writes = self._allowed([job for job in jobs if job.is_write])
        if writes:
            fault = self._commit(writes, events)
            if fault is not None and fault.is_full and len(writes) > 1:
                for job in writes:  # a large job must not fail the small ones
                    self._commit_alone(job, events)
            elif fault is not None and fault.is_full:
                self._commit_alone(writes[0], events)
            elif fault is not None:
                for job in writes:
                    job.error = fault.error
        for job in jobs:
            if not job.is_write:
                self._read(job)
        if any(event.kind == "run_complete" for event in events):
            failpoint_blocking("terminal.after_commit")
        if writes and self._is_moved:
            self._truncate_wal()
        if not self._reserve.is_whole:
            self._probe()
        return events

    def _allowed(self, writes: list[_Job[Any]]) -> list[_Job[Any]]:
        """Return the jobs that may be tried. In a file that was moved, runs are still ended: it may be put back."""
        if not self._file.is_read_only and not self._check_moved():
            return writes
        for job in writes:
            job.error = self._file.refusal()
        return [job for job in writes if job.is_ending and not self._file.is_read_only]

    def _check_moved(self) -> bool:
        """Return whether the file was moved or replaced (D05). When it just was, complete it without its log."""
        was_moved, self._is_moved = self._is_moved, self._file.is_moved()
        if self._is_moved and not was_moved:
            self._log.error("the database file was moved or replaced", extra=fields(path=self.path))
            self._truncate_wal()
        return self._is_moved

    def _truncate_wal(self) -> None:
        """Move the write-ahead log into the open file: SQLite would apply the log to any other file at its path."""
        try:
            self._raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self._log.warning("the write-ahead log could not be emptied", extra=fields(error=error))

    def _commit_alone(self, job: _Job[Any], events: list[Event]) -> None:
        fault = self._commit([job], events)
        if fault is None:
            return
        if fault.is_full and job.is_ending:
            self._reserve.take_file()
            for rows in range(1, 9):
                fault = self._commit([job], events, reserve_rows=rows)
                if fault is None:
                    return
                if not fault.is_full:
                    break
        if fault.is_full:
            self._reserve.doubt()  # reports the state, and probes until there is room again
            self._probed_at = self._clock.now()
        job.error = fault.error

    def _commit(self, jobs: list[_Job[Any]], events: list[Event], reserve_rows: int = 0) -> StorageErrorClass | None:
        """Run all `jobs` in one transaction. Return why nothing was stored, or None."""
        transaction = Transaction(self._connection)
        try:
            self._raw.execute("BEGIN IMMEDIATE")
            for _ in range(reserve_rows):
                self._reserve.take_row(self._raw)
            for job in jobs:
                self._run(job, transaction)
            if transaction.events and transaction.last_number % _PRUNE_EVERY < len(transaction.events):
                limits = self._limits
                event_rows.prune(self._connection, kept=limits.events_kept, kept_bytes=limits.events_kept_bytes)
            self._raw.execute("COMMIT")
        except Exception as error:
            fault = storage_fault(error)
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            if fault is None or fault.is_fatal:
                raise
            return fault
        events += transaction.events
        return None

    def _run(self, job: _Job[Any], transaction: Transaction) -> None:
        mark = transaction.mark()
        self._raw.execute("SAVEPOINT job")
        try:
            job.result = job.work(transaction)
            job.error = None
        except Exception as error:
            if storage_fault(error) is not None:
                raise
            job.error = error
            self._raw.execute("ROLLBACK TO job")
            transaction.back_to(mark)
        self._raw.execute("RELEASE job")

    def _read(self, job: _Job[Any]) -> None:
        try:
            job.result = job.work(self._connection)
        except Exception as error:
            fault = storage_fault(error)
            if fault is not None and fault.is_fatal:
                raise
            job.error = error if fault is None else fault.error

    def _probe(self) -> None:
        """Try to restore the reserve, or check whether a read-only file has become writable; at most once a second."""
        if self._clock.now() - self._probed_at < _PROBE_S:
            return
        self._probed_at = self._clock.now()
        if self._file.is_read_only:
            if self._file.may_write():
                self._call_on_loop(self._on_writable)
            return
        try:
            self._reserve.restore(self._raw)
        except (sqlite3.Error, OSError) as error:
            fault = storage_fault(error)
            if isinstance(error, sqlite3.Error) and (fault is None or fault.is_fatal):
                raise

    def _problems(self) -> tuple[str, str]:
        """Return the reasons for `degraded` and `failed`, "" for none."""
        if self._file.is_read_only:
            return "", READ_ONLY
        return "" if self._reserve.is_whole else "storage full", MOVED if self._check_moved() else ""

    def _call_on_loop(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop is closed, and with it every caller


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
