"""Store which workspaces owe a run, so that the next server wakes them without a visitor.

One small file is replaced as a whole. A mark is on disk before the client learns that its prompt was accepted; it is
written while the worker stores the prompt, and marks that come meanwhile share the next write.
"""

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protocol.base.atomic_file import replace_file
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.ids import WorkspaceId, is_id
from supervisor.workspaces.debts import DebtBook

WRITE_S = 5.0
"""How long an answer waits for its mark at most: a disk that hangs must not stop prompts that a worker has stored."""


class DebtFile:
    """The book of one server with its file."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self.book = DebtBook()
        self._path = path
        self._log = log
        self._tasks = TaskOwner("debts", log)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="debts")
        self._stored = 0  # changes of the book that are on disk
        self._writing: asyncio.Task[None] | None = None
        self._problem = ""

    def load(self) -> None:
        """Read the file. A damaged one counts as empty: the workers' databases have the runs."""
        try:
            stored = json.loads(self._path.read_bytes())
            self.book = DebtBook({WorkspaceId(key): int(count) for key, count in stored.items() if is_id(key)})
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._log.error("list of open work not read", extra=fields(path=self._path, reason=error))

    def begin(self, workspace_id: WorkspaceId) -> None:
        """Mark a workspace because a run may be accepted now, and begin to write the mark."""
        self.book.accept(workspace_id)
        self.write()

    async def accept(self, workspace_id: WorkspaceId) -> None:
        """Return when the mark of a workspace is on disk, before a prompt's answer; a failure is only logged."""
        self.begin(workspace_id)
        wanted = self.book.changes
        try:
            async with asyncio.timeout(WRITE_S):
                while self._stored < wanted and not self._problem:
                    self.write()
                    assert self._writing is not None
                    await asyncio.shield(self._writing)
        except TimeoutError:
            self._log.error("list of open work not written in time", extra=fields(path=self._path, within_s=WRITE_S))

    def write(self) -> None:
        """Begin to write what has changed; does not wait."""
        if self._stored < self.book.changes and (self._writing is None or self._writing.done()):
            self._writing = self._tasks.start(self._write(), "write")

    def restore(self) -> bool:
        """Write the file again if it was removed; return whether it was. A failed write is tried again, too."""
        is_missing = bool(self.book.owing) and not self._path.exists()
        if is_missing or self._problem:
            self._problem = ""
            self._stored = -1
            self.write()
        return is_missing

    async def close(self) -> None:
        """Write the rest, within a bound."""
        self.write()
        await self._tasks.join(WRITE_S)
        await self._tasks.close()
        self._thread.shutdown(wait=False)

    async def _write(self) -> None:
        changes, owing = self.book.changes, self.book.owing

        def work() -> None:
            replace_file(self._path, json.dumps(owing).encode(), sync=True, sync_directory=True)

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.error("list of open work not written", extra=fields(path=self._path, reason=error))
            return
        self._stored = changes
        self._problem = ""
