"""Operations on the workspace as a whole: its description, and its event log."""

from collections.abc import Mapping

import msgspec

from protocol.api.workspace import Description
from protocol.errors import Conflict
from protocol.limits import Limits
from worker.config.live import LiveConfig
from worker.operations.decode import number
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.skills.service import SkillService
from worker.store import events
from worker.store.database import Database


class WorkspaceOperations:
    """The handlers of `workspace.describe` and `events.since`."""

    def __init__(
        self, database: Database, live: LiveConfig, skills: SkillService, *, data_dir: str, limits: Limits
    ) -> None:
        self._skills = skills
        self._database = database
        self._live = live
        self._data_dir = data_dir
        self._limits = limits

    def handlers(self) -> Mapping[str, Handler]:
        return {"workspace.describe": self.describe, "events.since": self.since}

    async def describe(self, request: OperationRequest) -> OperationResponse:
        """Return the data directory, the skills as last found, and the configuration as clients may see it."""
        config = msgspec.Raw(self._live.current.wire())
        skills = msgspec.Raw(msgspec.json.encode(self._skills.states))
        return OperationResponse(
            msgspec.json.encode(Description(data_dir=self._data_dir, config=config, skills=skills))
        )

    async def since(self, request: OperationRequest) -> OperationResponse:
        """Return the events after a number, as msgpack. Raises Conflict `reset` when they are not all kept."""
        after = number(request.args, "number", default=0, highest=2**62)
        count = number(
            request.args, "count", default=self._limits.event_batch_max, highest=self._limits.event_batch_max
        )
        result = await self._database.read(lambda connection: events.since(connection, after, count))
        if result is None:
            raise Conflict(
                f"cannot replay the events after number {after}: they are not kept; start again from the newest",
                code="reset",
                details={"log_id": self._database.log_id, "last_number": str(self._database.last_number)},
            )
        # One answer is one message: leave out events that would make it too long; the supervisor asks again.
        size = 0
        for index, event in enumerate(result):
            size += len(event.data)
            if size > self._limits.event_batch_max_bytes and index:
                result = result[:index]
                break
        return OperationResponse(msgspec.msgpack.encode(result))
