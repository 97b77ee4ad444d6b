"""Finds or creates a workspace by id or path, one creation per path at a time."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from protocol.api.workspace import WorkspaceWish
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, BulkheadError, Conflict, Denied, LimitReached, NotFound, Unavailable
from protocol.ids import ClientId, RandomSource, WorkspaceId, new_uuid
from protocol.limits import Limits
from protocol.secrets import without_masked
from supervisor.workspaces.filesystem_probe import Disk
from supervisor.workspaces.identity import Identity, check_data_dir, data_dir_for, resolve
from supervisor.workspaces.workspace import Workspace
from supervisor.workspaces.workspace_table import Registration, Roster

RETIRED_KEPT = 65_536
"""How many retired clients are remembered; the oldest are forgotten first (P13)."""


class Registry:
    """All registrations, and the workspaces among them that were asked for since our start."""

    def __init__(
        self,
        *,
        roster: Roster,
        disk: Disk,
        make_workspace: Callable[[Registration], Workspace],
        state_dir: Path,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
    ) -> None:
        self._roster = roster
        self._disk = disk
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
        self._awake: dict[WorkspaceId, Workspace] = {}
        self._creating: dict[str, asyncio.Task[Workspace]] = {}
        self._retired: OrderedDict[ClientId, None] = OrderedDict()

    # --- start and end ----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the roster. Nothing can be found before this is done. Raises RosterFailed."""
        for registration in await self._roster.open():
            self._remember(registration)

    def open(self) -> None:
        """From now on requests are served; before, they wait."""
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
        """End the creations under way and close the roster."""
        await self._tasks.close()
        await self._roster.close()

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, workspace_id: str) -> Workspace:
        """The workspace with this id. Raises NotFound."""
        workspace = self.get(workspace_id)
        if workspace is None:
            raise NotFound(f"there is no workspace {workspace_id[:100]!r}; create it first", code="workspace_unknown")
        return workspace

    def get(self, workspace_id: str) -> Workspace | None:
        """The workspace with this id, if it is registered."""
        known = WorkspaceId(workspace_id)
        workspace = self._awake.get(known)
        if workspace is None and (registration := self._registrations.get(known)) is not None:
            workspace = self._awake[known] = self._make_workspace(registration)
        return workspace

    def registrations(self) -> list[Registration]:
        """Every registered workspace."""
        return list(self._registrations.values())

    def touched(self) -> list[Workspace]:
        """The workspaces that were asked for since our start."""
        return list(self._awake.values())

    def touched_one(self, workspace_id: WorkspaceId) -> Workspace | None:
        """The same for one, without making it."""
        return self._awake.get(workspace_id)

    def tell_others(self, workspace_id: WorkspaceId, operation: str) -> None:
        """Let every other worker that runs, or is about to, do an operation; nobody waits for it."""
        for workspace in self.touched():
            status = workspace.driver.status()  # one that is neither reads what changes now when it starts
            if workspace.registration.id != workspace_id and (status.answers or status.state == "starting"):
                self._tasks.start(self._tell(workspace, operation, waits=not status.answers), "tell")

    async def _tell(self, workspace: Workspace, operation: str, *, waits: bool) -> None:
        try:
            await workspace.call(operation, wakes=waits)
        except BulkheadError as error:  # its next worker begins with what is true then
            self._log.info(
                "not told", extra=fields(workspace=workspace.registration.id, operation=operation, error=error.message)
            )

    # --- clients ----------------------------------------------------------------------------------------------------

    def retire(self, client_id: ClientId) -> None:
        """The client leaves for good: its claims vanish everywhere, and it can never create again."""
        self._retired[client_id] = None
        self._retired.move_to_end(client_id)
        while len(self._retired) > RETIRED_KEPT:
            self._retired.popitem(last=False)
        for workspace in self._awake.values():
            workspace.retire(client_id)

    def check_client(self, client_id: ClientId) -> None:
        """Raises Conflict (client_retired)."""
        if client_id in self._retired:
            raise Conflict("cannot create: this client has retired; use a new client_id", code="client_retired")

    # --- creating ---------------------------------------------------------------------------------------------------

    async def resolve(self, wish: WorkspaceWish) -> Identity:
        """The directory that `wish` means. Raises BadInput or Denied; Unavailable when nothing can be told."""
        return await self._disk.ask(wish.path, lambda: resolve(wish.path, wish.env or ()))

    async def create(self, wish: WorkspaceWish, client_id: ClientId, identity: Identity | None = None) -> Workspace:
        """Find or register the workspace that `wish` means, and claim it for the client. Its worker may still sleep.

        `identity` is what `resolve` gave for the wish. Raises what that raises, Conflict for a retired client, a
        directory that was exchanged or other channels than the first creator's, LimitReached. Of a new workspace
        also BadInput or Denied when its data cannot be where the wish says.
        """
        env = tuple(without_masked(wish.env or []))
        identity = identity or await self.resolve(wish)
        self.check_client(client_id)
        task = self._creating.get(identity.path)
        if task is None:
            known = await self._known(identity)
            task = self._creating.get(identity.path)  # somebody else may have begun meanwhile
            if known is None and task is None:
                task = self._tasks.start(self._register(identity, wish), "register", is_awaited=True)
                self._creating[identity.path] = task
        else:
            known = None
        if known is None:
            assert task is not None
            known = await asyncio.shield(task)
        self.check_client(client_id)  # it may have retired while we waited
        if known.registration.channels != tuple(wish.channels or ()):
            raise Conflict("cannot share this workspace: it was created with other channels")
        if known.env is None:
            known.env = env
        known.claim(client_id)
        return known

    async def restore(self, workspace_id: WorkspaceId, path: str) -> Workspace:
        """Register again, under its old id, a workspace whose worker lives but whose row was lost."""
        identity = await self._disk.ask(path, lambda: resolve(path, ()))
        return await self._register(identity, WorkspaceWish(path=path), workspace_id)

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """End the worker of a workspace and forget it; its files stay. Raises NotFound."""
        workspace = self.find(workspace_id)
        await workspace.close("registration removed")
        await self._roster.remove(workspace_id)
        registration = self._registrations.pop(workspace_id, None)
        self._awake.pop(workspace_id, None)
        if registration is not None:
            self._by_path.pop(registration.identity.path, None)
            if self._by_key.get(registration.identity.key) == workspace_id:
                del self._by_key[registration.identity.key]

    async def _known(self, identity: Identity) -> Workspace | None:
        """The registered workspace for this directory. Raises Conflict when its path shows another directory now, and
        Unavailable when that cannot be told.
        """
        at_path = self._by_path.get(identity.path)
        if at_path is not None:
            registration = self._registrations[at_path]
            if registration.identity.key != identity.key:
                raise Conflict(
                    f"cannot use {identity.path}: it is not the directory that was registered as workspace {at_path}; "
                    f"if that is right, DELETE /v1/workspaces/{at_path}/registration and create it again",
                    code="workspace_moved",
                )
            return self.get(at_path)
        same = self._by_key.get(identity.key)
        if same is None:
            return None
        # The same directory by another path (a bind mount), or a reused inode number: the known path decides.
        known = self._registrations[same].identity
        try:
            now = await self._disk.ask(known.path, lambda: resolve(known.path, ()))
        except (BadInput, Denied):
            return None
        return self.get(same) if now.key == known.key else None

    async def _register(
        self, identity: Identity, wish: WorkspaceWish, workspace_id: WorkspaceId | None = None
    ) -> Workspace:
        try:
            if len(self._registrations) >= self._limits.workspaces_max:
                raise LimitReached(
                    f"cannot register more than {self._limits.workspaces_max} workspaces; remove some registrations",
                    code="too_many_workspaces",
                )
            if wish.data_dir:
                await self._disk.ask(wish.data_dir, lambda: check_data_dir(identity, wish.data_dir))
            new_id = workspace_id or WorkspaceId(new_uuid(self._random))
            fallback = self._state_dir / "workspaces" / new_id
            registration = Registration(
                id=new_id,
                identity=identity,
                asked_path=wish.path if wish.path.startswith("/") else identity.path,
                data_dir=await self._disk.ask(identity.path, lambda: data_dir_for(identity, wish.data_dir, fallback)),
                skip_permissions=wish.yolo,
                debug=wish.debug,
                channels=tuple(wish.channels or ()),
                registered_at_ms=int(self._clock.wall() * 1000),
            )
            await self._roster.add(registration)
            self._remember(registration)
            self._log.info("workspace registered", extra=fields(workspace=new_id, path=identity.path))
            workspace = self._awake[new_id] = self._make_workspace(registration)
            return workspace
        finally:
            self._creating.pop(identity.path, None)

    def _remember(self, registration: Registration) -> None:
        self._registrations[registration.id] = registration
        self._by_path[registration.identity.path] = registration.id
        self._by_key[registration.identity.key] = registration.id
