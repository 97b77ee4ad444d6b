"""Find the rows that requests name, or answer 404."""

from sqlalchemy import Connection

from protocol.api.session import Session
from protocol.errors import NotFound
from worker.store.tables import sessions


def session_or_404(connection: Connection, session_id: str) -> Session:
    """Return the session, also one that belongs to a sub-agent. Raises NotFound `session_unknown`."""
    session = sessions.get(connection, session_id)
    if session is None:
        raise NotFound(f"cannot find session {session_id[:200]!r}", code="session_unknown")
    return session
