"""What is known of each worker on disk: one small file each, replaced whole, readable by us only (it has a token)."""

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
    """The records of one runtime directory. A few hundred bytes each, on a memory file system: written on the loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Store the record in place of an older one. Raises OSError."""
        replace_file(self._path(record.workspace_id), msgspec.json.encode(record))

    def remove(self, workspace_id: WorkspaceId) -> None:
        """Forget this worker."""
        with contextlib.suppress(FileNotFoundError):
            self._path(workspace_id).unlink()

    def read_all(self) -> list[Record]:
        """Every readable record; a file that is none is removed, for nobody could ever use it."""
        found = []
        for path in sorted(self._folder.glob("*" + _SUFFIX)):
            try:
                record = _decoder.decode(path.read_bytes())
            except (msgspec.MsgspecError, OSError):
                path.unlink(missing_ok=True)
                continue
            if record.workspace_id == path.stem:
                found.append(record)
        return found

    def _path(self, workspace_id: WorkspaceId) -> Path:
        assert is_id(workspace_id)  # made by the registry, never by a client
        return self._folder / (workspace_id + _SUFFIX)
