"""Hold all registrations, and the workspaces among them that were used since the supervisor started."""

from collections.abc import Callable

from protocol.ids import WorkspaceId
from supervisor.workspaces.folder_errors import unknown
from supervisor.workspaces.registration_index import RegistrationIndex
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration


class WorkspaceSet:
    """A workspace is made when it is used for the first time, and lives as long as its registration."""

    def __init__(self, make_workspace: Callable[[Registration], ManagedWorkspace]) -> None:
        self.index = RegistrationIndex()
        self._make_workspace = make_workspace
        self._touched: dict[WorkspaceId, ManagedWorkspace] = {}
        self._closing: list[ManagedWorkspace] = []

    def find(self, workspace_id: str) -> ManagedWorkspace:
        """Return the workspace with this id. Raises NotFound `workspace_unknown`."""
        workspace = self.get(workspace_id)
        if workspace is None:
            raise unknown(workspace_id)
        return workspace

    def get(self, workspace_id: str) -> ManagedWorkspace | None:
        """Return the workspace with this id, or None when it is not registered."""
        key = WorkspaceId(workspace_id)
        workspace = self._touched.get(key)
        if workspace is None and (registration := self.index.get(key)) is not None:
            workspace = self._touched[key] = self._make_workspace(registration)
        return workspace

    def registration(self, workspace_id: str) -> Registration:
        """Return the registration with this id. Raises NotFound `workspace_unknown`."""
        registration = self.index.get(WorkspaceId(workspace_id))
        if registration is None:
            raise unknown(workspace_id)
        return registration

    def touched(self) -> list[ManagedWorkspace]:
        """Return the workspaces that were used since the supervisor started, and those that still close."""
        return [*self._touched.values(), *self._closing]

    def touched_one(self, workspace_id: WorkspaceId) -> ManagedWorkspace | None:
        """Return the workspace with this id if it was used since the supervisor started."""
        return self._touched.get(workspace_id)

    def put(self, registration: Registration) -> None:
        """Add a registration, or replace the one with the same id."""
        self.index.put(registration)
        if (workspace := self._touched.get(registration.id)) is not None:
            workspace.registration = registration

    async def drop(self, workspace_id: WorkspaceId, reason: str) -> None:
        """Remove a registration, then end the worker and the streams of its workspace."""
        self.index.remove(workspace_id)
        workspace = self._touched.pop(workspace_id, None)
        if workspace is None:
            return
        self._closing.append(workspace)
        try:
            await workspace.close(reason)
        finally:
            self._closing.remove(workspace)
