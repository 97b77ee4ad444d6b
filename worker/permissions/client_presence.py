"""Who could answer a request: how many clients listen, and whether they said that somebody sits there. Pure.

`agent/init` says `interactive`, without saying which client it comes from. A client that cannot answer does not
overrule one that can and is still here; when all have been gone for a while, nothing is known any more.
"""


class ClientPresence:
    """What is known of the clients of one workspace. `now` is monotonic, in seconds."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s  # a client whose stream broke is back within this
        self._clients = 0
        self._empty_since: float | None = None
        self._interactive: bool | None = None

    @property
    def clients(self) -> int:
        """How many clients listen."""
        return self._clients

    def attached(self, clients: int, now: float) -> None:
        """So many clients listen now."""
        self._forget(now)
        if not clients and self._clients:
            self._empty_since = now
        elif clients:
            self._empty_since = None
        self._clients = clients

    def said(self, interactive: bool, now: float) -> None:
        """A client said whether it can answer. It says so before it begins to listen."""
        self._forget(now)
        self._interactive = interactive or (bool(self._interactive) and self._clients > 0)

    def is_interactive(self, now: float) -> bool | None:
        """Can somebody answer? None when nobody has said."""
        self._forget(now)
        return self._interactive

    def cannot_answer(self, now: float) -> bool:
        """Is the only one who could see a request one that said it cannot answer?"""
        return self.is_interactive(now) is False and self._clients <= 1

    def _forget(self, now: float) -> None:
        if self._empty_since is not None and now - self._empty_since > self._grace_s:
            self._interactive = self._empty_since = None
