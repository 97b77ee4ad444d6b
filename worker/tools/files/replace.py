"""Replace one text by another in the text of a file: an exact match, unique unless all are requested.

Models write lines with LF. The search therefore runs on a copy with LF only. The match is then cut out of the original
text, so that nothing else changes, and the new text gets the line endings of the text that it replaces.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Replaced:
    """The new text, and the number of replacements."""

    text: str
    count: int


class NoMatch(Exception):
    """The old text does not occur."""


class SeveralMatches(Exception):
    """The old text occurs more than once, and one occurrence was requested."""


def replace_text(text: str, old: str, new: str, *, replace_all: bool) -> Replaced:
    """Replace the non-empty `old` by `new`: all occurrences from left to right, or the only one.

    Without `replace_all`, occurrences that overlap count as several. Raises NoMatch, SeveralMatches.
    """
    assert old
    flat, old, new = _to_lf(text), _to_lf(old), _to_lf(new)
    starts = _find_all(flat, old, overlapping=not replace_all)
    if not starts:
        raise NoMatch
    if len(starts) > 1 and not replace_all:
        raise SeveralMatches
    # Positions in `flat` of the newlines that are CRLF in `text`. A position in `flat` plus the number of these before
    # it is the position in `text`.
    crlf = [match.start() - number for number, match in enumerate(re.finditer("\r\n", text))]
    mostly_crlf = 2 * len(crlf) > flat.count("\n")
    pieces, copied = [], 0
    for start in starts:
        end = start + len(old)
        pieces += [
            text[copied : start + bisect_left(crlf, start)],
            _match_line_ends(new, old, start, crlf, mostly_crlf),
        ]
        copied = end + bisect_left(crlf, end)
    return Replaced("".join([*pieces, text[copied:]]), len(starts))


def _match_line_ends(new: str, old: str, start: int, crlf: list[int], mostly_crlf: bool) -> str:
    """Return `new` with the line endings of the text that it replaces, or of most lines when that has none."""
    first = old.find("\n")
    if first < 0:
        is_crlf = mostly_crlf
    else:
        index = bisect_left(crlf, start + first)
        is_crlf = index < len(crlf) and crlf[index] == start + first
    return new.replace("\n", "\r\n") if is_crlf else new


def _find_all(text: str, old: str, *, overlapping: bool) -> list[int]:
    """Return the positions of `old` in `text`. With `overlapping` at most two, enough to see that it is not unique."""
    starts: list[int] = []
    start = text.find(old)
    while start >= 0 and not (overlapping and len(starts) == 2):
        starts.append(start)
        start = text.find(old, start + (1 if overlapping else len(old)))
    return starts


def _to_lf(text: str) -> str:
    return text.replace("\r\n", "\n")
