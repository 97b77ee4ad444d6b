"""Read the stored events again, for a supervisor that does not have them."""

from protocol.errors import Conflict
from protocol.events import Event
from worker.store import events
from worker.store.database import Database


class StoredEventLog:
    """The event log of one workspace, for the publisher."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, number: int, count: int) -> list[Event]:
        """Return the next events after `number`, at most `count`. Raises Conflict `reset` when they are not kept."""
        result = await self._database.read(lambda connection: events.since(connection, number, count))
        if result is None:
            raise Conflict(f"cannot read the events after number {number}: they are not kept", code="reset")
        return result
