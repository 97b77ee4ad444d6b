"""Forward every request that a worker answers: path words, query and body in, status and body out, all undecoded.

Two exceptions: only the supervisor knows how many clients view a session, so it adds that number to sessions in the
response. And a change to the user's configuration concerns all workspaces, so the other workers reload it.
"""

from collections.abc import Mapping

import msgspec

from protocol.api.config import WORKSPACE
from protocol.api.session import Session
from protocol.errors import NotFound
from protocol.ids import SessionId, is_id
from protocol.operations import OPERATIONS
from supervisor.admission import Admission
from supervisor.http.messages import Request, Response
from supervisor.workspaces.registry import Registry

LSP_NAME_MAX = 200
_UNKNOWN = {"sid": "session_unknown", "run": "run_unknown"}
_ONE_SESSION = frozenset({"session.get", "session.put"})
_MANY_SESSIONS = "session.list"
_CHANGES_BY_SCOPE = frozenset({"config.set", "config.remove", "config.model", "config.compact", "config.provider_key"})


class _Scope(msgspec.Struct, frozen=True):
    scope: int = 0


class Forward:
    """Forwards requests to the workers of their workspaces."""

    def __init__(self, *, registry: Registry, admission: Admission) -> None:
        self._registry = registry
        self._admission = admission

    async def __call__(self, request: Request) -> Response:
        """Return the worker's response. Raises the errors of the workspace and of the worker."""
        await self._registry.wait_open()
        workspace = self._registry.find(request.params["id"])
        operation = OPERATIONS[request.route.operation]
        if not operation.is_safe:
            self._admission.check()
        args = {name: value for name, value in request.params.items() if name != "id"}
        for name, value in args.items():
            # The name of a language server is the user's choice; it is only used as a key for look-up.
            if not (is_id(value) or (name == "lsp" and value.isprintable() and len(value) <= LSP_NAME_MAX)):
                raise NotFound(f"there is nothing with the id {value[:100]!r}", code=_UNKNOWN.get(name, "not_found"))
        for word, name in request.route.query.items():
            if word in request.query:
                args[name] = request.query[word]
        if request.route.sends_env and workspace.env:
            args["env"] = msgspec.json.encode(workspace.env).decode()
        answer = await workspace.call(
            operation.name, args=args, body=request.body, wakes=not self._admission.is_exiting
        )
        if operation.name in _CHANGES_BY_SCOPE and request.json(_Scope).scope != WORKSPACE:
            self._registry.notify_others(workspace.registration.id, "config.reload")
        return Response(answer.status, _with_viewers(operation.name, answer.body, workspace.viewed()))


def _with_viewers(operation: str, body: bytes, viewed: Mapping[SessionId, int]) -> bytes:
    """Return `body` with `attached_clients` set in its sessions."""
    if not viewed:
        return body  # the worker wrote 0, which is correct
    if operation in _ONE_SESSION:
        return msgspec.json.encode(_counted(msgspec.json.decode(body, type=Session), viewed))
    if operation == _MANY_SESSIONS:
        sessions = msgspec.json.decode(body, type=list[Session])
        return msgspec.json.encode([_counted(session, viewed) for session in sessions])
    return body


def _counted(session: Session, viewed: Mapping[SessionId, int]) -> Session:
    count = viewed.get(SessionId(session.id), 0)
    return msgspec.structs.replace(session, attached_clients=count) if count else session
