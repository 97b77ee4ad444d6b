"""Find registrations by id, by path, and by what a folder has in common with them."""

from collections.abc import Iterable

from protocol.ids import WorkspaceId
from supervisor.workspaces.recognition import Folder
from supervisor.workspaces.workspace_table import Registration


class RegistrationIndex:
    """All registrations, in memory. One path belongs to one registration."""

    def __init__(self) -> None:
        self._by_id: dict[WorkspaceId, Registration] = {}
        self._by_path: dict[str, WorkspaceId] = {}
        self._by_inode: dict[int, set[WorkspaceId]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Registration]:
        """Return every registration."""
        return list(self._by_id.values())

    def get(self, workspace_id: WorkspaceId | None) -> Registration | None:
        """Return the registration with this id, or None."""
        return self._by_id.get(workspace_id) if workspace_id is not None else None

    def at_path(self, path: str) -> Registration | None:
        """Return the registration of this path, or None."""
        return self.get(self._by_path.get(path))

    def related(self, folder: Folder) -> list[Registration]:
        """Return the registrations with the path, the mark or the inode of this folder."""
        candidates: Iterable[Registration | None] = (
            self.at_path(folder.identity.path),
            self.get(folder.mark),
            *(self.get(one) for one in sorted(self._by_inode.get(folder.identity.inode, ()))),
        )
        return list({one.id: one for one in candidates if one is not None}.values())

    def put(self, registration: Registration) -> None:
        """Add a registration, or replace the one with the same id."""
        self.remove(registration.id)
        self._by_id[registration.id] = registration
        self._by_path[registration.identity.path] = registration.id
        self._by_inode.setdefault(registration.identity.inode, set()).add(registration.id)

    def remove(self, workspace_id: WorkspaceId) -> None:
        """Remove a registration, if it is there."""
        old = self._by_id.pop(workspace_id, None)
        if old is None:
            return
        if self._by_path.get(old.identity.path) == workspace_id:
            del self._by_path[old.identity.path]
        same_inode = self._by_inode[old.identity.inode]
        same_inode.discard(workspace_id)
        if not same_inode:
            del self._by_inode[old.identity.inode]
