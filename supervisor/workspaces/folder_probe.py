"""Look at folders off the event loop, each access with a deadline."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from protocol.api.workspace import CreateWorkspace
from protocol.base.logs import fields
from protocol.errors import BulkheadError, Unavailable
from protocol.ids import WorkspaceId
from protocol.workspace_mark import remove_mark
from supervisor.workspaces.filesystem_probe import BoundedFilesystem
from supervisor.workspaces.identity import check_data_dir, look, look_again, mark_folder, resolve
from supervisor.workspaces.recognition import Folder, Known, Missing, Seen, Unreadable
from supervisor.workspaces.workspace_table import Registration

AT_ONCE_MAX = 16
"""Folders that are looked at in parallel."""


class FolderProbe:
    """The accesses of the registry to directories of users."""

    def __init__(self, *, filesystem: BoundedFilesystem, log: logging.Logger) -> None:
        self._filesystem = filesystem
        self._log = log

    async def resolve(self, request: CreateWorkspace) -> Folder:
        """Return the folder that `request` names. Raises BadInput, Denied; Unavailable when no answer comes."""

        def work() -> Folder:
            return look(resolve(request.path, request.env or ()), request.data_dir)

        return await self._filesystem.run(request.path, work)

    async def with_data_of(self, folder: Folder, registration: Registration | None) -> Folder:
        """Return the folder with the data directory of the registration of its path; it may be another."""
        if registration is None or registration.data_dir == folder.data_dir:
            return folder
        path, data_dir = folder.identity, registration.data_dir
        return await self._filesystem.run(folder.identity.path, lambda: look(path, data_dir))

    async def check_data_dir(self, folder: Folder, requested: str) -> None:
        """Raise BadInput or Denied unless data can be kept in the requested directory."""
        if requested:
            await self._filesystem.run(requested, lambda: check_data_dir(folder.identity, requested))

    async def see(self, registration: Registration) -> Seen:
        """Return what is at a registered path now. Raises Unavailable when no answer comes."""
        identity, data_dir = registration.identity, registration.data_dir
        return await self._filesystem.run(identity.path, lambda: look_again(identity, data_dir))

    async def known(self, registrations: Iterable[Registration], folder: Folder) -> list[Known]:
        """Return what is at the paths of these registrations now; at the path of `folder`, that is `folder`."""
        found: list[Known] = []
        for one in registrations:
            now: Seen = folder
            if one.identity.path != folder.identity.path:
                try:
                    now = await self.see(one)
                except Unavailable:
                    now = Unreadable("its file system does not respond")
            found.append(Known(one.id, one.identity, now))
        return found

    async def mark(self, folder: Folder, data_dir: str, workspace_id: WorkspaceId) -> None:
        """Write the mark of a workspace, if that is possible; only the registration has the id otherwise."""
        path = Path(folder.identity.path)
        try:
            await self._filesystem.run(str(path), lambda: mark_folder(folder, data_dir, workspace_id))
        except (OSError, BulkheadError) as error:
            self._log.info("folder not marked", extra=fields(workspace=workspace_id, path=path, error=error))

    async def unmark(self, registration: Registration) -> None:
        """Remove the mark of a workspace that is forgotten, if that is possible."""
        data_dir = Path(registration.data_dir)
        with contextlib.suppress(OSError, BulkheadError):
            await self._filesystem.run(registration.identity.path, lambda: remove_mark(data_dir, registration.id))

    async def is_in(self, pid: int, folder: Folder) -> bool:
        """Return whether this folder is the working directory of a process.

        An overlay file system may give a directory another inode number while a worker is in it.
        """

        def work() -> bool:
            try:
                status = os.stat(f"/proc/{pid}/cwd")
            except OSError:
                return False
            return (status.st_dev, status.st_ino) == (folder.device, folder.identity.inode)

        return await self._filesystem.run(folder.identity.path, work)

    async def gone(self, registrations: Iterable[Registration]) -> list[Registration]:
        """Return those of the registrations that have no directory at their path."""
        gate = asyncio.Semaphore(AT_ONCE_MAX)

        async def is_gone(registration: Registration) -> bool:
            async with gate:
                try:
                    return isinstance(await self.see(registration), Missing)
                except Unavailable:
                    return False

        candidates = list(registrations)
        answers = await asyncio.gather(*(is_gone(one) for one in candidates))
        return [one for one, gone in zip(candidates, answers, strict=True) if gone]
