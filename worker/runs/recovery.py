"""Before ready: ends what a crash left open, lines up what had not begun. One transaction.

A run that was active is never executed again (P3): it ends `interrupted`, its partial answer is kept, its open tool
calls are answered. A run that was about to start when its worker died, too often, is not tried again (W17).
"""

from dataclasses import dataclass, field

from protocol.ids import RunId
from protocol.limits import Limits
from worker.runs.run_end import CRASHED_REPEATEDLY, INTERRUPTED, EndWriter
from worker.runs.transcript import charge
from worker.store import rows, runs, sessions
from worker.store.database import Database, Transaction
from worker.store.rows import StoredRun


@dataclass(frozen=True)
class Recovered:
    """What recovery did. `waiting` are to be lined up, in this order."""

    interrupted: list[RunId] = field(default_factory=list)
    failed: list[RunId] = field(default_factory=list)
    waiting: list[StoredRun] = field(default_factory=list)
    last_accept_seq: int = 0


async def recover(database: Database, scribe: EndWriter, limits: Limits) -> Recovered:
    """Bring the file into a state in which no run is active. Raises what the database raises."""

    def job(transaction: Transaction) -> Recovered:
        result = Recovered(last_accept_seq=runs.last_accept_seq(transaction.connection))
        open_runs = runs.open_runs(transaction.connection)
        folded: dict[str, list[str]] = {}
        for run in open_runs:
            if run.folded_into:
                folded.setdefault(run.folded_into, []).append(run.id)
        for run in open_runs:
            if run.state == "active" and not run.folded_into:
                scribe.close(transaction, run, INTERRUPTED, folded=folded.get(run.id, ()))
                if run.kind in rows.DELEGATED:
                    _charge(transaction, run, scribe)
                result.interrupted.extend(RunId(run_id) for run_id in (run.id, *folded.pop(run.id, ())))
            elif run.state == "active":
                pass  # ends with its host
            elif run.kind in rows.DELEGATED:  # nobody waits for it any more
                scribe.drop(transaction, run, INTERRUPTED)
                result.interrupted.append(RunId(run.id))
            elif run.deaths >= limits.poison_deaths_max:
                scribe.close(transaction, run, CRASHED_REPEATEDLY)
                result.failed.append(RunId(run.id))
            else:
                result.waiting.append(run)
        return result

    last_accept_seq = await database.read(runs.last_accept_seq)
    if last_accept_seq == 0 or database.failed:
        return Recovered(last_accept_seq=last_accept_seq)  # a fresh file, or one that can only be read
    return await database.write(job, is_ending=True)


def _charge(transaction: Transaction, run: StoredRun, scribe: EndWriter) -> None:
    """The caller of this run died with it, before it could take its cost."""
    session = sessions.get(transaction.connection, run.session_id)
    if session is not None and session.parent_session_id:
        charge(transaction, session.parent_session_id, run.session_id, int(scribe.clock.wall()))
