"""Walk a directory without following symbolic links, and leave out what is ignored. Blocks: for threads."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.tools.search.ignore import GITIGNORE_MAX_BYTES, Ignore


@dataclass(frozen=True)
class Entry:
    """A file, directory or link below the root of a walk; `names` lead to it."""

    names: tuple[str, ...]
    is_directory: bool
    is_link: bool


def walk(
    root: Path, is_stopped: Callable[[], bool], *, depth_max: int = 0, rules: Ignore | None = None
) -> Iterator[Entry]:
    """Yield every entry below `root`, directories before their entries, names in order. Ends early when `is_stopped`.

    `depth_max` 0 means any depth. `rules` replace the default ones. Directories that cannot be read, or are removed
    meanwhile, are skipped.
    """
    waiting: list[tuple[tuple[str, ...], Ignore]] = [((), rules or Ignore())]
    while waiting and not is_stopped():
        parents, ignore = waiting.pop()
        directory = root.joinpath(*parents)
        ignore = ignore.with_gitignore(len(parents), _gitignore(directory))
        try:
            with os.scandir(directory) as unsorted:
                entries = sorted(unsorted, key=lambda entry: entry.name)
        except OSError:
            continue
        deeper: list[tuple[tuple[str, ...], Ignore]] = []
        for entry in entries:
            if is_stopped():
                return
            names = (*parents, entry.name)
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
    """Read the `.gitignore` of a directory, cut at its limit; "" when there is none."""
    try:
        fd = os.open(directory / ".gitignore", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(GITIGNORE_MAX_BYTES).decode("utf-8", "replace")
