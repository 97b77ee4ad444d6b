"""Decide whether a client could answer a request: how many listen, and whether one said that it is interactive.

`agent/init` says `interactive`, but not which client it comes from. A client that cannot answer does not overrule one
that can and still listens. After a while without any client the statement expires.
"""


class ClientPresence:
    """Keep what the clients of one workspace said. `now` is monotonic, in seconds."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s  # a client whose stream broke is expected back within this time
        self._clients = 0
        self._empty_since: float | None = None
        self._interactive: bool | None = None

    @property
    def clients(self) -> int:
        """The number of listening clients."""
        return self._clients

    def attached(self, clients: int, now: float) -> None:
        """Set the number of listening clients."""
        self._expire(now)
        if not clients and self._clients:
            self._empty_since = now
        elif clients:
            self._empty_since = None
        self._clients = clients

    def said(self, interactive: bool, now: float) -> None:
        """Record that a client said whether it can answer. A client says so before it begins to listen."""
        self._expire(now)
        self._interactive = interactive or (bool(self._interactive) and self._clients > 0)

    def is_interactive(self, now: float) -> bool | None:
        """Return whether a client can answer; None when none has said so."""
        self._expire(now)
        return self._interactive

    def cannot_answer(self, now: float) -> bool:
        """Return whether the only client that could see a request said that it cannot answer."""
        return self.is_interactive(now) is False and self._clients <= 1

    def _expire(self, now: float) -> None:
        if self._empty_since is not None and now - self._empty_since > self._grace_s:
            self._interactive = self._empty_since = None
