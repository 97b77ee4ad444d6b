"""Operations on the files that a session has read, which it must read before it changes them."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from protocol.api.file import FileRead
from protocol.base.clock import Clock
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.store.database import Database, Transaction
from worker.store.open_file_guard import is_guarded
from worker.store.tables import read_files

NEVER = b'"0001-01-01T00:00:00Z"'


class FileOperations:
    """The handlers of `filetracker.…`."""

    def __init__(self, database: Database, *, workspace: Path, limits: Limits, clock: Clock) -> None:
        self._database = database
        self._workspace = workspace
        self._limits = limits
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "filetracker.list": self.list,
            "filetracker.read": self.read,
            "filetracker.last_read": self.last_read,
        }

    async def list(self, request: OperationRequest) -> OperationResponse:
        """Return the absolute paths, most recently read first."""
        session_id = request.args.get("sid", "")
        paths = await self._database.read(lambda connection: read_files.paths(connection, session_id))
        return OperationResponse(msgspec.json.encode(paths))

    async def read(self, request: OperationRequest) -> OperationResponse:
        """Record the current content of a file as read, because the client shows it to the session."""
        body = read(request.body, FileRead)
        path = self._resolved(body.path)
        # In a thread, because a file may lie on a slow disk.
        digest = await asyncio.to_thread(_digest, path, self._limits.edit_max_bytes)
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> None:
            read_files.record(transaction.connection, body.session_id, str(path), digest, now_ms)

        await self._database.write(job)
        return OperationResponse()

    async def last_read(self, request: OperationRequest) -> OperationResponse:
        """Return when the session last read a file, as an RFC 3339 time; the zero time for never."""
        session_id = request.args.get("session_id", "")
        path = str(self._resolved(request.args.get("path", "")))
        entry = await self._database.read(lambda connection: read_files.last(connection, session_id, path))
        if entry is None:
            return OperationResponse(NEVER)
        stamp = datetime.fromtimestamp(entry[1] / 1000, UTC).isoformat(timespec="milliseconds")
        return OperationResponse(msgspec.json.encode(stamp.replace("+00:00", "Z")))

    def _resolved(self, path: str) -> Path:
        """Resolve a path, relative ones from the workspace (W-37); follow symbolic links, as the tools do."""
        try:
            return (self._workspace / path).resolve()
        except (OSError, ValueError, RuntimeError):
            raise BadInput(f"cannot use path {path[:200]!r}") from None


def _digest(path: Path, max_bytes: int) -> str:
    """Return the SHA-256 of a file, "" when it cannot be read or is too large to be edited. Blocks."""
    try:
        if not path.is_file() or is_guarded(path) or path.stat().st_size > max_bytes:
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
