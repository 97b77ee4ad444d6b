"""Edits whose white space is not exact, several edits in one step, and what is asked before a file changes."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run
from worker.toolkit.tool import AccessRequest, ToolDenied
from worker.tools.files.diff import excerpt
from worker.tools.files.replace import NoMatch, SeveralMatches
from worker.tools.files.whitespace_match import describe_closest_lines, indent_unit, replace_ignoring_whitespace

PYTHON = "def f():\n    if a:\n        return 1\n    return 2\n"


@pytest.mark.parametrize(
    ("text", "old", "new", "becomes"),
    [
        # The model indented with two blanks, the file has four.
        (PYTHON, "if a:\n  return 1", "if b:\n  return 3\n  # end", PYTHON.replace("a:", "b:").replace(
            "        return 1\n", "        return 3\n        # end\n")),
        # The file has tabs, the model blanks.
        ("x {\n\ty {\n\t\tz\n\t}\n}\n", "y {\n    z\n}", "y {\n    w\n    v\n}", "x {\n\ty {\n\t\tw\n\t\tv\n\t}\n}\n"),
        # Blanks inside of a line.
        ("a  =  1\nb = 2\n", "a = 1", "a = 3", "a = 3\nb = 2\n"),
        # CRLF stays, the last line without an end stays without.
        ("a\r\n  b\r\n  c", "b\nc", "d\n  e", "a\r\n  d\r\n    e"),
        # Deleted.
        ("a\n  b  \nc\n", " b", "", "a\nc\n"),
    ],
)  # fmt: skip
def test_lines_match_without_their_white_space_and_are_indented_as_the_file_is(text, old, new, becomes):
    assert replace_ignoring_whitespace(text, old, new, replace_all=False).text == becomes


def test_lines_that_match_without_their_white_space_must_be_unique_unless_all_are_requested():
    with pytest.raises(SeveralMatches):
        replace_ignoring_whitespace("  a\nb\n    a\n", "a", "c", replace_all=False)
    assert replace_ignoring_whitespace("  a\nb\n    a\n", "a", "c", replace_all=True).text == "  c\nb\n    c\n"
    for old in ("nothing", "", " \n "):
        with pytest.raises(NoMatch):
            replace_ignoring_whitespace("  a\n", old, "c", replace_all=False)


@given(st.lists(st.sampled_from(["a", "  b", "\tc", "", "d  e"]), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_what_is_replaced_by_itself_keeps_its_words_and_the_other_lines(lines, end):
    text = end.join(lines)
    try:
        replaced = replace_ignoring_whitespace(text, "b\n\tc", "b\n\tc", replace_all=True)
    except NoMatch:
        return
    assert replaced.text.split() == text.split()
    assert replaced.text.count("\n") == text.count("\n")


def test_the_unit_of_indentation():
    assert indent_unit(["a", "\tb"]) == "\t"
    assert indent_unit(["    a", "  b", "   "]) == "  "
    assert indent_unit([]) == "  "


def test_the_most_similar_lines_are_shown():
    shown = describe_closest_lines("x\n\tone\n  two\nthree\n", "one\ntwo\nthre")
    assert "lines are 2 to 4" in shown
    assert "→one\n··two\nthree" in shown
    assert describe_closest_lines("a\nb\n", "quite\nother") == ""
    assert describe_closest_lines("a\n" * 100_000, "b\n" * 39) == ""


def _run(tmp_path, story):
    async def main():
        async with bench(tmp_path) as place:
            await story(place)

    run(main())


def test_an_edit_that_ignored_white_space_says_so(tmp_path):
    (tmp_path / "a.py").write_text(PYTHON)

    async def story(place):
        await place.call("view", file_path="a.py")
        result = await place.call("edit", file_path="a.py", old_string="if a:\n  return 1", new_string="pass")
        assert "differences in white space were ignored" in result.content
        assert (tmp_path / "a.py").read_text() == "def f():\n    pass\n    return 2\n"
        missing = await place.call("edit", file_path="a.py", old_string="def g():\n  pass", new_string="x")
        assert missing.is_error
        assert "most similar lines" in missing.content

    _run(tmp_path, story)


def test_several_edits_in_one_step(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")

    async def story(place):
        await place.call("view", file_path="a.txt")
        edits = [
            {"old_string": "one", "new_string": "1"},
            {"old_string": "nothing", "new_string": "x"},
            {"old_string": "two\n", "new_string": ""},
        ]
        result = await place.call("multiedit", file_path="a.txt", edits=edits)
        assert not result.is_error
        assert (tmp_path / "a.txt").read_text() == "1\nthree\n"
        assert result.metadata["edits_applied"] == 2
        assert [fault["index"] for fault in result.metadata["edits_failed"]] == [2]
        assert "edit 2" in result.content
        assert result.metadata["old_content"] == "one\ntwo\nthree\n"

    _run(tmp_path, story)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([], "1 to 500"),
        ([{"old_string": "nothing", "new_string": "x"}], "none of the edits could be applied"),
        ([{"old_string": "one", "new_string": "1"}, {"old_string": "1", "new_string": "one"}], "unchanged"),
        ([{"old_string": "one", "new_string": "1"}, {"old_string": "", "new_string": "x"}], "only the first"),
        ([{"old_string": "", "new_string": "x"}], "it exists"),
    ],
)
def test_edits_that_come_to_nothing_write_nothing(tmp_path, edits, said):
    (tmp_path / "a.txt").write_text("one\n")

    async def story(place):
        await place.call("view", file_path="a.txt")
        result = await place.call("multiedit", file_path="a.txt", edits=edits)
        assert result.is_error
        assert said in result.content
        assert (tmp_path / "a.txt").read_text() == "one\n"

    _run(tmp_path, story)


def test_a_new_file_by_several_edits(tmp_path):
    async def story(place):
        edits = [{"old_string": "", "new_string": "a b\n"}, {"old_string": "b", "new_string": "c"}]
        assert not (await place.call("multiedit", file_path="new.txt", edits=edits)).is_error
        assert (tmp_path / "new.txt").read_text() == "a c\n"

    _run(tmp_path, story)


class RecordedRequest:
    """A gate that a test opens."""

    def __init__(self) -> None:
        self.wishes: asyncio.Queue[AccessRequest] = asyncio.Queue()
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def permit(self, wish: AccessRequest) -> None:
        self.wishes.put_nowait(wish)
        if not await self.answer:
            raise ToolDenied("no")


@pytest.mark.parametrize("name", ["edit", "multiedit", "write"])
def test_what_is_asked_shows_the_change_and_a_file_that_changes_meanwhile_is_left_alone(tmp_path, name):
    (tmp_path / "a.txt").write_text("one\n")
    args = {
        "edit": {"old_string": "one", "new_string": "two"},
        "multiedit": {"edits": [{"old_string": "one", "new_string": "two"}]},
        "write": {"content": "two\n"},
    }[name]

    async def story(place):
        await place.call("view", file_path="a.txt")
        place.gate = gate = RecordedRequest()
        call = asyncio.create_task(place.call(name, file_path="a.txt", **args))
        wish = await gate.wishes.get()
        assert (wish.tool, wish.action, wish.path) == (name, "write", str(tmp_path))
        assert wish.params["old_content"] == "one\n"
        assert wish.params["new_content"] == "two\n"
        (tmp_path / "a.txt").write_text("another program\n")
        gate.answer.set_result(True)
        result = await call
        assert result.is_error
        assert "has changed" in result.content
        assert (tmp_path / "a.txt").read_text() == "another program\n"

    _run(tmp_path, story)


@pytest.mark.parametrize("place_of_change", ["start", "middle", "end", "everywhere", "new"])
def test_what_is_asked_about_a_long_file_is_the_part_that_changes(tmp_path, place_of_change):
    """Clients send the request back whole, and it is stored: a few megabytes could not be answered any more."""
    lines = [f'line {number} of a "long" file\n' for number in range(200_000)]
    (tmp_path / "long.txt").write_text("".join(lines))
    at = {"start": 0, "middle": 100_000, "end": 199_999}.get(place_of_change, 0)
    asked: list[AccessRequest] = []

    class Asks:
        async def permit(self, wish: AccessRequest) -> None:
            asked.append(wish)

    async def story(place):
        place.gate = Asks()
        await place.call("view", file_path="long.txt")
        if place_of_change == "everywhere":
            args = {"old_string": "line", "new_string": "LINE", "replace_all": True}
            result = await place.call("edit", file_path="long.txt", **args)
        elif place_of_change == "new":
            result = await place.call("write", file_path="new.txt", content="".join(lines))
        else:
            result = await place.call("edit", file_path="long.txt", old_string=lines[at], new_string="another\n")
        assert not result.is_error, result.content

    async def main():
        async with bench(tmp_path) as place:
            await story(place)

    run(main())
    [wish] = asked
    assert wish.params is not None
    old, new = str(wish.params["old_content"]), str(wish.params["new_content"])
    assert len(old) + len(new) < 1024 * 1024 + 1000
    if place_of_change in ("everywhere", "new"):
        assert "bytes left out" in new
    else:
        assert lines[at] in old
        assert "another\n" in new
        assert "equal lines left out" in old
        assert (tmp_path / "long.txt").read_text() == "".join([*lines[:at], "another\n", *lines[at + 1 :]])


@given(st.text(alphabet="ab\n\r", max_size=60), st.text(alphabet="ab\n\r", max_size=60), st.integers(8, 200))
def test_an_excerpt_is_the_whole_or_shows_that_it_is_none(old, new, most):
    one, other = excerpt(old, new, most)
    if len(old) + len(new) <= most:
        assert (one, other) == (old, new)
    else:
        assert (one == other) is (old == new) or "left out" in one + other
