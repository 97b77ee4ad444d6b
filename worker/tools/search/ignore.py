"""What ls, glob and grep do not look at: names that are junk in every project, and the project's `.gitignore`.

Of git's rules these are kept: comments, `!` to take back, a trailing `/` for directories only, a `/` inside to anchor
at the file's directory, `*`, `?`, `[…]`, `**`, the last matching line wins, and what is in an ignored directory stays
ignored. Not kept: escapes other than `\\#` and `\\!`, `.git/info/exclude` and the user's global file.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from worker.tools.search.patterns import matches, split

SKIPPED_DIRECTORIES = frozenset(
    {
        ".git", ".svn", ".hg", ".bzr", ".vscode", ".idea", "node_modules", "__pycache__", ".pytest_cache", ".cache",
        ".tmp", ".Trash", ".Spotlight-V100", ".fseventsd", ".crush", ".bulkhead", "OrbStack", ".local", ".share",
    }
)  # fmt: skip
"""Directories that are never entered, wherever they are."""

DEFAULT_PATTERNS = (
    "*.swp", "*.swo", "*~", ".DS_Store", "Thumbs.db", "target", "build", "dist", "out", "bin", "obj", "*.o", "*.so",
    "*.dylib", "*.dll", "*.exe", "*.log", "*.tmp", "*.temp", "*.pyc", "*.pyo", "vendor", "Cargo.lock",
    "package-lock.json", "yarn.lock", "pnpm-lock.yaml",
)  # fmt: skip
"""Names that are left out unless a `.gitignore` takes them back with `!`."""

GITIGNORE_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Line:
    """One line of a `.gitignore`."""

    names: tuple[str, ...]
    takes_back: bool
    directories_only: bool
    is_anchored: bool

    def fits(self, names: Sequence[str], is_directory: bool) -> bool:
        """`names` is the path relative to the directory of the `.gitignore`."""
        if self.directories_only and not is_directory:
            return False
        if self.is_anchored:
            return matches(self.names, names)
        return fnmatch.fnmatchcase(names[-1], self.names[0])


def parse(text: str) -> tuple[Line, ...]:
    """The lines of a `.gitignore` that say something."""
    lines = []
    for raw in text.splitlines():
        line = raw.rstrip()
        if not line or line.startswith("#"):
            continue
        takes_back = line.startswith("!")
        line = line[1:] if takes_back else line.removeprefix("\\") if line[:2] in ("\\#", "\\!") else line
        names = split(line)
        if names:
            is_anchored = "/" in line.rstrip("/")
            lines.append(Line(names, takes_back, line.endswith("/"), is_anchored))
    return tuple(lines)


DEFAULT_LINES = parse("\n".join(DEFAULT_PATTERNS))


@dataclass(frozen=True)
class Ignore:
    """The rules that hold in one directory: the defaults, then each `.gitignore` from the root of the walk down.

    `layers` are pairs of depth (number of names from the root of the walk) and lines.
    """

    layers: tuple[tuple[int, tuple[Line, ...]], ...] = ((0, DEFAULT_LINES),)

    def below(self, depth: int, gitignore: str) -> "Ignore":
        """The rules in a directory that many names below the root, which has this `.gitignore`."""
        lines = parse(gitignore)
        return Ignore((*self.layers, (depth, lines))) if lines else self

    def is_ignored(self, names: Sequence[str], is_directory: bool) -> bool:
        """Is this path (names from the root of the walk) left out? Its directories are taken to be not ignored."""
        if is_directory and names[-1] in SKIPPED_DIRECTORIES:
            return True
        for depth, lines in reversed(self.layers):
            for line in reversed(lines):
                if line.fits(names[depth:], is_directory):
                    return not line.takes_back
        return False
