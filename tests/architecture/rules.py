"""Write the column "proved by" of `docs/faults.md` and `docs/rules.md`: `python -m tests.architecture.rules`.

A row is `| id | sentence | proved by |`. Id and sentence are written by hand. The last cell has parts, separated by
`<br>`: the names of the tests that cite the id, which are generated, and after them the notes, which are written by
hand and kept. A note begins with one of the words in `NOTES`.

A test cites an id in its name (`test_W04_killed_while_streaming`, `test_W_46_...` for
W-46), its docstring or a comment inside it.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.architecture.files import ROOT, name_of, sources

FAULTS, RULES = ROOT / "docs" / "faults.md", ROOT / "docs" / "rules.md"
PAGES = (FAULTS, RULES)

NOTES = ("by other names: ", "by the tests of ", "no test: ", "not done: ")

CITED = re.compile(r"\b(?:[WC]-\d\d|[WSZDHCLTYX]\d\d|P\d{1,2}|M\d[a-e]?)\b")

_RULE_IN_NAME = re.compile(r"_([WC])_(\d\d)(?=_)")
_ROW = re.compile(r"^\| ((?:[WC]-\d\d|[A-Z]\d{1,2})) \| ([^|]+) \|(.*)\|$")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a page, without the generated part of its last cell."""

    id: str
    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """A test function and the ids that it cites, in the form that the pages use."""

    name: str
    file: str
    ids: frozenset[str]


def row_of(line: str) -> Row | None:
    """Parse one line of a page; None when it is not a row that tests prove. Raises ValueError for an unknown note."""
    match = _ROW.match(line)
    if match is None or match[1].startswith("M"):
        return None
    parts = [part.strip() for part in match[3].split("<br>") if part.strip()]
    if unknown := [part for part in parts if not part.startswith((*NOTES, "`test_"))]:
        raise ValueError(f"cannot keep the note {unknown[0]!r} of {match[1]}: begin it with one of {', '.join(NOTES)}")
    return Row(match[1], match[2].strip(), tuple(part for part in parts if part.startswith(NOTES)))


def rows(page: Path) -> list[Row]:
    """Return the rows of a page, from the top."""
    return [row for line in page.read_text().splitlines() if (row := row_of(line)) is not None]


@cache
def known_ids() -> frozenset[str]:
    """Return every id that has a row, the moments included."""
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    return frozenset(match[1] for line in lines if (match := _ROW.match(line)) is not None)


@cache
def all_tests() -> tuple[Test, ...]:
    """Return every test function of the repository, by name."""
    tests = [test for path in sorted((ROOT / "tests").rglob("test_*.py")) for test in _tests_of(path)]
    return tuple(sorted(tests, key=lambda test: (test.name, test.file)))


@cache
def proofs() -> Mapping[str, list[str]]:
    """Return id -> names of the tests that cite it."""
    names: dict[str, list[str]] = defaultdict(list)
    for test in all_tests():
        for each in test.ids:
            if test.name not in names[each]:
                names[each].append(test.name)
    return names


def render(text: str, proved: Mapping[str, list[str]]) -> str:
    """Return the text of a page with the generated parts made again."""
    lines = []
    for line in text.splitlines():
        row = row_of(line)
        if row is not None:
            cell = "<br>".join([*(f"`{name}`" for name in proved.get(row.id, ())), *row.notes])
            line = f"| {row.id} | {row.sentence} | {cell} |"
        lines.append(line)
    return "\n".join([*lines, ""])


def cited_in(text: str) -> set[str]:
    """Return the ids that a text cites, in the form that the pages use."""
    return {_as_in_pages(word) for word in CITED.findall(text)}


def cited_in_name(name: str) -> set[str]:
    """Return the ids in the name of a test, in the form that the pages use: `W04` is a fault, `W_46` the rule W-46."""
    rules = {f"{letter}-{number}" for letter, number in _RULE_IN_NAME.findall(name)}
    return rules | {_as_in_pages(word) for word in name.split("_") if CITED.fullmatch(word)}


def _as_in_pages(word: str) -> str:
    """Return the id as the pages write it: M8a is part of M8, P08 is P8, W46 is W-46 unless there is a fault W46."""
    match word[0]:
        case "M":
            return word[:2]
        case "P":
            return f"P{int(word[1:])}"
        case "W" | "C" if word not in known_ids():
            return f"{word[0]}-{word[-2:]}"
        case _:
            return word


def written() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file that may cite an id."""
    python = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "systemd").iterdir()]
    for path in [*python, *pages]:
        yield name_of(path), path.read_text()


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment and each docstring of a Python file, strings below a constant included."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(words))):
                yield node.lineno, words


def _tests_of(path: Path) -> Iterator[Test]:
    text = path.read_text()
    texts = list(prose(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            ids = cited_in_name(node.name)
            for line, words in texts:
                if first <= line <= (node.end_lineno or first):
                    ids |= cited_in(words)
            yield Test(node.name, name_of(path), frozenset(ids))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text(), proofs()))
