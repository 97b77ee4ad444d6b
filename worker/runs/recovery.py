"""End the runs that a crash left open, and find those that have not begun. One transaction, before the worker is ready.

A run that was active is never executed again (P3): it ends `interrupted`, its partial answer is kept, its open tool
calls are answered. A run whose worker died too often when the run was about to start is not tried again (W17).
"""

from dataclasses import dataclass, field

from protocol.ids import RunId
from protocol.limits import Limits
from worker.runs.run_end import CRASHED_REPEATEDLY, INTERRUPTED, EndWriter
from worker.runs.transcript import charge
from worker.store import rows
from worker.store.database import Database, Transaction
from worker.store.rows import StoredRun
from worker.store.tables import runs, sessions


@dataclass(frozen=True)
class Recovered:
    """The result of recovery. `waiting` are to be enqueued, in this order."""

    interrupted: list[RunId] = field(default_factory=list)
    failed: list[RunId] = field(default_factory=list)
    waiting: list[StoredRun] = field(default_factory=list)
    last_accept_seq: int = 0


async def recover(database: Database, writer: EndWriter, limits: Limits) -> Recovered:
    """Bring the file into a state in which no run is active. Raises as `Database.write`."""

    def job(transaction: Transaction) -> Recovered:
        result = Recovered(last_accept_seq=runs.last_accept_seq(transaction.connection))
        open_runs = runs.open_runs(transaction.connection)
        merged: dict[str, list[str]] = {}
        for run in open_runs:
            if run.folded_into:
                merged.setdefault(run.folded_into, []).append(run.id)
        for run in open_runs:
            if run.state == "active" and not run.folded_into:
                writer.close(transaction, run, INTERRUPTED, merged=merged.get(run.id, ()))
                if run.kind in rows.DELEGATED:
                    _charge(transaction, run, writer)
                result.interrupted.extend(RunId(run_id) for run_id in (run.id, *merged.pop(run.id, ())))
            elif run.state == "active":
                pass  # merged: ends with the run that it was merged into
            elif run.kind in rows.DELEGATED:  # the run that waited for it has ended
                writer.drop(transaction, run, INTERRUPTED)
                result.interrupted.append(RunId(run.id))
            elif run.deaths >= limits.poison_deaths_max:
                writer.close(transaction, run, CRASHED_REPEATEDLY)
                result.failed.append(RunId(run.id))
            else:
                result.waiting.append(run)
        return result

    last_accept_seq = await database.read(runs.last_accept_seq)
    if last_accept_seq == 0 or database.failed:
        return Recovered(last_accept_seq=last_accept_seq)  # a fresh file, or one that can only be read
    return await database.write(job, is_ending=True)


def _charge(transaction: Transaction, run: StoredRun, writer: EndWriter) -> None:
    """Add the cost of a delegated run to its caller, which died before it could do so."""
    session = sessions.get(transaction.connection, run.session_id)
    if session is not None and session.parent_session_id:
        charge(transaction, session.parent_session_id, run.session_id, int(writer.clock.wall()))
