"""Check the prose of the repository: subjects are named, and only documents of the repository are cited."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.files import PACKAGES, ROOT, name_of, sources, tree

VAGUE = re.compile(r"\b(?:whoever|somebody|nobody|brothers)\b|◇", re.IGNORECASE)

DELIBERATE: frozenset[str] = frozenset()
"""`FILE: LINE` of the lines that need one of these words, the line without its indentation."""

FOREIGN = re.compile(
    r"http-api(?:\.md)? \d|agent-behaviour|fault-matrix|architecture(?:\.md)? \d|redesign\.md"
    r"|\((?:see )?\d{1,2}\.\d{1,2}(?:\.\d{1,2})?(?:(?:,|;| and) \d{1,2}\.\d{1,2})*\)"
)
"""Sections of documents that are not in the repository, by name or as a number in parentheses."""

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


def prose_in(path: Path) -> Iterator[str]:
    """Yield each line of the comments and docstrings of a Python file, or each line of any other file."""
    content = path.read_text()
    if path.suffix != ".py":
        yield from content.splitlines()
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (ast.get_docstring(node, clean=False) or "").splitlines()
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from node.value.value.splitlines()


async def test_only_documents_of_the_repository_are_cited() -> None:
    code = [path for name in (*PACKAGES, "tests", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))]
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "systemd").iterdir())]
    cited = {
        f"{name_of(path)}: {line.strip()}"
        for path in [*code, *pages]
        for line in prose_in(path)
        if FOREIGN.search(line)
    }
    assert sorted(cited) == [], "say the rule in words, or give it a row in docs/rules.md"
