"""Walks a directory without following symbolic links, leaving out what is ignored. Blocking: for threads."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.tools.search.ignore import GITIGNORE_MAX_BYTES, Ignore


@dataclass(frozen=True)
class Entry:
    """Something below the root of a walk; `names` lead to it."""

    names: tuple[str, ...]
    is_directory: bool
    is_link: bool


def walk(
    root: Path, is_stopped: Callable[[], bool], *, depth_max: int = 0, rules: Ignore | None = None
) -> Iterator[Entry]:
    """Every entry below `root`, directories before what is in them, names in order. Ends early when `is_stopped`.

    `depth_max` 0 means any depth. `rules` take the place of the default ones. Directories that cannot be read, or
    vanish meanwhile, are passed over.
    """
    waiting: list[tuple[tuple[str, ...], Ignore]] = [((), rules or Ignore())]
    while waiting and not is_stopped():
        above, ignore = waiting.pop()
        directory = root.joinpath(*above)
        ignore = ignore.below(len(above), _gitignore(directory))
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        deeper: list[tuple[tuple[str, ...], Ignore]] = []
        for entry in entries:
            if is_stopped():
                return
            names = (*above, entry.name)
            is_directory = _is_directory(entry)
            if ignore.is_ignored(names, is_directory):
                continue
            yield Entry(names, is_directory, entry.is_symlink())
            if is_directory and (depth_max == 0 or len(names) < depth_max):
                deeper.append((names, ignore))
        waiting += reversed(deeper)


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _gitignore(directory: Path) -> str:
    """The text of the directory's `.gitignore`, cut at a bound; nothing when there is none."""
    try:
        fd = os.open(directory / ".gitignore", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(GITIGNORE_MAX_BYTES).decode("utf-8", "replace")
