"""Check that `docs/faults.md` and `docs/rules.md` list every id that is cited, and the tests that prove each row."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.base.failpoints import POINTS
from tests.architecture.rules import (
    FAULTS,
    NOTES,
    PAGES,
    Row,
    all_tests,
    cited_in,
    known_ids,
    proofs,
    render,
    written,
)
from tests.architecture.rules import rows as rows_of

ROWS = [row for page in PAGES for row in rows_of(page)]

_TEST_NAME = re.compile(r"`(test_\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_the_generated_column_equals_the_tests(page: Path) -> None:
    text = page.read_text()
    assert text == render(text, proofs()), "tests have changed: write the column again with `make rules`"


async def test_every_cited_id_has_a_row() -> None:
    unknown = {f"{name} cites {each}" for name, text in written() for each in cited_in(text) - known_ids()}
    unknown |= {f"{test.file}: {test.name} cites {each}" for test in all_tests() for each in test.ids - known_ids()}
    assert unknown == set(), "give it a row in docs/faults.md or docs/rules.md, or say the rule in words"


async def test_every_id_has_one_row() -> None:
    assert [each for each, count in Counter(row.id for row in ROWS).items() if count > 1] == []


async def test_every_row_has_tests_or_a_reason() -> None:
    bare = [row.id for row in ROWS if row.id not in proofs() and not row.notes]
    assert bare == [], "name a test after it, or begin a note with one of: " + ", ".join(NOTES)


async def test_every_note_is_true() -> None:
    assert [f"{row.id}: {problem}" for row in ROWS for note in row.notes for problem in _problems(row, note)] == []


def _problems(row: Row, note: str) -> Iterator[str]:
    proved = proofs()
    named, cited = set(_TEST_NAME.findall(note)), cited_in(note)
    if missing := named - {test.name for test in all_tests()}:
        yield f"there is no test {', '.join(missing)}"
    if twice := named & set(proved.get(row.id, ())):
        yield f"listed already because it cites the id: {', '.join(twice)}"
    if note.startswith("by other names: ") and not named:
        yield "name a test"
    if note.startswith("by the tests of ") and not cited:
        yield "cite a row"
    if note.startswith("by the tests of ") and (unproved := cited - set(proved)):
        yield f"no test cites {', '.join(unproved)}"


async def test_the_page_explains_every_failpoint() -> None:
    text = FAULTS.read_text()
    assert [point for point in POINTS if f"`{point}`" not in text] == []
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", text.partition("## Moments")[2].partition("## Worker")[0])
    assert set(named) == set(POINTS), "the page names a failpoint that does not exist"
