"""Operations on prompts and runs: submit, cancel, clear, list the queue, look up a run."""

from collections.abc import Callable, Mapping

import msgspec

from protocol.api.agent import Accepted, Prompt
from protocol.errors import BadInput, Denied, NotFound
from worker.config.live import FilesChanged, LiveConfig
from worker.operations.decode import number, read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.runs.dispatcher import Dispatcher
from worker.store.database import Database
from worker.store.tables import runs

RUNS_SHOWN = 100
RUNS_SHOWN_MAX = 1000


class PromptOperations:
    """The handlers of `prompt.…` and `run.…`."""

    def __init__(self, dispatcher: Dispatcher, database: Database, live: LiveConfig) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._live = live

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

    async def submit(self, request: OperationRequest) -> OperationResponse:
        """Accept a prompt; 202 once it is on disk. Raises BadInput `agent_not_ready` while no turn could be built."""
        body = read(request.body, Prompt)
        if self._live.problem is None and body.permission_policy != "allow":  # which the files may have come to allow
            try:
                # In the transaction of the acceptance: a thread of its own would take longer than the rest.
                return await self._accept(body, check=self._live.check_files)
            except FilesChanged:
                pass
        await self._live.refresh()
        if self._live.problem is not None and not await self._was_accepted(body.run_id):
            raise BadInput(f"cannot accept a prompt: {self._live.problem.message}", code="agent_not_ready")
        return await self._accept(body)

    async def _accept(self, body: Prompt, check: Callable[[], None] = lambda: None) -> OperationResponse:
        if body.permission_policy == "allow" and not self._live.may_allow_runs:
            raise Denied(
                "cannot accept the policy `allow`: permissions.allow_run_policy is false in the configuration of this "
                "workspace; use another policy, or name tools in permissions.allowed_tools",
                code="forbidden",
            )
        run_id = await self._dispatcher.submit(body, check=check)
        return OperationResponse(msgspec.json.encode(Accepted(run_id=run_id)), status=202)

    async def _was_accepted(self, run_id: str) -> bool:
        """Return whether the run was accepted before: then the same request gets the same answer, at any time."""
        run = await self._database.read(lambda connection: runs.get(connection, run_id)) if run_id else None
        return run is not None

    async def cancel(self, request: OperationRequest) -> OperationResponse:
        """Cancel all runs accepted so far in a session, or one run. 200 also when there is nothing to cancel."""
        session_id = request.args.get("sid", "")
        run_id = request.args.get("run", "")
        if run_id:
            await self._dispatcher.cancel_run(session_id, run_id)
        else:
            await self._dispatcher.cancel(session_id)
        return OperationResponse()

    async def clear(self, request: OperationRequest) -> OperationResponse:
        """Drop the queued prompts of a session."""
        await self._dispatcher.clear(request.args.get("sid", ""))
        return OperationResponse()

    async def count(self, request: OperationRequest) -> OperationResponse:
        """Return the number of queued prompts."""
        return OperationResponse(b"%d" % len(self._dispatcher.queued(request.args.get("sid", ""))))

    async def list(self, request: OperationRequest) -> OperationResponse:
        """Return the texts of the queued prompts."""
        queued = self._dispatcher.queued(request.args.get("sid", ""))
        return OperationResponse(msgspec.json.encode([run.prompt for run in queued]))

    async def list_runs(self, request: OperationRequest) -> OperationResponse:
        """Return the newest runs first, at most `limit`; those of one session if `session_id` is given."""
        limit = number(request.args, "limit", default=RUNS_SHOWN, highest=RUNS_SHOWN_MAX)
        session_id = request.args.get("session_id", "")
        newest = await self._database.read(lambda connection: runs.newest(connection, limit, session_id))
        return OperationResponse(msgspec.json.encode([self._dispatcher.shape(run) for run in newest]))

    async def get_run(self, request: OperationRequest) -> OperationResponse:
        """Return one run. Raises NotFound `run_unknown`."""
        run_id = request.args.get("run", "")
        run = await self._database.read(lambda connection: runs.get(connection, run_id))
        if run is None:
            raise NotFound(f"cannot find run {run_id!r}", code="run_unknown")
        return OperationResponse(msgspec.json.encode(self._dispatcher.shape(run)))
