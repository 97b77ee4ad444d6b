"""Edits that a server proposes, applied to texts. Columns of the protocol count UTF-16 code units."""

import re
from collections.abc import Iterable
from pathlib import Path

from worker.lsp.types import Position, TextEdit, WorkspaceEdit
from worker.toolkit.file_uris import path_of

_ENDS = re.compile(r"\r\n|\n|\r")


class BadEdit(Exception):
    """The edits do not fit the text, or want something that was not offered."""


def edits_by_file(edit: WorkspaceEdit) -> dict[Path, list[TextEdit]]:
    """The text edits of each file. Raises BadEdit for anything else."""
    found: dict[Path, list[TextEdit]] = {}
    # Some servers say the same twice; the newer way counts then.
    named = [(uri, edits) for uri, edits in (edit.changes or {}).items()] if not edit.documentChanges else []
    for change in edit.documentChanges or ():
        if change.kind or change.textDocument is None:
            raise BadEdit(f"the server wants to {change.kind or 'change'} files, not only their texts")
        named.append((change.textDocument.uri, change.edits))
    for uri, edits in named:
        path = path_of(uri)
        if path is None:
            raise BadEdit(f"{uri[:200]} is no file")
        if edits:
            found.setdefault(path, []).extend(edits)
    return found


def apply_edits(text: str, edits: Iterable[TextEdit]) -> str:
    """The text after all of them. Raises BadEdit when one lies outside the text, or two overlap."""
    starts = line_starts(text)
    spans = sorted(
        (
            (offset_of(text, starts, edit.range.start), offset_of(text, starts, edit.range.end), place, edit.newText)
            for place, edit in enumerate(edits)
        ),
        key=lambda span: span[:3],
    )
    parts: list[str] = []
    done = 0
    for start, end, _, new in spans:
        if start < done or end < start:
            raise BadEdit("two edits overlap")
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def line_starts(text: str) -> list[int]:
    """Where each line begins."""
    return [0, *(match.end() for match in _ENDS.finditer(text))]


def offset_of(text: str, starts: list[int], position: Position) -> int:
    """The index of a position in the text; beyond the end of a line means its end. Raises BadEdit."""
    if not 0 <= position.line <= len(starts) or position.character < 0:
        raise BadEdit(f"line {position.line + 1} is not in the text")
    if position.line == len(starts):
        return len(text)
    start = starts[position.line]
    end = starts[position.line + 1] if position.line + 1 < len(starts) else len(text)
    line = text[start:end].rstrip("\r\n")
    return start + index_of(line, position.character)


def index_of(line: str, units: int) -> int:
    """The index of the character at so many UTF-16 units; the length of the line when it is shorter."""
    if line.isascii():
        return min(units, len(line))
    seen = 0
    for index, character in enumerate(line):
        if seen >= units:
            return index
        seen += 2 if ord(character) > 0xFFFF else 1
    return len(line)


def units_of(line: str, index: int) -> int:
    """How many UTF-16 units come before the character at `index`."""
    before = line[:index]
    return len(before) if before.isascii() else len(before.encode("utf-16-le", "surrogatepass")) // 2
