"""Decide how long a worker lives without a supervisor: a lease, never shorter than its open runs (S14)."""


class SupervisorLease:
    """The lease of a worker. Every message of a supervisor renews it, and the connection to one."""

    def __init__(self, *, supervisor_lease_s: float, now: float) -> None:
        self._lease_s = supervisor_lease_s
        self._heard_at = now
        self._checked_at = now

    def heard(self, now: float) -> None:
        """Renew the lease: a supervisor was heard."""
        self._heard_at = now

    def is_over(self, *, open_runs: int, now: float) -> bool:
        """Return whether the worker should leave. Call it about every quarter of the lease.

        Runs are never cut: with an open run the answer is no, and once it has ended after the lease, yes. If there was
        no call for half a lease, this process did not run (it was stopped, or the machine was suspended; H01) and could
        not hear a supervisor: the lease begins again.
        """
        if now - self._checked_at > self._lease_s / 2:
            self._heard_at = now
        self._checked_at = now
        return open_runs == 0 and now - self._heard_at >= self._lease_s
