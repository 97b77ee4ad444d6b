"""Summarise a session on request: an accepted run like any other, whose end the caller awaits."""

from collections.abc import Mapping

from protocol.errors import BadInput, Upstream
from worker.agent.message_draft import finish_of
from worker.config.live import LiveConfig
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.runs.dispatcher import Dispatcher
from worker.store.database import Database
from worker.store.tables import messages


class SummaryOperations:
    """The handler of `agent.summarize`."""

    def __init__(self, dispatcher: Dispatcher, database: Database, live: LiveConfig) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._live = live

    def handlers(self) -> Mapping[str, Handler]:
        return {"agent.summarize": self.summarize}

    async def summarize(self, request: OperationRequest) -> OperationResponse:
        """Return when the summary is stored or was cancelled, or when there was nothing to summarise.

        Raises BadInput `agent_not_ready`, NotFound `session_unknown`, Conflict `busy`, Upstream for a failed model.
        """
        await self._live.refresh()
        if self._live.problem is not None:
            raise BadInput(f"cannot summarise: {self._live.problem.message}", code="agent_not_ready")
        run = await self._dispatcher.summarize(request.args.get("sid", ""))
        if run is None or run.outcome != "failed":
            return OperationResponse()
        message_id = run.message_id
        row = await self._database.read(lambda connection: messages.get(connection, message_id))
        finish = finish_of(row) if row is not None else None
        why = f"{finish.message}: {finish.details}" if finish is not None else run.cause
        raise Upstream(f"cannot summarise: {why}")
