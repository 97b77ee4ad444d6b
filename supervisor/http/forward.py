"""The one handler for every row that is answered by a worker: words and body in, status and body out, both unread."""

from protocol.errors import NotFound
from protocol.ids import is_id
from protocol.operations import OPERATIONS
from supervisor.admission import Admission
from supervisor.http.base import Request, Response
from supervisor.workspaces.registry import Registry

_UNKNOWN = {"sid": "session_unknown", "run": "run_unknown"}


class Forward:
    """Passes requests on to the workers of their workspaces."""

    def __init__(self, *, registry: Registry, admission: Admission) -> None:
        self._registry = registry
        self._admission = admission

    async def __call__(self, request: Request) -> Response:
        """Answer with what the worker answers. Raises what the workspace raises."""
        await self._registry.wait_open()
        workspace = self._registry.find(request.params["id"])
        operation = OPERATIONS[request.route.operation]
        if not operation.is_safe:
            self._admission.check()
        args = {name: value for name, value in request.params.items() if name != "id"}
        for name, value in args.items():
            if not is_id(value):
                raise NotFound(f"there is nothing with the id {value[:100]!r}", code=_UNKNOWN.get(name, "not_found"))
        for word, name in request.route.query.items():
            if word in request.query:
                args[name] = request.query[word]
        answer = await workspace.call(
            operation.name, args=args, body=request.body, wakes=not self._admission.is_exiting
        )
        return Response(answer.status, answer.body)
