"""Find or create workspaces by id or path, one creation per path at a time."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from protocol.api.workspace import CreateWorkspace
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, BulkheadError, Conflict, Denied, LimitReached, NotFound, Unavailable
from protocol.ids import ClientId, RandomSource, WorkspaceId, new_uuid
from protocol.limits import Limits
from protocol.secrets import without_masked
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.identity import Identity, check_data_dir, data_dir_for, resolve
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable

RETIRED_KEPT = 65_536
"""How many retired clients are remembered; the oldest are forgotten first."""


class Registry:
    """All registrations, and the workspaces among them that were used since the supervisor started."""

    def __init__(
        self,
        *,
        table: WorkspaceTable,
        filesystem: BoundedFilesystem,
        make_workspace: Callable[[Registration], ManagedWorkspace],
        state_dir: Path,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
    ) -> None:
        self._table = table
        self._filesystem = filesystem
        self._make_workspace = make_workspace
        self._state_dir = state_dir
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._tasks = TaskOwner("registry", log)
        self._loaded = asyncio.Event()
        self._registrations: dict[WorkspaceId, Registration] = {}
        self._by_path: dict[str, WorkspaceId] = {}
        self._by_key: dict[tuple[int, int], WorkspaceId] = {}
        self._touched: dict[WorkspaceId, ManagedWorkspace] = {}
        self._creating: dict[str, asyncio.Task[ManagedWorkspace]] = {}
        self._retired: OrderedDict[ClientId, None] = OrderedDict()

    # --- start and end ----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the stored registrations. Nothing is found before that. Raises WorkspaceTableFailed."""
        for registration in await self._table.open():
            self._remember(registration)

    def open(self) -> None:
        """Serve requests from now on; earlier ones wait."""
        self._loaded.set()

    async def wait_open(self) -> None:
        """Wait until requests can be served, within the wake deadline. Raises Unavailable."""
        if self._loaded.is_set():
            return
        try:
            async with asyncio.timeout(self._limits.wake_deadline_s):
                await self._loaded.wait()
        except TimeoutError:
            raise Unavailable(
                "cannot answer yet: the server is still starting; try again", code="worker_starting", retry_after_s=1.0
            ) from None

    async def close(self) -> None:
        """End the creations under way and close the table of workspaces."""
        await self._tasks.close()
        await self._table.close()

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, workspace_id: str) -> ManagedWorkspace:
        """Return the workspace with this id. Raises NotFound `workspace_unknown`."""
        workspace = self.get(workspace_id)
        if workspace is None:
            raise _unknown(workspace_id)
        return workspace

    def get(self, workspace_id: str) -> ManagedWorkspace | None:
        """Return the workspace with this id, or None when it is not registered."""
        key = WorkspaceId(workspace_id)
        workspace = self._touched.get(key)
        if workspace is None and (registration := self._registrations.get(key)) is not None:
            workspace = self._touched[key] = self._make_workspace(registration)
        return workspace

    def registration(self, workspace_id: str) -> Registration:
        """Return the registration with this id. Raises NotFound `workspace_unknown`."""
        registration = self._registrations.get(WorkspaceId(workspace_id))
        if registration is None:
            raise _unknown(workspace_id)
        return registration

    def registrations(self) -> list[Registration]:
        """Return every registration."""
        return list(self._registrations.values())

    def touched(self) -> list[ManagedWorkspace]:
        """Return the workspaces that were used since the supervisor started."""
        return list(self._touched.values())

    def touched_one(self, workspace_id: WorkspaceId) -> ManagedWorkspace | None:
        """Return one of those that `touched` returns, or None."""
        return self._touched.get(workspace_id)

    @property
    def is_busy(self) -> bool:
        """Return whether any workspace is used by a client or has something to do."""
        return any(workspace.is_used for workspace in self._touched.values())

    def notify_others(self, workspace_id: WorkspaceId, operation: str) -> None:
        """Call an operation in every other worker that runs or is starting, without waiting for it."""
        for workspace in self.touched():
            status = workspace.driver.status()  # in any other state the worker reads the new values when it starts
            if workspace.registration.id != workspace_id and (status.answers or status.state == "starting"):
                self._tasks.start(self._notify(workspace, operation, waits=not status.answers), "notify")

    async def _notify(self, workspace: ManagedWorkspace, operation: str, *, waits: bool) -> None:
        try:
            await workspace.call(operation, wakes=waits)
        except BulkheadError as error:  # its next worker starts with the new values
            self._log.info(
                "not told", extra=fields(workspace=workspace.registration.id, operation=operation, error=error.message)
            )

    # --- clients ----------------------------------------------------------------------------------------------------

    def retire(self, client_id: ClientId) -> None:
        """End all claims of a client that leaves for good; it can never create again."""
        self._retired[client_id] = None
        self._retired.move_to_end(client_id)
        while len(self._retired) > RETIRED_KEPT:
            self._retired.popitem(last=False)
        for workspace in self._touched.values():
            workspace.retire(client_id)

    def check_client(self, client_id: ClientId) -> None:
        """Raise Conflict `client_retired` when this client has retired."""
        if client_id in self._retired:
            raise Conflict("cannot create: this client has retired; use a new client_id", code="client_retired")

    # --- creating ---------------------------------------------------------------------------------------------------

    async def resolve(self, request: CreateWorkspace) -> Identity:
        """Return the directory that `request` names. Raises BadInput, Denied; Unavailable when no answer comes."""
        return await self._filesystem.run(request.path, lambda: resolve(request.path, request.env or ()))

    async def create(
        self, request: CreateWorkspace, client_id: ClientId, identity: Identity | None = None
    ) -> ManagedWorkspace:
        """Find or register the workspace of a directory, and claim it for the client. Its worker may still be asleep.

        `identity` is the result of `resolve` for this request. Raises as `resolve` does; Conflict for a retired
        client, a directory that was exchanged or other channels than the first creator's; LimitReached. For a new
        workspace also BadInput or Denied when its data cannot be kept in the requested directory.
        """
        env = tuple(without_masked(request.env or []))
        identity = identity or await self.resolve(request)
        self.check_client(client_id)
        task = self._creating.get(identity.path)
        workspace: ManagedWorkspace | None = None
        if task is None:
            workspace = await self._existing(identity)
            task = self._creating.get(identity.path)  # another request may have begun meanwhile
            if workspace is None and task is None:
                task = self._tasks.start(self._register(identity, request), "register", is_awaited=True)
                self._creating[identity.path] = task
        if workspace is None:
            assert task is not None
            workspace = await asyncio.shield(task)
        self.check_client(client_id)  # it may have retired while we waited
        if workspace.registration.channels != tuple(request.channels or ()):
            raise Conflict("cannot share this workspace: it was created with other channels")
        if workspace.env is None:
            workspace.env = env
        workspace.claim(client_id)
        return workspace

    async def restore(self, workspace_id: WorkspaceId, path: str) -> ManagedWorkspace:
        """Return the workspace of a worker that lives, registering it again under its id if its row was lost.

        Raises as `create` does.
        """
        workspace = self.get(workspace_id)
        if workspace is not None:
            return workspace
        identity = await self._filesystem.run(path, lambda: resolve(path, ()))
        return await self._register(identity, CreateWorkspace(path=path), workspace_id)

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """End the worker of a workspace and forget it; its files stay. Raises NotFound."""
        workspace = self.find(workspace_id)
        await workspace.close("registration removed")
        await self._table.remove(workspace_id)
        registration = self._registrations.pop(workspace_id, None)
        self._touched.pop(workspace_id, None)
        if registration is not None:
            self._by_path.pop(registration.identity.path, None)
            if self._by_key.get(registration.identity.key) == workspace_id:
                del self._by_key[registration.identity.key]

    async def _existing(self, identity: Identity) -> ManagedWorkspace | None:
        """Return the registered workspace of this directory, or None.

        Raises Conflict when its path leads to another directory now, Unavailable when that cannot be found out.
        """
        id_by_path = self._by_path.get(identity.path)
        if id_by_path is not None:
            registration = self._registrations[id_by_path]
            if registration.identity.key != identity.key:
                raise Conflict(
                    f"cannot use {identity.path}: it is not the directory that was registered as workspace "
                    f"{id_by_path}; if that is right, DELETE /v1/workspaces/{id_by_path}/registration and create it "
                    "again",
                    code="workspace_moved",
                )
            return self.get(id_by_path)
        id_by_key = self._by_key.get(identity.key)
        if id_by_key is None:
            return None
        # The same directory by another path (a bind mount), or a reused inode number: the registered path decides.
        registered = self._registrations[id_by_key].identity
        try:
            current = await self._filesystem.run(registered.path, lambda: resolve(registered.path, ()))
        except (BadInput, Denied):
            return None
        return self.get(id_by_key) if current.key == registered.key else None

    async def _register(
        self, identity: Identity, request: CreateWorkspace, workspace_id: WorkspaceId | None = None
    ) -> ManagedWorkspace:
        try:
            if len(self._registrations) >= self._limits.workspaces_max:
                raise LimitReached(
                    f"cannot register more than {self._limits.workspaces_max} workspaces; remove some registrations",
                    code="too_many_workspaces",
                )
            if request.data_dir:
                await self._filesystem.run(request.data_dir, lambda: check_data_dir(identity, request.data_dir))
            new_id = workspace_id or WorkspaceId(new_uuid(self._random))
            fallback = self._state_dir / "workspaces" / new_id
            registration = Registration(
                id=new_id,
                identity=identity,
                asked_path=request.path if request.path.startswith("/") else identity.path,
                data_dir=await self._filesystem.run(
                    identity.path, lambda: data_dir_for(identity, request.data_dir, fallback)
                ),
                skip_permissions=request.yolo,
                debug=request.debug,
                channels=tuple(request.channels or ()),
                registered_at_ms=int(self._clock.wall() * 1000),
            )
            await self._table.add(registration)
            self._remember(registration)
            self._log.info("workspace registered", extra=fields(workspace=new_id, path=identity.path))
            workspace = self._touched[new_id] = self._make_workspace(registration)
            return workspace
        finally:
            self._creating.pop(identity.path, None)

    def _remember(self, registration: Registration) -> None:
        self._registrations[registration.id] = registration
        self._by_path[registration.identity.path] = registration.id
        self._by_key[registration.identity.key] = registration.id


def _unknown(workspace_id: str) -> NotFound:
    return NotFound(f"there is no workspace {workspace_id[:100]!r}; create it first", code="workspace_unknown")
