"""Register folders: find the workspace of a folder, follow one that was moved, and store what has changed.

What a folder is, is decided by recognition.py. Here the facts are collected, which may take seconds on a slow file
system, and the decision is carried out under a lock if the registrations are still those that it was made with.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.api.workspace import CreateWorkspace
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.errors import BadInput, Conflict, Denied, LimitReached
from protocol.ids import RandomSource, WorkspaceId, new_uuid
from protocol.limits import Limits
from supervisor.workspaces.folder_errors import not_there, still_there, taken, undecided
from supervisor.workspaces.folder_probe import FolderProbe
from supervisor.workspaces.identity import data_dir_for, is_inside, moved_data_dir
from supervisor.workspaces.recognition import (
    Decision,
    Folder,
    Likeness,
    Missing,
    Moved,
    New,
    Same,
    SharesData,
    Undecidable,
    decide,
    is_still,
)
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_set import WorkspaceSet
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable


@dataclass(frozen=True, slots=True)
class _Stored:
    """A change that is stored. What remains may take as long as a worker needs to end."""

    registration: Registration
    is_moved: bool = False  # its worker has its former path
    is_replaced: bool = False  # another directory is at its path; its worker may be in the former one
    dropped: WorkspaceId | None = None


class Registrar:
    """One for all workspaces of a supervisor."""

    def __init__(
        self,
        *,
        workspaces: WorkspaceSet,
        table: WorkspaceTable,
        folders: FolderProbe,
        state_dir: Path,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
    ) -> None:
        self._workspaces = workspaces
        self._index = workspaces.index
        self._table = table
        self._folders = folders
        self._state_dir = state_dir
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._changing = asyncio.Lock()  # held while a decision is checked and stored; both take milliseconds

    # --- opening ----------------------------------------------------------------------------------------------------

    async def resolve(self, request: CreateWorkspace) -> Folder:
        """Return the folder that `request` names. Raises BadInput, Denied; Unavailable when no answer comes."""
        return await self._folders.resolve(request)

    async def open(
        self, folder: Folder, request: CreateWorkspace, *, only: WorkspaceId | None = None
    ) -> ManagedWorkspace:
        """Return the workspace of a folder; register it, or its new path, if necessary.

        Raises Conflict when it cannot be told from the folder of another workspace, LimitReached, BadInput, Denied,
        Unavailable. With `only`, raises Conflict instead of changing anything when it is another workspace.
        """
        if len(self._index) >= self._limits.workspaces_max and self._index.at_path(folder.identity.path) is None:
            await self._drop_gone()
        while True:
            folder = await self._folders.with_data_of(folder, self._index.at_path(folder.identity.path))
            related = self._index.related(folder)
            decision = decide(folder, await self._folders.known(related, folder))
            if only is not None and not (isinstance(decision, Same | Moved) and decision.id == only):
                raise Conflict("the registered path leads to another workspace")
            if isinstance(decision, New):
                await self._folders.check_data_dir(folder, request.data_dir)
            async with self._changing:
                if self._index.related(folder) != related:
                    continue  # changed by another request while we looked
                stored = await self._perform(decision, folder, request)
            return await self._finish(stored, folder)

    async def restore(self, workspace_id: WorkspaceId, path: str) -> ManagedWorkspace:
        """Register the folder at `path` under this id: its worker runs, and its row was lost. Raises as `open` does."""
        request = CreateWorkspace(path=path)
        folder = await self.resolve(request)
        async with self._changing:
            here = self._index.at_path(folder.identity.path)
            stored = await self._register(workspace_id, folder, request, replaces=here.id if here else None)
        return await self._finish(stored, folder)

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """End the worker of a workspace and forget it; of its files, only the mark is removed. Raises NotFound."""
        workspace = self._workspaces.find(workspace_id)
        await workspace.close("registration removed")
        async with self._changing:
            await self._table.remove(workspace_id)
            self._index.remove(workspace_id)
        await self._workspaces.drop(workspace_id, "registration removed")
        await self._folders.unmark(workspace.registration)

    async def _drop_gone(self) -> None:
        """Remove registrations whose folder, with the data inside it, is gone; it has the id if it comes back."""
        touched = self._workspaces.touched_one
        candidates = [
            one
            for one in self._index.all()
            if is_inside(one.identity, one.data_dir) and ((used := touched(one.id)) is None or not used.is_used)
        ]
        for one in await self._folders.gone(candidates):
            if self._index.get(one.id) is one:
                self._log.info("workspace dropped", extra=fields(workspace=one.id, path=one.identity.path))
                await self.remove(one.id)

    # --- registered folders -----------------------------------------------------------------------------------------

    async def check_folder(self, workspace_id: WorkspaceId) -> None:
        """Check, before a worker starts, that the workspace's folder is at its path, and note what has changed.

        Raises Conflict `workspace_moved` when it is not there, Unavailable when no answer comes.
        """
        registration = self._workspaces.registration(workspace_id)
        seen = await self._folders.see(registration)
        if isinstance(seen, Folder) and is_still(registration.identity, workspace_id, seen):
            async with self._changing:
                if self._index.get(workspace_id) is not registration:
                    return  # moved or removed meanwhile
                stored = await self._keep(registration, seen)
            await self._finish(stored, seen)
            return
        if isinstance(seen, Missing) and await self._follow_link(registration):
            return
        raise not_there(registration, seen)

    async def adopt(self, workspace_id: WorkspaceId, path: str) -> None:
        """Make the directory at `path` the folder of a registered workspace, as an operator requested.

        Raises NotFound; BadInput or Denied about the path; Conflict when it is the folder of another workspace, or
        when the workspace's own folder, with its data, is still where it was.
        """
        folder = await self.resolve(CreateWorkspace(path=path))
        registration = self._workspaces.registration(workspace_id)
        related = self._index.related(folder)
        here = self._index.at_path(folder.identity.path)
        if here is not None and here.id != workspace_id:
            raise taken(folder.identity.path, here)
        decision = decide(folder, await self._folders.known(related, folder))
        if isinstance(decision, SharesData):
            raise undecided(folder, decision, self._workspaces.registration(decision.id))
        if here is None and is_inside(registration.identity, registration.data_dir):
            seen = await self._folders.see(registration)
            if isinstance(seen, Folder) and is_still(registration.identity, workspace_id, seen):
                raise still_there(folder.identity.path, registration)
        async with self._changing:
            if self._index.related(folder) != related or self._index.get(workspace_id) is not registration:
                raise Conflict("cannot move this workspace: another request has just changed it; try again")
            stored = await self._move(registration, folder, path)
        await self._finish(stored, folder)

    async def _follow_link(self, registration: Registration) -> bool:
        """Return whether the registered path has become a link to the folder; then it is registered where it is."""
        try:
            request = CreateWorkspace(path=registration.identity.path)
            await self.open(await self.resolve(request), request, only=registration.id)
        except (BadInput, Denied, Conflict):
            return False
        return True

    # --- storing, under the lock ------------------------------------------------------------------------------------

    async def _perform(self, decision: Decision, folder: Folder, request: CreateWorkspace) -> _Stored:
        match decision:
            case Same(workspace_id, is_alias):
                registration = self._workspaces.registration(workspace_id)
                return _Stored(registration) if is_alias else await self._keep(registration, folder)
            case Moved(workspace_id, replaces):
                registration = self._workspaces.registration(workspace_id)
                return await self._move(registration, folder, request.path, replaces=replaces)
            case New(workspace_id, replaces):
                return await self._register(workspace_id, folder, request, replaces=replaces)
            case SharesData(workspace_id) | Undecidable(workspace_id):
                raise undecided(folder, decision, self._workspaces.registration(workspace_id))

    async def _keep(self, registration: Registration, folder: Folder) -> _Stored:
        """Note the inode and birth time that the folder of a registration has now."""
        if registration.identity == folder.identity:
            return _Stored(registration)
        changed = replace(registration, identity=folder.identity)
        await self._table.put(changed)
        self._workspaces.put(changed)
        is_other = registration.identity.compare(folder.identity) is Likeness.OTHER
        return _Stored(changed, is_replaced=is_other)

    async def _move(
        self, registration: Registration, folder: Folder, asked_path: str, *, replaces: WorkspaceId | None = None
    ) -> _Stored:
        former = registration.identity
        moved = replace(
            registration,
            identity=folder.identity,
            asked_path=asked_path if asked_path.startswith("/") else folder.identity.path,
            data_dir=moved_data_dir(former, folder.identity, registration.data_dir),
        )
        await self._table.put(moved, replaces=replaces)
        if replaces is not None:
            self._index.remove(replaces)
        self._workspaces.put(moved)
        self._log.info("folder moved", extra=fields(workspace=moved.id, path=moved.identity.path, former=former.path))
        return _Stored(moved, is_moved=True, dropped=replaces)

    async def _register(
        self,
        workspace_id: WorkspaceId | None,
        folder: Folder,
        request: CreateWorkspace,
        *,
        replaces: WorkspaceId | None,
    ) -> _Stored:
        if len(self._index) >= self._limits.workspaces_max and replaces is None:
            raise LimitReached(
                f"cannot register more than {self._limits.workspaces_max} workspaces; remove some with "
                "`bulkhead forget`",
                code="too_many_workspaces",
            )
        new_id = workspace_id or WorkspaceId(new_uuid(self._random))
        registration = Registration(
            id=new_id,
            identity=folder.identity,
            asked_path=request.path if request.path.startswith("/") else folder.identity.path,
            data_dir=data_dir_for(folder, request.data_dir, self._state_dir / "workspaces" / new_id),
            skip_permissions=request.yolo,
            debug=request.debug,
            channels=tuple(request.channels or ()),
            registered_at_ms=int(self._clock.wall() * 1000),
        )
        await self._table.put(registration, replaces=replaces)
        if replaces is not None:
            self._index.remove(replaces)
        self._workspaces.put(registration)
        self._log.info("workspace registered", extra=fields(workspace=new_id, path=folder.identity.path))
        return _Stored(registration, dropped=replaces)

    # --- after storing ----------------------------------------------------------------------------------------------

    async def _finish(self, stored: _Stored, folder: Folder) -> ManagedWorkspace:
        """End the workers that a change concerns, and mark the folder; return its workspace. Raises NotFound."""
        registration = stored.registration
        if stored.dropped is not None:
            self._log.info("workspace dropped", extra=fields(workspace=stored.dropped, path=folder.identity.path))
            await self._workspaces.drop(stored.dropped, "folder replaced")
        workspace = self._workspaces.find(registration.id)
        if stored.is_moved or (stored.is_replaced and not await self._is_at_work_in(workspace, folder)):
            await workspace.relocate()
        if registration.identity.path == folder.identity.path and self._may_mark(folder, registration):
            await self._folders.mark(folder, registration.data_dir, registration.id)
        return workspace

    def _may_mark(self, folder: Folder, registration: Registration) -> bool:
        """Return whether the data directory needs the mark of this workspace, and is not that of another one."""
        if folder.data_dir != registration.data_dir or folder.mark is None:
            return True
        is_free = is_inside(registration.identity, registration.data_dir) or self._index.get(folder.mark) is None
        return folder.mark != registration.id and is_free

    async def _is_at_work_in(self, workspace: ManagedWorkspace, folder: Folder) -> bool:
        """Return whether the workspace's worker runs in this directory, which only has got another inode number."""
        pid = workspace.driver.status().pid
        return pid is not None and await self._folders.is_in(pid, folder)
