"""Map each value of a JSON text to its position: key path -> line and column, both counted from 1.

The text has been parsed by `json` before, so nothing is checked here. Positions are only computed for error messages
and reports, so a worker with a valid configuration does not pay for them.
"""

import json
import re
from bisect import bisect_right
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, slots=True)
class TextPosition:
    """A position in a text; both numbers begin with 1."""

    line: int
    column: int


@dataclass(slots=True)
class _Level:
    """An object or a list that is being read. `at` is the key or the index of the current value."""

    is_object: bool
    at: str | int
    wants_key: bool


def json_positions(text: str) -> dict[KeyPath, TextPosition]:
    """Return the position of each value: that of its key or, in a list, of the value. Duplicate keys: the last one."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(offset: int) -> TextPosition:
        line = bisect_right(starts, offset)
        return TextPosition(line, offset - starts[line - 1] + 1)

    positions: dict[KeyPath, TextPosition] = {}
    levels: list[_Level] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        level = levels[-1] if levels else None
        if level is not None and level.is_object and level.wants_key and token[0] == '"':
            level.at, level.wants_key = json.loads(token), False
            positions[_path(levels)] = position(match.start())
            continue
        if token in "{[" or token[0] not in "}],:":
            if level is None or not level.is_object:
                positions[_path(levels)] = position(match.start())
            if token in "{[":
                levels.append(_Level(token == "{", "" if token == "{" else 0, token == "{"))
        elif token in "}]":
            levels.pop()
        elif token == "," and level is not None:
            if isinstance(level.at, int):
                level.at += 1
            level.wants_key = level.is_object
    return positions


def _path(levels: list[_Level]) -> KeyPath:
    return tuple(level.at for level in levels)


def dotted(path: KeyPath) -> str:
    """Return a path in dotted form: `providers.mine.models[0].id`. A dot inside a name is written `\\.`."""
    text = ""
    for name in path:
        if isinstance(name, int):
            text += f"[{name}]"
        else:
            text += ("." if text else "") + name.replace("\\", "\\\\").replace(".", "\\.")
    return text
