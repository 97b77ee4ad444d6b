"""Test edits with inexact white space, several edits in one step, and the request before a file changes."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.harness.tool_bench import bench
from worker.toolkit.tool import AccessRequest, ToolDenied
from worker.tools.files.diff import excerpt
from worker.tools.files.replace import NoMatch, SeveralMatches
from worker.tools.files.whitespace_match import describe_closest_lines, indent_unit, replace_ignoring_whitespace

PYTHON = "def f():\n    if a:\n        return 1\n    return 2\n"


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        # The model indented with two spaces, the file has four.
        (PYTHON, "if a:\n  return 1", "if b:\n  return 3\n  # end", PYTHON.replace("a:", "b:").replace(
            "        return 1\n", "        return 3\n        # end\n")),
        # The file has tabs, the model has spaces.
        ("x {\n\ty {\n\t\tz\n\t}\n}\n", "y {\n    z\n}", "y {\n    w\n    v\n}", "x {\n\ty {\n\t\tw\n\t\tv\n\t}\n}\n"),
        # Spaces inside a line.
        ("a  =  1\nb = 2\n", "a = 1", "a = 3", "a = 3\nb = 2\n"),
        # CRLF is kept, and the last line still has no line end.
        ("a\r\n  b\r\n  c", "b\nc", "d\n  e", "a\r\n  d\r\n    e"),
        # The new text is empty.
        ("a\n  b  \nc\n", " b", "", "a\nc\n"),
    ],
)  # fmt: skip
def test_lines_match_without_their_white_space_and_get_the_indentation_of_the_file(
    text: str, old: str, new: str, expected: str
) -> None:
    assert replace_ignoring_whitespace(text, old, new, replace_all=False).text == expected


def test_lines_that_match_without_their_white_space_must_be_unique_unless_all_are_requested() -> None:
    with pytest.raises(SeveralMatches):
        replace_ignoring_whitespace("  a\nb\n    a\n", "a", "c", replace_all=False)
    assert replace_ignoring_whitespace("  a\nb\n    a\n", "a", "c", replace_all=True).text == "  c\nb\n    c\n"
    for old in ("nothing", "", " \n "):
        with pytest.raises(NoMatch):
            replace_ignoring_whitespace("  a\n", old, "c", replace_all=False)


@given(st.lists(st.sampled_from(["a", "  b", "\tc", "", "d  e"]), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_replacing_text_by_itself_keeps_all_words_and_lines(lines: list[str], end: str) -> None:
    text = end.join(lines)
    try:
        replaced = replace_ignoring_whitespace(text, "b\n\tc", "b\n\tc", replace_all=True)
    except NoMatch:
        return
    assert replaced.text.split() == text.split()
    assert replaced.text.count("\n") == text.count("\n")


def test_the_indentation_unit_is_a_tab_or_the_smallest_indentation() -> None:
    assert indent_unit(["a", "\tb"]) == "\t"
    assert indent_unit(["    a", "  b", "   "]) == "  "
    assert indent_unit([]) == "  "


def test_the_most_similar_lines_are_shown() -> None:
    text = describe_closest_lines("x\n\tone\n  two\nthree\n", "one\ntwo\nthre")
    assert "lines are 2 to 4" in text
    assert "→one\n··two\nthree" in text
    assert describe_closest_lines("a\nb\n", "quite\nother") == ""
    assert describe_closest_lines("a\n" * 100_000, "b\n" * 39) == ""


async def test_a_result_says_when_differences_in_white_space_were_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.py")
        result = await tools.call("edit", file_path="a.py", old_string="if a:\n  return 1", new_string="pass")
        assert "differences in white space were ignored" in result.content
        assert (tmp_path / "a.py").read_text() == "def f():\n    pass\n    return 2\n"
        missing = await tools.call("edit", file_path="a.py", old_string="def g():\n  pass", new_string="x")
        assert missing.is_error
        assert "most similar lines" in missing.content


async def test_several_edits_are_applied_in_one_step_and_the_failed_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.txt")
        edits = [
            {"old_string": "one", "new_string": "1"},
            {"old_string": "nothing", "new_string": "x"},
            {"old_string": "two\n", "new_string": ""},
        ]
        result = await tools.call("multiedit", file_path="a.txt", edits=edits)
        assert not result.is_error
        assert (tmp_path / "a.txt").read_text() == "1\nthree\n"
        assert result.metadata["edits_applied"] == 2
        assert [fault["index"] for fault in result.metadata["edits_failed"]] == [2]
        assert "edit 2" in result.content
        assert result.metadata["old_content"] == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        ([], "1 to 500"),
        ([{"old_string": "nothing", "new_string": "x"}], "none of the edits could be applied"),
        ([{"old_string": "one", "new_string": "1"}, {"old_string": "1", "new_string": "one"}], "unchanged"),
        ([{"old_string": "one", "new_string": "1"}, {"old_string": "", "new_string": "x"}], "only the first"),
        ([{"old_string": "", "new_string": "x"}], "it exists"),
    ],
)
async def test_edits_without_an_effect_are_refused_and_write_nothing(
    tmp_path: Path, edits: list[dict[str, str]], error: str
) -> None:
    (tmp_path / "a.txt").write_text("one\n")

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.txt")
        result = await tools.call("multiedit", file_path="a.txt", edits=edits)
        assert result.is_error
        assert error in result.content
        assert (tmp_path / "a.txt").read_text() == "one\n"


async def test_several_edits_can_create_a_file(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        edits = [{"old_string": "", "new_string": "a b\n"}, {"old_string": "b", "new_string": "c"}]
        assert not (await tools.call("multiedit", file_path="new.txt", edits=edits)).is_error
        assert (tmp_path / "new.txt").read_text() == "a c\n"


class AnsweredGate:
    """Queue each request and wait for the answer of the test."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[AccessRequest] = asyncio.Queue()
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def permit(self, request: AccessRequest) -> None:
        self.requests.put_nowait(request)
        if not await self.answer:
            raise ToolDenied("no")


