"""The workspace as a whole: what it is, and its event log."""

from collections.abc import Mapping

import msgspec

from protocol.api.workspace import Description
from protocol.errors import Conflict
from protocol.limits import Limits
from worker.operations.decode import number
from worker.operations.table import Handler, Request, Response
from worker.runs.turn_factory import Equipment
from worker.skills.service import SkillService
from worker.store import events
from worker.store.database import Database


class WorkspaceOperations:
    """The handlers of `workspace.describe` and `events.since`."""

    def __init__(
        self, database: Database, equipment: Equipment, skills: SkillService, *, data_dir: str, limits: Limits
    ) -> None:
        self._skills = skills
        self._database = database
        self._equipment = equipment
        self._data_dir = data_dir
        self._limits = limits

    def handlers(self) -> Mapping[str, Handler]:
        return {"workspace.describe": self.describe, "events.since": self.since}

    async def describe(self, request: Request) -> Response:
        """The data directory, the skills as last found, and the configuration as clients may see it."""
        config = msgspec.Raw(self._equipment.outfit.config.wire())
        skills = msgspec.Raw(msgspec.json.encode(self._skills.states))
        return Response(msgspec.json.encode(Description(data_dir=self._data_dir, config=config, skills=skills)))

    async def since(self, request: Request) -> Response:
        """The events after a number, as msgpack. Raises Conflict `reset` when they are not all kept."""
        after = number(request.args, "number", default=0, highest=2**62)
        count = number(
            request.args, "count", default=self._limits.event_batch_max, highest=self._limits.event_batch_max
        )
        found = await self._database.read(lambda connection: events.since(connection, after, count))
        if found is None:
            raise Conflict(
                f"cannot replay the events after number {after}: they are not kept; start again from the newest",
                code="reset",
                details={"log_id": self._database.log_id, "last_number": str(self._database.last_number)},
            )
        # One answer is one message: leave out what would make it too long, the asker comes again.
        size = 0
        for place, event in enumerate(found):
            size += len(event.data)
            if size > self._limits.event_batch_max_bytes and place:
                found = found[:place]
                break
        return Response(msgspec.msgpack.encode(found))
