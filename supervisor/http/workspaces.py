"""Answer the workspace routes: create, list, release, retire, current session, restart, evict, adopt, unregister."""

import asyncio
import logging

import msgspec

from protocol.api.workspace import EMPTY_CONFIG, AdoptDirectory, CreateWorkspace, CurrentSession, Description
from protocol.api.workspace import Workspace as WorkspaceShape
from protocol.base.logs import fields
from protocol.errors import BadInput, BulkheadError
from protocol.ids import SessionId, WorkspaceId
from protocol.secrets import masked_environment
from protocol.version import BULKHEAD_VERSION
from supervisor.admission import Admission
from supervisor.http.messages import Request, Response, json_response
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration

LIST_DESCRIBE_S = 1.0
"""How long a list waits for the running workers; one that does not answer is shown with an empty configuration."""


class WorkspaceHandlers:
    """The handlers of the workspace routes."""

    def __init__(self, *, registry: Registry, admission: Admission, log: logging.Logger) -> None:
        self._registry = registry
        self._admission = admission
        self._log = log

    async def list(self, request: Request) -> Response:
        """Return every registered workspace; sleeping ones are not woken."""
        await self._registry.wait_open()
        described = await self._describe_running()
        shapes = [
            _shape(registration, self._registry.touched_one(registration.id), described.get(registration.id))
            for registration in self._registry.registrations()
        ]
        return json_response(shapes)

    async def create(self, request: Request) -> Response:
        """Find or create a workspace, wait until its worker is ready, and return it with its configuration."""
        body = request.json(CreateWorkspace)
        if not body.path:
            raise BadInput("cannot create a workspace: `path` must name its directory")
        client_id = request.client_id(given=body.client_id)
        folder = await self._registry.resolve(body)  # before admission: a wrong path is wrong for every server
        self._admission.create_began()
        try:
            await self._registry.wait_open()
            workspace = await self._registry.create(body, client_id, folder)
            if body.version not in ("", BULKHEAD_VERSION):
                self._log.debug("client of another version", extra=fields(version=body.version[:40]))
            return json_response(_shape(workspace.registration, workspace, await workspace.describe()))
        finally:
            self._admission.create_ended()

    async def get(self, request: Request) -> Response:
        """Return one workspace with its configuration; wakes it."""
        workspace = await self._find(request)
        return json_response(_shape(workspace.registration, workspace, await workspace.describe()))

    async def release(self, request: Request) -> Response:
        """End the client's claim; the registration and the runs stay. An unknown workspace is no error."""
        client_id = request.client_id()
        await self._registry.wait_open()
        workspace = self._registry.touched_one(WorkspaceId(request.params["id"]))
        if workspace is not None:
            workspace.release(client_id)
        return Response()

    async def retire(self, request: Request) -> Response:
        """End the client's claims on all workspaces for good."""
        client_id = request.client_id(given=request.params["client_id"])
        await self._registry.wait_open()
        self._registry.retire(client_id)
        return Response()

    async def set_current_session(self, request: Request) -> Response:
        """Note which session the client looks at."""
        client_id = request.client_id()
        session_id = SessionId(request.json(CurrentSession).session_id)
        workspace = await self._find(request)
        workspace.view(client_id, session_id)
        return Response()

    async def restart(self, request: Request) -> Response:
        """Replace the worker; this also ends the state `failed`."""
        self._admission.check()
        workspace = await self._find(request)
        await workspace.restart("restarted by hand")
        return Response()

    async def evict(self, request: Request) -> Response:
        """Let the worker sleep now. Raises Conflict `busy` when something would be lost."""
        workspace = await self._find(request)
        await workspace.evict()
        return Response()

    async def adopt(self, request: Request) -> Response:
        """Make another directory the folder of a workspace. Raises Conflict when it belongs to another one."""
        self._admission.check()
        path = request.json(AdoptDirectory).path
        workspace = await self._find(request)
        if not path.startswith("/"):
            raise BadInput("cannot adopt a directory: `path` must be its absolute path")
        await self._registry.adopt(workspace.registration.id, path)
        return Response()

    async def unregister(self, request: Request) -> Response:
        """Delete the registration; the workspace's files stay."""
        self._admission.check()
        workspace = await self._find(request)
        await self._registry.remove(workspace.registration.id)
        return Response()

    async def _find(self, request: Request) -> ManagedWorkspace:
        await self._registry.wait_open()
        return self._registry.find(request.params["id"])

    async def _describe_running(self) -> dict[str, Description]:
        running = [workspace for workspace in self._registry.touched() if workspace.driver.status().answers]
        described: dict[str, Description] = {}

        async def describe(workspace: ManagedWorkspace) -> None:
            try:
                async with asyncio.timeout(LIST_DESCRIBE_S):
                    described[workspace.registration.id] = await workspace.describe()
            except (TimeoutError, BulkheadError):
                pass  # shown without its configuration

        await asyncio.gather(*(describe(workspace) for workspace in running))
        return described


def _shape(
    registration: Registration, workspace: ManagedWorkspace | None, description: Description | None
) -> WorkspaceShape:
    env = workspace.env if workspace is not None else None
    return WorkspaceShape(
        id=registration.id,
        path=registration.asked_path,
        yolo=registration.skip_permissions,
        debug=registration.debug,
        data_dir=description.data_dir if description is not None else registration.data_dir,
        version=BULKHEAD_VERSION,
        config=description.config if description is not None else EMPTY_CONFIG,
        env=masked_environment(list(env or ())),
        channels=list(registration.channels),
        skills=description.skills if description is not None else msgspec.Raw(b"[]"),
    )
