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
from protocol.errors import BulkheadError, Conflict, Unavailable
from protocol.ids import ClientId, RandomSource, WorkspaceId
from protocol.limits import Limits
from protocol.secrets import without_masked
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.folder_probe import FolderProbe
from supervisor.workspaces.recognition import Folder
from supervisor.workspaces.registrar import Registrar
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_set import WorkspaceSet
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
        self._limits = limits
        self._log = log
        self._tasks = TaskOwner("registry", log)
        self._loaded = asyncio.Event()
        self._workspaces = WorkspaceSet(make_workspace)
        self._registrar = Registrar(
            workspaces=self._workspaces,
            table=table,
            folders=FolderProbe(filesystem=filesystem, log=log),
            state_dir=state_dir,
            limits=limits,
            clock=clock,
            random=random,
            log=log,
        )
        self._opening: dict[str, asyncio.Task[ManagedWorkspace]] = {}
        self._retired: OrderedDict[ClientId, None] = OrderedDict()

    # --- start and end ----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the stored registrations. Nothing is found before that. Raises WorkspaceTableFailed."""
        for registration in await self._table.open():
            self._workspaces.put(registration)

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
        return self._workspaces.find(workspace_id)

    def get(self, workspace_id: str) -> ManagedWorkspace | None:
        """Return the workspace with this id, or None when it is not registered."""
        return self._workspaces.get(workspace_id)

    def registration(self, workspace_id: str) -> Registration:
        """Return the registration with this id. Raises NotFound `workspace_unknown`."""
        return self._workspaces.registration(workspace_id)

    def registrations(self) -> list[Registration]:
        """Return every registration."""
        return self._workspaces.index.all()

    def touched(self) -> list[ManagedWorkspace]:
        """Return the workspaces that were used since the supervisor started."""
        return self._workspaces.touched()

    def touched_one(self, workspace_id: WorkspaceId) -> ManagedWorkspace | None:
        """Return one of those that `touched` returns, or None."""
        return self._workspaces.touched_one(workspace_id)

    @property
    def is_busy(self) -> bool:
        """Return whether any workspace is used by a client or has something to do."""
        return any(workspace.is_used for workspace in self.touched())

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
        for workspace in self.touched():
            workspace.retire(client_id)

    def check_client(self, client_id: ClientId) -> None:
        """Raise Conflict `client_retired` when this client has retired."""
        if client_id in self._retired:
            raise Conflict("cannot create: this client has retired; use a new client_id", code="client_retired")

    # --- creating ---------------------------------------------------------------------------------------------------

    async def resolve(self, request: CreateWorkspace) -> Folder:
        """Return the folder that `request` names. Raises BadInput, Denied; Unavailable when no answer comes."""
        return await self._registrar.resolve(request)

    async def create(
        self, request: CreateWorkspace, client_id: ClientId, folder: Folder | None = None
    ) -> ManagedWorkspace:
        """Find or register the workspace of a directory, and claim it for the client. Its worker may still be asleep.

        `folder` is the result of `resolve` for this request. A folder that was moved is found under its new path.
        Raises as `resolve` does; Conflict for a retired client, a folder that cannot be told from another one, or other
        channels than the first creator's; LimitReached. For a new workspace also BadInput or Denied when its data
        cannot be kept in the requested directory.
        """
        env = tuple(without_masked(request.env or []))
        folder = folder or await self.resolve(request)
        self.check_client(client_id)
        path = folder.identity.path
        task = self._opening.get(path)
        if task is None:
            task = self._tasks.start(self._registrar.open(folder, request), "open", is_awaited=True)
            self._opening[path] = task
            task.add_done_callback(lambda _: self._opening.pop(path, None))
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
        return self.get(workspace_id) or await self._registrar.restore(workspace_id, path)

    async def adopt(self, workspace_id: WorkspaceId, path: str) -> None:
        """Make the directory at `path` the folder of a registered workspace. Raises as `Registrar.adopt` does."""
        await self._registrar.adopt(workspace_id, path)

    async def check_folder(self, workspace_id: WorkspaceId) -> None:
        """Check, before a worker starts, that the folder is at its path. Raises as `Registrar.check_folder` does."""
        await self._registrar.check_folder(workspace_id)

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """End the worker of a workspace and forget it; its files stay. Raises NotFound."""
        await self._registrar.remove(workspace_id)
