"""Store a record of each worker: one small file, replaced atomically, readable by this user only (it has a token).

Records are beside the list of workspaces, where no cleaner of temporary files comes by. When that place cannot be
written, as on a full disk, they go to the runtime directory, which is mostly in memory: workers must start also then.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from protocol.base.atomic_file import replace_file
from protocol.ids import WorkspaceId, is_id
from supervisor.launch.launcher import Record

__all__ = ["Record", "RecordStore"]

_decoder = msgspec.json.Decoder(Record)
_SUFFIX = ".json"


class RecordStore:
    """Holds the records of one server. They are a few hundred bytes each, so it writes on the loop."""

    def __init__(self, folder: Path, *, spare: Path | None = None) -> None:
        """`spare` is used when `folder` cannot be written."""
        self._folders = (folder, spare) if spare is not None else (folder,)
        self._records: dict[WorkspaceId, Record] = {}

    def write(self, record: Record) -> None:
        """Store the record and replace an older one. Raises OSError when no folder can be written."""
        self._store(record)
        self._records[record.workspace_id] = record

    def adopted(self, record: Record) -> None:
        """Take a record that `read_all` returned: `restore` looks after it from now on."""
        self._records[record.workspace_id] = record

    def remove(self, workspace_id: WorkspaceId) -> None:
        """Remove the record of this worker, if there is one."""
        self._records.pop(workspace_id, None)
        for folder in self._folders:
            with contextlib.suppress(FileNotFoundError):
                _path(folder, workspace_id).unlink()

    def restore(self) -> int:
        """Store again the records of living workers whose files were removed; return how many. Raises OSError."""
        if not self._records:
            return 0
        present: set[str] = set()
        for folder in self._folders:
            with contextlib.suppress(FileNotFoundError):
                present.update(os.listdir(folder))
        missing = [record for workspace_id, record in self._records.items() if workspace_id + _SUFFIX not in present]
        for record in missing:
            self._store(record)
        return len(missing)

    def read_all(self) -> list[Record]:
        """Return every readable record, the newest of each worker; remove files that are none."""
        records: dict[WorkspaceId, Record] = {}
        for folder in self._folders:
            for path in sorted(folder.glob("*" + _SUFFIX)):
                try:
                    record = _decoder.decode(path.read_bytes())
                except (msgspec.MsgspecError, OSError):
                    path.unlink(missing_ok=True)
                    continue
                known = records.get(record.workspace_id)
                if record.workspace_id == path.stem and (known is None or record.generation > known.generation):
                    records[record.workspace_id] = record
        return list(records.values())

    def _store(self, record: Record) -> None:
        for folder in self._folders:
            try:
                replace_file(_path(folder, record.workspace_id), msgspec.json.encode(record))
                return
            except OSError:
                if folder is self._folders[-1]:
                    raise


def _path(folder: Path, workspace_id: WorkspaceId) -> Path:
    assert is_id(workspace_id)  # made by the supervisor, never by a client
    return folder / (workspace_id + _SUFFIX)
