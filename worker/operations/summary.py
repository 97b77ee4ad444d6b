"""Summarise a session when a client asks for it: an accepted run like any other, which its caller waits for."""

from collections.abc import Mapping

from protocol.errors import BadInput, Upstream
from worker.agent.message_draft import finish_of
from worker.operations.table import Handler, Request, Response
from worker.runs.dispatcher import Dispatcher
from worker.runs.turn_factory import Equipment
from worker.store import messages
from worker.store.database import Database


class SummaryOperations:
    """The handler of `agent.summarize`."""

    def __init__(self, dispatcher: Dispatcher, database: Database, equipment: Equipment) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {"agent.summarize": self.summarize}

    async def summarize(self, request: Request) -> Response:
        """Answers when the summary is there, was cancelled, or there was nothing to summarise.

        Raises BadInput `agent_not_ready`, NotFound `session_unknown`, Conflict `busy`, Upstream for a failed model.
        """
        if self._equipment.problem is not None:
            raise BadInput(f"cannot summarise: {self._equipment.problem.message}", code="agent_not_ready")
        run = await self._dispatcher.summarize(request.args.get("sid", ""))
        if run is None or run.outcome != "failed":
            return Response()
        message_id = run.message_id
        row = await self._database.read(lambda connection: messages.get(connection, message_id))
        finish = finish_of(row) if row is not None else None
        why = f"{finish.message}: {finish.details}" if finish is not None else run.cause
        raise Upstream(f"cannot summarise: {why}")
