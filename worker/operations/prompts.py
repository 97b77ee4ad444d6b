"""Prompts and runs: submit, cancel, clear, what waits, what became of a run."""

from collections.abc import Mapping

import msgspec

from protocol.api.agent import Accepted, Prompt
from protocol.errors import BadInput, Denied, NotFound
from worker.operations.decode import number, read
from worker.operations.table import Handler, Request, Response
from worker.runs.dispatcher import Dispatcher
from worker.runs.turn_factory import Equipment
from worker.store import runs
from worker.store.database import Database

RUNS_SHOWN = 100
RUNS_SHOWN_MAX = 1000


class PromptOperations:
    """The handlers of `prompt.…` and `run.…`."""

    def __init__(self, dispatcher: Dispatcher, database: Database, equipment: Equipment) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "prompt.submit": self.submit,
            "prompt.cancel": self.cancel,
            "prompt.clear": self.clear,
            "prompt.count": self.count,
            "prompt.list": self.list,
            "run.list": self.list_runs,
            "run.get": self.get_run,
        }

    async def submit(self, request: Request) -> Response:
        """Accept a prompt; 202 once it is on disk. BadInput `agent_not_ready` while no turn could be built."""
        wish = read(request.body, Prompt)
        if self._equipment.problem is not None and not await self._is_known(wish.run_id):
            raise BadInput(f"cannot accept a prompt: {self._equipment.problem.message}", code="agent_not_ready")
        if wish.permission_policy == "allow" and not self._equipment.may_allow_runs:
            raise Denied(
                "cannot accept the policy `allow`: permissions.allow_run_policy is false in the configuration of this "
                "workspace; use another policy, or name tools in permissions.allowed_tools",
                code="forbidden",
            )
        run_id = await self._dispatcher.submit(wish)
        return Response(msgspec.json.encode(Accepted(run_id=run_id)), status=202)

    async def _is_known(self, run_id: str) -> bool:
        """Was it accepted before? Then asking again gets the same answer, whatever happened since."""
        found = await self._database.read(lambda connection: runs.get(connection, run_id)) if run_id else None
        return found is not None

    async def cancel(self, request: Request) -> Response:
        """Cancel all that was accepted so far, or one run. 200 also when there is nothing to cancel."""
        session_id = request.args.get("sid", "")
        run_id = request.args.get("run", "")
        if run_id:
            await self._dispatcher.cancel_run(session_id, run_id)
        else:
            await self._dispatcher.cancel(session_id)
        return Response()

    async def clear(self, request: Request) -> Response:
        """Drop what waits."""
        await self._dispatcher.clear(request.args.get("sid", ""))
        return Response()

    async def count(self, request: Request) -> Response:
        """How many prompts wait."""
        return Response(b"%d" % len(self._dispatcher.queued(request.args.get("sid", ""))))

    async def list(self, request: Request) -> Response:
        """The texts of the prompts that wait."""
        waiting = self._dispatcher.queued(request.args.get("sid", ""))
        return Response(msgspec.json.encode([run.prompt for run in waiting]))

    async def list_runs(self, request: Request) -> Response:
        """The newest runs first; `limit` of them, of one session if `session_id` says so."""
        limit = number(request.args, "limit", default=RUNS_SHOWN, highest=RUNS_SHOWN_MAX)
        session_id = request.args.get("session_id", "")
        found = await self._database.read(lambda connection: runs.newest(connection, limit, session_id))
        return Response(msgspec.json.encode([self._dispatcher.shape(run) for run in found]))

    async def get_run(self, request: Request) -> Response:
        """One run."""
        run_id = request.args.get("run", "")
        found = await self._database.read(lambda connection: runs.get(connection, run_id))
        if found is None:
            raise NotFound(f"cannot find run {run_id!r}", code="run_unknown")
        return Response(msgspec.json.encode(self._dispatcher.shape(found)))
