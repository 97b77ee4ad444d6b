"""Replacing one text by another inside a file's text: exact, unique unless all are meant, line ends kept. ◇

Models write lines with LF. The search is made on the text with LF only; what is found is then cut out of the text as
it is, so that nothing but the place itself changes, and what is put in gets the line ends of what it replaces.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Replaced:
    """The new text, and how many places changed."""

    text: str
    count: int


class NoMatch(Exception):
    """The old text does not occur."""


class SeveralMatches(Exception):
    """The old text occurs more than once, and only one place was meant."""


def replace_text(text: str, old: str, new: str, *, replace_all: bool) -> Replaced:
    """Replace `old`, which is not empty, by `new`: all occurrences from left to right, or the only one.

    Occurrences that overlap count as several when one is meant. Raises NoMatch, SeveralMatches.
    """
    assert old
    flat, old, new = _to_lf(text), _to_lf(old), _to_lf(new)
    places = _places(flat, old, overlapping=not replace_all)
    if not places:
        raise NoMatch
    if len(places) > 1 and not replace_all:
        raise SeveralMatches
    # Where, in `flat`, the newlines stand that are CRLF in `text`: so many positions further a place is in `text`.
    crlf = [found.start() - number for number, found in enumerate(re.finditer("\r\n", text))]
    mostly_crlf = 2 * len(crlf) > flat.count("\n")
    pieces, at = [], 0
    for place in places:
        end = place + len(old)
        pieces += [text[at : place + bisect_left(crlf, place)], _with_ends_of(new, old, place, crlf, mostly_crlf)]
        at = end + bisect_left(crlf, end)
    return Replaced("".join([*pieces, text[at:]]), len(places))


def _with_ends_of(new: str, old: str, place: int, crlf: list[int], mostly_crlf: bool) -> str:
    """`new` with the line ends of the place that it goes to; without one there, those of most lines."""
    first = old.find("\n")
    if first < 0:
        is_crlf = mostly_crlf
    else:
        index = bisect_left(crlf, place + first)
        is_crlf = index < len(crlf) and crlf[index] == place + first
    return new.replace("\n", "\r\n") if is_crlf else new


def _places(text: str, old: str, *, overlapping: bool) -> list[int]:
    """Where `old` begins in `text`. When overlaps count, at most two: more need not be known."""
    found: list[int] = []
    at = text.find(old)
    while at >= 0 and not (overlapping and len(found) == 2):
        found.append(at)
        at = text.find(old, at + (1 if overlapping else len(old)))
    return found


def _to_lf(text: str) -> str:
    return text.replace("\r\n", "\n")
