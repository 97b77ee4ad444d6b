"""Decide whether to adopt the worker of a record that a previous supervisor left, or to end what is left of it."""

from enum import Enum

from supervisor.launch.launcher import Record


class AdoptionDecision(Enum):
    """What to do with the worker of a record."""

    ADOPT = "adopt"  # exactly that process lives
    END = "end"  # it may live with another pid: end everything that carries its marker


def decide_adoption(record: Record, *, boot_id: str, start_ticks: int | None) -> AdoptionDecision:
    """Compare identities, never pids alone: another process with a reused pid is neither adopted nor killed (S11).

    `start_ticks` is that of the process that has the record's pid now, None if there is none. A record without a pid
    was written before a start whose outcome was not seen (S03): its processes are found by their marker and ended.
    """
    if record.pid == 0 or start_ticks is None:
        return AdoptionDecision.END
    if record.boot_id != boot_id or record.start_ticks != start_ticks:
        return AdoptionDecision.END
    return AdoptionDecision.ADOPT
