"""Replacement of text: only a unique match is replaced, and nothing else changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools.files.replace import NoMatch, SeveralMatches, replace_text

small = st.text("ab\n", max_size=12)
needle = st.text("ab\n", min_size=1, max_size=4)
line_ends = st.lists(st.sampled_from(["\n", "\r\n"]), min_size=12, max_size=12)


def _starts(text: str, part: str) -> list[int]:
    """Return all positions of `part`, also overlapping ones."""
    return [start for start in range(len(text)) if text.startswith(part, start)]


def _with_ends(text: str, ends: list[str]) -> str:
    pieces = text.split("\n")
    return pieces[0] + "".join(end + piece for end, piece in zip(ends, pieces[1:], strict=False))


@given(small, needle, small)
def test_a_match_is_replaced_only_when_it_is_the_only_one(text: str, old: str, new: str) -> None:
    positions = _starts(text, old)
    if not positions:
        with pytest.raises(NoMatch):
            replace_text(text, old, new, replace_all=False)
    elif len(positions) > 1:
        with pytest.raises(SeveralMatches):
            replace_text(text, old, new, replace_all=False)
    else:
        replaced = replace_text(text, old, new, replace_all=False)
        assert replaced.text == text[: positions[0]] + new + text[positions[0] + len(old) :]
        assert replaced.count == 1


@given(small, needle, small)
def test_replace_all_replaces_the_matches_of_str_replace(text: str, old: str, new: str) -> None:
    if old in text:
        replaced = replace_text(text, old, new, replace_all=True)
        assert replaced.text == text.replace(old, new)
        assert replaced.count == text.count(old)


@given(small, needle, small, st.booleans())
def test_a_file_with_crlf_keeps_its_line_ends(text: str, old: str, new: str, replace_all: bool) -> None:
    """The result equals that for LF, with each line end replaced by CRLF."""
    if "\n" not in text:
        return
    crlf = text.replace("\n", "\r\n")
    try:
        expected = replace_text(text, old, new, replace_all=replace_all)
    except (NoMatch, SeveralMatches) as error:
        with pytest.raises(type(error)):
            replace_text(crlf, old, new, replace_all=replace_all)
    else:
        assert replace_text(crlf, old, new, replace_all=replace_all).text == expected.text.replace("\n", "\r\n")


@given(small, line_ends, needle, small)
def test_mixed_line_ends_outside_the_match_are_kept(text: str, ends: list[str], old: str, new: str) -> None:
    mixed = _with_ends(text, ends)
    positions = _starts(text, old)
    if len(positions) == 1:
        replaced = replace_text(mixed, old, new, replace_all=False).text
        before = _with_ends(text[: positions[0]], ends)
        after_index = text[: positions[0] + len(old)].count("\n")
        after = _with_ends(text[positions[0] + len(old) :], ends[after_index:])
        assert replaced.startswith(before)
        assert replaced.endswith(after)
        assert replaced.replace("\r\n", "\n") == text[: positions[0]] + new + text[positions[0] + len(old) :]


def test_an_old_text_with_crlf_matches_too() -> None:
    assert replace_text("a\r\nb\r\n", "a\r\nb", "x\ny", replace_all=False).text == "x\r\ny\r\n"
