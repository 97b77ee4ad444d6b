"""Glob patterns on paths: `*` and `?` and `[…]` inside a name, `**` for any number of directories, `{a,b}`.

No regular expression is made of a whole pattern: matching goes name by name, so that no pattern takes long.
"""

import fnmatch
from collections.abc import Sequence

ALTERNATIVES_MAX = 64


def expand_braces(pattern: str) -> list[str]:
    """`a.{b,c}` as `a.b` and `a.c`; nested braces too. Past 64 alternatives the rest is left out."""
    done: dict[str, None] = {}  # in order and without doubles
    waiting = [pattern]
    while waiting and len(done) < ALTERNATIVES_MAX:
        current = waiting.pop()
        parts = _innermost(current)
        if parts is None:
            done[current] = None
        else:
            before, inner, after = parts
            waiting += [before + choice + after for choice in inner.split(",")][:ALTERNATIVES_MAX]
    return list(done)


def _innermost(pattern: str) -> tuple[str, str, str] | None:
    """The text before, in and after the first pair of braces that holds no other; None without one."""
    close = pattern.find("}")
    while close >= 0:
        opening = pattern.rfind("{", 0, close)
        if opening >= 0:
            return pattern[:opening], pattern[opening + 1 : close], pattern[close + 1 :]
        close = pattern.find("}", close + 1)
    return None


def split(path: str) -> tuple[str, ...]:
    """A relative path or pattern as its names."""
    return tuple(part for part in path.split("/") if part not in ("", "."))


def matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Does the pattern fit the whole path? Both as `split` gives them."""
    # reach[i]: the pattern so far can have taken the first i names. Work is len(pattern) * len(names).
    reach = [True] + [False] * len(names)
    for part in pattern:
        if part == "**":
            first = reach.index(True) if True in reach else len(reach)
            reach = [i >= first for i in range(len(reach))]
        else:
            reach = [False] + [reach[i] and fnmatch.fnmatchcase(names[i], part) for i in range(len(names))]
    return reach[-1]
