"""How long a worker stays when no supervisor is heard: a lease, never shorter than its open runs (S14)."""


class SupervisorLease:
    """The lease of a worker. Any word of a supervisor renews it."""

    def __init__(self, *, supervisor_lease_s: float, now: float) -> None:
        self._tenure_s = supervisor_lease_s
        self._heard_at = now
        self._looked_at = now

    def heard(self, now: float) -> None:
        """A supervisor is there."""
        self._heard_at = now

    def is_over(self, *, open_runs: int, now: float) -> bool:
        """Should the worker leave? To be asked every second or so.

        Runs are never cut: with an open run the answer is no, and when it has ended after the lease, yes. If this was
        not asked for half a lease, then it was we who slept (a stopped process, a suspended machine; H01), so nobody
        could be heard: the lease begins anew.
        """
        if now - self._looked_at > self._tenure_s / 2:
            self._heard_at = now
        self._looked_at = now
        return open_runs == 0 and now - self._heard_at >= self._tenure_s
