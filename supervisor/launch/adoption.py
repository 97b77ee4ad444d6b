"""What to do with a record that a former supervisor left: adopt its worker, end what is left of it, or forget it."""

from enum import Enum

from supervisor.launch.launcher import Record


class AdoptionDecision(Enum):
    """What becomes of a record."""

    ADOPT = "adopt"  # that very process lives
    END = "end"  # it may live without being known: end everything that carries its marker


def decide_adoption(record: Record, *, boot_id: str, start_ticks: int | None) -> AdoptionDecision:
    """Judge by identity, never by pid alone: a stranger with a reused pid is neither adopted nor killed (S11).

    `start_ticks` is what the process with the record's pid has now, None if there is none. A record without a pid was
    written before a start whose outcome nobody saw (S03): whatever came of it is found by its marker and ended.
    """
    if record.pid == 0 or start_ticks is None:
        return AdoptionDecision.END
    if record.boot_id != boot_id or record.start_ticks != start_ticks:
        return AdoptionDecision.END
    return AdoptionDecision.ADOPT