@pytest.mark.parametrize("name", ["edit", "multiedit", "write"])
async def test_the_request_shows_the_change_and_a_file_changed_meanwhile_is_not_written(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    args = {
        "edit": {"old_string": "one", "new_string": "two"},
        "multiedit": {"edits": [{"old_string": "one", "new_string": "two"}]},
        "write": {"content": "two\n"},
    }[name]

    async with bench(tmp_path) as tools:
        await tools.call("view", file_path="a.txt")
        tools.gate = gate = AnsweredGate()
        call = asyncio.create_task(tools.call(name, file_path="a.txt", **args))
        request = await gate.requests.get()
        assert (request.tool, request.action, request.path) == (name, "write", str(tmp_path))
        assert request.params["old_content"] == "one\n"
        assert request.params["new_content"] == "two\n"
        (tmp_path / "a.txt").write_text("another program\n")
        gate.answer.set_result(True)
        result = await call
        assert result.is_error
        assert "has changed" in result.content
        assert (tmp_path / "a.txt").read_text() == "another program\n"


@pytest.mark.parametrize("position", ["start", "middle", "end", "everywhere", "new"])
async def test_the_request_for_a_long_file_shows_only_the_part_that_changes(tmp_path: Path, position: str) -> None:
    """Clients send the whole request back, so one of several megabytes could not be answered."""
    lines = [f'line {number} of a "long" file\n' for number in range(200_000)]
    (tmp_path / "long.txt").write_text("".join(lines))
    at = {"start": 0, "middle": 100_000, "end": 199_999}.get(position, 0)
    requests: list[AccessRequest] = []

    class RecordingGate:
        async def permit(self, request: AccessRequest) -> None:
            requests.append(request)

    async with bench(tmp_path) as tools:
        tools.gate = RecordingGate()
        await tools.call("view", file_path="long.txt")
        if position == "everywhere":
            args = {"old_string": "line", "new_string": "LINE", "replace_all": True}
            result = await tools.call("edit", file_path="long.txt", **args)
        elif position == "new":
            result = await tools.call("write", file_path="new.txt", content="".join(lines))
        else:
            result = await tools.call("edit", file_path="long.txt", old_string=lines[at], new_string="another\n")
        assert not result.is_error, result.content
    [request] = requests
    assert request.params is not None
    old, new = str(request.params["old_content"]), str(request.params["new_content"])
    assert len(old) + len(new) < 1024 * 1024 + 1000
    if position in ("everywhere", "new"):
        assert "bytes left out" in new
    else:
        assert lines[at] in old
        assert "another\n" in new
        assert "equal lines left out" in old
        assert (tmp_path / "long.txt").read_text() == "".join([*lines[:at], "another\n", *lines[at + 1 :]])


@given(st.text(alphabet="ab\n\r", max_size=60), st.text(alphabet="ab\n\r", max_size=60), st.integers(8, 200))
def test_an_excerpt_is_the_whole_text_or_shows_that_text_is_left_out(old: str, new: str, size_max: int) -> None:
    one, other = excerpt(old, new, size_max)
    if len(old) + len(new) <= size_max:
        assert (one, other) == (old, new)
    else:
        assert (one == other) is (old == new) or "left out" in one + other
