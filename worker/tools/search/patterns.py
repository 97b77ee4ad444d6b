"""Glob patterns on paths: `*`, `?` and `[…]` in a name, `**` for any number of directories, `{a,b}` for alternatives.

A pattern is matched name by name. A regular expression for a whole path could take longer than any deadline.
"""

import fnmatch
from collections.abc import Callable, Sequence
from functools import partial

ALTERNATIVES_MAX = 64

NamePattern = Callable[[str], object]
"""Return whether one name of a path matches."""

PathPattern = Sequence[NamePattern | None]
"""One pattern for each name of a path; None, for `**`, matches any number of names."""


def expand_braces(pattern: str) -> list[str]:
    """Expand `a.{b,c}` to `a.b` and `a.c`, also for nested braces. Alternatives beyond the first 64 are dropped."""
    expanded: dict[str, None] = {}  # ordered, without duplicates
    waiting = [pattern]
    while waiting and len(expanded) < ALTERNATIVES_MAX:
        current = waiting.pop()
        parts = _innermost(current)
        if parts is None:
            expanded[current] = None
        else:
            before, inner, after = parts
            waiting += [before + choice + after for choice in inner.split(",")][:ALTERNATIVES_MAX]
    return list(expanded)


def _innermost(pattern: str) -> tuple[str, str, str] | None:
    """Return the text before, in and after the first braces that contain no others; None when there are none."""
    close = pattern.find("}")
    while close >= 0:
        opening = pattern.rfind("{", 0, close)
        if opening >= 0:
            return pattern[:opening], pattern[opening + 1 : close], pattern[close + 1 :]
        close = pattern.find("}", close + 1)
    return None


def split(path: str) -> tuple[str, ...]:
    """Split a relative path or pattern into its names."""
    return tuple(part for part in path.split("/") if part not in ("", "."))


def glob_names(pattern: str) -> tuple[str, ...]:
    """Split a glob pattern. One without a slash matches names at any depth, as in a `.gitignore`."""
    return split(pattern) if "/" in pattern else ("**", *split(pattern))


def compile_glob(names: Sequence[str]) -> PathPattern:
    """Prepare a split glob pattern for `matches`."""
    return [None if name == "**" else partial(fnmatch.fnmatchcase, pat=name) for name in names]


def matches(pattern: PathPattern, names: Sequence[str]) -> bool:
    """Return whether the pattern matches the whole path."""
    # reachable[i]: the pattern so far can match the first i names. The work is len(pattern) * len(names).
    reachable = [True] + [False] * len(names)
    for part in pattern:
        if part is None:
            first = reachable.index(True) if True in reachable else len(reachable)
            reachable = [i >= first for i in range(len(reachable))]
        else:
            reachable = [False] + [reachable[i] and bool(part(names[i])) for i in range(len(names))]
    return reachable[-1]
