"""The files that are open in one server: what it was told of each, and what is on the disk. `read_text` blocks."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from worker.lsp.catalogue import language_of
from worker.store.open_file_guard import is_guarded
from worker.toolkit.file_uris import uri_of


@dataclass(frozen=True)
class OnDisk:
    """A file as it was at one moment. `stamp` tells a changed file apart without reading it."""

    text: str
    stamp: tuple[int, int]


@dataclass
class _Open:
    version: int
    text_hash: int
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Tell:
    """One notification for the server."""

    method: str
    params: dict[str, object]


class Documents:
    """Which versions of which files a server knows; of too many the one that was used longest ago is closed."""

    def __init__(self, count_max: int) -> None:
        self._max = count_max
        self._open: dict[Path, _Open] = {}

    @property
    def stamps(self) -> dict[Path, tuple[int, int]]:
        """The open files, the one used last at the end, with the stamps of what the server knows."""
        return {path: document.stamp for path, document in self._open.items()}

    def knows(self, path: Path) -> bool:
        """Is the file open?"""
        return path in self._open

    def update(self, path: Path, now: OnDisk | None) -> list[Tell]:
        """The file is in use and looks like this, None for gone. Returns what the server has to be told; [] for no
        difference."""
        document = self._open.pop(path, None)
        uri = uri_of(path)
        if now is None:
            return [_close(uri)] if document is not None else []
        text_hash = hash(now.text)
        if document is not None:
            self._open[path] = document  # at the end: used last
            document.stamp = now.stamp
            if document.text_hash == text_hash:
                return []
            document.version += 1
            document.text_hash = text_hash
            params: dict[str, object] = {
                "textDocument": {"uri": uri, "version": document.version},
                "contentChanges": [{"text": now.text}],
            }
            return [Tell("textDocument/didChange", params), _save(uri)]
        told = []
        if len(self._open) >= self._max:
            oldest = next(iter(self._open))
            del self._open[oldest]
            told.append(_close(uri_of(oldest)))
        self._open[path] = _Open(1, text_hash, now.stamp)
        item = {"uri": uri, "languageId": language_of(path), "version": 1, "text": now.text}
        return [*told, Tell("textDocument/didOpen", {"textDocument": item})]

    def clear(self) -> None:
        """The server is gone."""
        self._open.clear()


def _close(uri: str) -> Tell:
    return Tell("textDocument/didClose", {"textDocument": {"uri": uri}})


def _save(uri: str) -> Tell:
    return Tell("textDocument/didSave", {"textDocument": {"uri": uri}})


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Time of change and size of a regular file, None for anything else. Blocks."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in what a server calls a file
        return None
    return (found.st_mtime_ns, found.st_size)


def read_text(path: Path, max_bytes: int) -> OnDisk | None:
    """The file, None when it is not there, too large, or nothing that a server should read. Blocks."""
    if is_guarded(path):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            with open(fd, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
    if len(data) > max_bytes or b"\0" in data[:1024]:
        return None
    return OnDisk(data.decode("utf-8", "replace"), (found.st_mtime_ns, found.st_size))
