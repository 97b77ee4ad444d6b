"""Store a record of each worker: one small file, replaced atomically, readable by this user only (it has a token)."""

import contextlib
from pathlib import Path

import msgspec

from protocol.base.atomic_file import replace_file
from protocol.ids import WorkspaceId, is_id
from supervisor.launch.launcher import Record

__all__ = ["Record", "RecordStore"]

_decoder = msgspec.json.Decoder(Record)
_SUFFIX = ".json"


class RecordStore:
    """Holds the records of one runtime directory. They are a few hundred bytes in memory, so it writes on the loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Store the record and replace an older one. Raises OSError."""
        replace_file(self._path(record.workspace_id), msgspec.json.encode(record))

    def remove(self, workspace_id: WorkspaceId) -> None:
        """Remove the record of this worker, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._path(workspace_id).unlink()

    def read_all(self) -> list[Record]:
        """Return every readable record; remove files that are none."""
        records = []
        for path in sorted(self._folder.glob("*" + _SUFFIX)):
            try:
                record = _decoder.decode(path.read_bytes())
            except (msgspec.MsgspecError, OSError):
                path.unlink(missing_ok=True)
                continue
            if record.workspace_id == path.stem:
                records.append(record)
        return records

    def _path(self, workspace_id: WorkspaceId) -> Path:
        assert is_id(workspace_id)  # made by the supervisor, never by a client
        return self._folder / (workspace_id + _SUFFIX)
