"""Apply the text edits that a server proposes. Columns in the protocol count UTF-16 code units."""

import re
from collections.abc import Iterable
from pathlib import Path

from worker.lsp.types import Position, TextEdit, WorkspaceEdit
from worker.toolkit.file_uris import path_of

_LINE_ENDS = re.compile(r"\r\n|\n|\r")


class BadEdit(Exception):
    """The edits do not fit the text, or are of a kind that this client does not support."""


def edits_by_file(edit: WorkspaceEdit) -> dict[Path, list[TextEdit]]:
    """Group the text edits by file. Raises BadEdit for any other change."""
    by_file: dict[Path, list[TextEdit]] = {}
    # Some servers send the same edits in both forms; the newer form wins.
    by_uri = [(uri, edits) for uri, edits in (edit.changes or {}).items()] if not edit.documentChanges else []
    for change in edit.documentChanges or ():
        if change.kind or change.textDocument is None:
            raise BadEdit(f"the server wants to {change.kind or 'change'} files; only edits of texts are supported")
        by_uri.append((change.textDocument.uri, change.edits))
    for uri, edits in by_uri:
        path = path_of(uri)
        if path is None:
            raise BadEdit(f"{uri[:200]} is not the URI of a file")
        if edits:
            by_file.setdefault(path, []).extend(edits)
    return by_file


def apply_edits(text: str, edits: Iterable[TextEdit]) -> str:
    """Return the text with all edits applied. Raises BadEdit if one is outside the text, or two overlap."""
    starts = line_starts(text)
    spans = sorted(
        (
            (offset_of(text, starts, edit.range.start), offset_of(text, starts, edit.range.end), index, edit.newText)
            for index, edit in enumerate(edits)
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
    """Return the index at which each line begins."""
    return [0, *(match.end() for match in _LINE_ENDS.finditer(text))]


def offset_of(text: str, starts: list[int], position: Position) -> int:
    """Return the index of a position in the text; a column beyond the end of its line is its end. Raises BadEdit."""
    if not 0 <= position.line <= len(starts) or position.character < 0:
        raise BadEdit(f"line {position.line + 1} is not in the text")
    if position.line == len(starts):
        return len(text)
    start = starts[position.line]
    end = starts[position.line + 1] if position.line + 1 < len(starts) else len(text)
    line = text[start:end].rstrip("\r\n")
    return start + index_of(line, position.character)


def index_of(line: str, units: int) -> int:
    """Return the index of the character at this UTF-16 offset, the length of the line if it is shorter."""
    if line.isascii():
        return min(units, len(line))
    seen = 0
    for index, character in enumerate(line):
        if seen >= units:
            return index
        seen += 2 if ord(character) > 0xFFFF else 1
    return len(line)


def units_of(line: str, index: int) -> int:
    """Return the number of UTF-16 units before the character at `index`."""
    before = line[:index]
    return len(before) if before.isascii() else len(before.encode("utf-16-le", "surrogatepass")) // 2
