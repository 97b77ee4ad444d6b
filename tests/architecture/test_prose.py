"""Check that comments, docstrings and texts of the product name their subjects instead of "somebody" or "nobody"."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.files import PACKAGES, ROOT, name_of, sources

VAGUE = re.compile(r"\b(?:whoever|somebody|nobody|brothers)\b|◇", re.IGNORECASE)

DELIBERATE: frozenset[str] = frozenset()
"""`FILE: LINE` of the lines that need one of these words, the line without its indentation."""

_TEXT = {"COMMENT", "STRING", "FSTRING_MIDDLE"}
"""Tokens with text for readers; before Python 3.12 an f-string is one STRING."""


def texts_in(path: Path) -> Iterator[str]:
    """Yield each line of the comments and strings of a Python file, or each line of any other file."""
    content = path.read_text()
    if path.suffix != ".py":
        yield from content.splitlines()
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if tokenize.tok_name[token.type] in _TEXT:
            yield from token.string.splitlines()


async def test_product_texts_name_their_subjects() -> None:
    pages = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.md"))]
    vague = {
        f"{name_of(path)}: {line.strip()}"
        for path in [*sources(), *pages]
        for line in texts_in(path)
        if VAGUE.search(line)
    }
    assert sorted(vague - DELIBERATE) == [], "name the client, user, process or code that is meant"
    assert sorted(DELIBERATE - vague) == [], "these lines have changed: take them out"
