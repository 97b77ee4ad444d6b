"""Track the files that are open in one server, and make the notifications that bring it up to date with the disk."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from worker.lsp.catalogue import language_of
from worker.store.open_file_guard import is_guarded
from worker.toolkit.file_uris import uri_of


@dataclass(frozen=True)
class OnDisk:
    """The content of a file at one moment. `stamp` (time of change, size) detects a changed file without reading it."""

    text: str
    stamp: tuple[int, int]


@dataclass
class _Open:
    version: int
    text_hash: int
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Notification:
    """One notification to send to the server."""

    method: str
    params: dict[str, object]


class Documents:
    """The files that are open in one server, at most `count_max`: opening another closes the least recently used."""

    def __init__(self, count_max: int) -> None:
        self._max = count_max
        self._open: dict[Path, _Open] = {}

    @property
    def stamps(self) -> dict[Path, tuple[int, int]]:
        """The open files with the stamps of the content the server has, the most recently used last."""
        return {path: document.stamp for path, document in self._open.items()}

    def is_open(self, path: Path) -> bool:
        """Return whether the file is open in the server."""
        return path in self._open

    def update(self, path: Path, now: OnDisk | None) -> list[Notification]:
        """Record the current content of a used file, None for a missing one. Returns the notifications to send."""
        document = self._open.pop(path, None)
        uri = uri_of(path)
        if now is None:
            return [_close(uri)] if document is not None else []
        text_hash = hash(now.text)
        if document is not None:
            self._open[path] = document  # at the end: most recently used
            document.stamp = now.stamp
            if document.text_hash == text_hash:
                return []
            document.version += 1
            document.text_hash = text_hash
            params: dict[str, object] = {
                "textDocument": {"uri": uri, "version": document.version},
                "contentChanges": [{"text": now.text}],
            }
            return [Notification("textDocument/didChange", params), _save(uri)]
        notifications = []
        if len(self._open) >= self._max:
            oldest = next(iter(self._open))
            del self._open[oldest]
            notifications.append(_close(uri_of(oldest)))
        self._open[path] = _Open(1, text_hash, now.stamp)
        item = {"uri": uri, "languageId": language_of(path), "version": 1, "text": now.text}
        return [*notifications, Notification("textDocument/didOpen", {"textDocument": item})]

    def clear(self) -> None:
        """Forget all files, because the server has ended."""
        self._open.clear()


def _close(uri: str) -> Notification:
    return Notification("textDocument/didClose", {"textDocument": {"uri": uri}})


def _save(uri: str) -> Notification:
    return Notification("textDocument/didSave", {"textDocument": {"uri": uri}})


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return the time of change and the size of a file, None if there is none. Blocks."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in a file name that a server sent
        return None
    return (status.st_mtime_ns, status.st_size)


def read_text(path: Path, max_bytes: int) -> OnDisk | None:
    """Read a text file. None if it is missing, too large, binary, not a regular file, or the database. Blocks."""
    if is_guarded(path):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            with open(fd, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
    if len(data) > max_bytes or b"\0" in data[:1024]:
        return None
    return OnDisk(data.decode("utf-8", "replace"), (status.st_mtime_ns, status.st_size))
