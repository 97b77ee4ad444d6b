"""Test ls, glob and grep: what they find, what they leave out, and their limits."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from worker.tools.search.ignore import Ignore, parse
from worker.tools.search.patterns import compile_glob, expand_braces, matches, split


def _create(root: Path, *paths: str) -> None:
    """Create files whose modification times increase in this order."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"content of {path}\n")
        os.utime(root / path, (1_000_000 + number, 1_000_000 + number))


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.py", "a.py", True),
        ("*.py", "d/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "d/e/a.py", True),
        ("d/**", "d/e/a.py", True),
        ("d/**/a.py", "d/a.py", True),
        ("d/**/a.py", "e/a.py", False),
        ("a?c", "abc", True),
        ("[ab].txt", "b.txt", True),
        ("*", "a/b", False),
        ("**/x/**/y", "a/x/b/c/y", True),
        ("**/" * 30 + "z", "/".join("a" * 60), False),  # without exponential backtracking
    ],
)
def test_a_glob_pattern_matches_a_path(pattern: str, path: str, fits: bool) -> None:
    assert matches(compile_glob(split(pattern)), split(path)) is fits


def test_braces_are_expanded_up_to_a_limit() -> None:
    assert sorted(expand_braces("{a,b}/*.{c,d{e,f}}")) == ["a/*.c", "a/*.de", "a/*.df", "b/*.c", "b/*.de", "b/*.df"]
    assert expand_braces("a}b{c") == ["a}b{c"]
    assert len(expand_braces("{a,b}" * 40)) == 64


@pytest.mark.parametrize(
    ("lines", "path", "is_directory", "is_ignored"),
    [
        ("*.log", "d/x.log", False, True),
        ("*.log\n!keep.log", "keep.log", False, False),
        ("/only", "only", False, True),
        ("/only", "d/only", False, False),
        ("d/x", "d/x", False, True),
        ("d/x", "e/d/x", False, False),
        ("dir/", "dir", True, True),
        ("dir/", "dir", False, False),
        ("**/deep", "a/b/deep", False, True),
        ("# comment\n\n  \n", "# comment", False, False),
        ("\\#odd", "#odd", False, True),
    ],
)
def test_gitignore_lines_are_applied(lines: str, path: str, is_directory: bool, is_ignored: bool) -> None:
    rules = Ignore(((0, parse(lines)),))
    assert rules.is_ignored(path.split("/"), is_directory) is is_ignored


async def test_ls_shows_a_tree_without_ignored_files(tmp_path: Path) -> None:
    _create(tmp_path, "b/c.txt", "b/d/e.txt", "a.txt", "node_modules/x.js", "x.pyc", "skip/y", ".git/config", "tmp.bak")
    (tmp_path / ".gitignore").write_text("skip/\n")

    async with bench(tmp_path) as tools:
        result = await tools.call("ls", ignore=["*.bak"])
        assert result.content == (
            f"- {tmp_path}/\n  - .gitignore\n  - a.txt\n  - b/\n    - c.txt\n    - d/\n      - e.txt"
        )
        assert result.metadata == {"number_of_files": 6, "truncated": False}
        shallow = await tools.call("ls", path="b", depth=1)
        assert shallow.content == f"(Only 1 levels are listed)\n- {tmp_path}/b/\n  - c.txt\n  - d/"
        assert "does not exist" in (await tools.call("ls", path="nope")).content
        assert "not a directory" in (await tools.call("ls", path="a.txt")).content


async def test_ls_is_bounded(tmp_path: Path) -> None:
    _create(tmp_path, *(f"f{number}" for number in range(30)))

    async with bench(tmp_path, limits=Limits(walk_entries_max=10)) as tools:
        result = await tools.call("ls")
        assert result.content.startswith("(There is more: only the first 10 entries)\n")
        assert result.metadata == {"number_of_files": 10, "truncated": True}


async def test_glob_lists_the_newest_files_first(tmp_path: Path) -> None:
    _create(tmp_path, "old.py", "d/mid.py", "new.py", "x.txt", "node_modules/no.py", ".hidden/h.py", "logs/l.py")

    async with bench(tmp_path) as tools:
        result = await tools.call("glob", pattern="*.py")
        assert result.content.split("\n") == [str(tmp_path / name) for name in ("new.py", "d/mid.py", "old.py")]
        assert result.metadata == {"number_of_files": 3, "truncated": False}
        assert (await tools.call("glob", pattern="*.{txt,md}")).content == str(tmp_path / "x.txt")
        assert (await tools.call("glob", pattern="d/*.py")).content == str(tmp_path / "d/mid.py")
        assert (await tools.call("glob", pattern="*.py", path="d")).content == str(tmp_path / "d/mid.py")
        assert (await tools.call("glob", pattern=".hidden/*")).content == str(tmp_path / ".hidden/h.py")
        assert (await tools.call("glob", pattern=f"{tmp_path}/*.txt")).content == str(tmp_path / "x.txt")
        assert (await tools.call("glob", pattern="*.rs")).content == "No files found"


async def test_glob_is_bounded(tmp_path: Path) -> None:
    _create(tmp_path, *(f"f{number}" for number in range(30)))

    async with bench(tmp_path, limits=Limits(search_results_max=5)) as tools:
        result = await tools.call("glob", pattern="f*")
        assert result.content.split("\n")[:2] == [str(tmp_path / "f29"), str(tmp_path / "f28")]
        assert "There are more" in result.content
        assert result.metadata == {"number_of_files": 5, "truncated": True}


async def test_file_names_that_are_not_utf8_are_shown_with_replacements(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("needle")

    async with bench(tmp_path) as tools:
        for name, args in (("ls", {}), ("glob", {"pattern": "*.txt"}), ("grep", {"pattern": "needle"})):
            result = await tools.call(name, **args)
            assert "bad?.txt" in result.content
            result.content.encode()


RIPGREP = shutil.which("rg", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture(params=["built-in", "rg"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return an environment without ripgrep, which uses the built-in search, or one with it."""
    if request.param == "rg":
        assert RIPGREP is not None, "the test requirements include ripgrep"
        return {"PATH": f"{Path(RIPGREP).parent}:{os.environ['PATH']}"}
    return {"PATH": "/nonexistent"}


async def test_grep_finds_lines_in_the_newest_files_first(tmp_path: Path, env: dict[str, str]) -> None:
    _create(tmp_path, "old.txt", "new.py", "node_modules/no.txt", ".hidden")
    (tmp_path / "multi.txt").write_text("no\n  alpha beta\nalpha\n")
    os.utime(tmp_path / "multi.txt", (2_000_000, 2_000_000))

    async with bench(tmp_path, env=env) as tools:
        result = await tools.call("grep", pattern="content|al+pha")
        assert result.content == (
            f"Found 4 matches\n\n{tmp_path}/multi.txt:\n  Line 2, Char 3: " + "  alpha beta\n"
            f"  Line 3, Char 1: alpha\n\n{tmp_path}/new.py:\n  Line 1, Char 1: content of new.py\n\n"
            f"{tmp_path}/old.txt:\n  Line 1, Char 1: content of old.txt"
        )
        assert result.metadata == {"number_of_matches": 4, "truncated": False}
        only = await tools.call("grep", pattern="content", include="*.{py,rs}")
        assert "new.py" in only.content
        assert "old.txt" not in only.content
        assert "Found 1 match\n" in (await tools.call("grep", pattern="beta", path="multi.txt")).content
        assert (await tools.call("grep", pattern="nowhere")).content == "No matches found"


async def test_grep_searches_for_literal_text_and_names_errors_in_a_pattern(
    tmp_path: Path, env: dict[str, str]
) -> None:
    (tmp_path / "a.txt").write_text("f(x) and -n\n")

    async with bench(tmp_path, env=env) as tools:
        assert "Line 1" in (await tools.call("grep", pattern="f(", literal_text=True)).content
        assert "Line 1" in (await tools.call("grep", pattern="-n", literal_text=True)).content
        bad = await tools.call("grep", pattern="f(")
        assert bad.is_error
        assert "cannot search" in bad.content
        assert (await tools.call("grep", pattern="")).is_error


async def test_grep_is_bounded_in_lines_and_results(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_text("x" * 10_000 + "\n" + "x\n" * 50)
    (tmp_path / "binary").write_bytes(b"x\0x\n")

    async with bench(tmp_path, limits=Limits(search_results_max=10), env=env) as tools:
        result = await tools.call("grep", pattern="x+")
        assert result.metadata == {"number_of_matches": 10, "truncated": True}
        assert "x" * 500 + "..." in result.content
        assert "x" * 501 not in result.content
        assert "binary" not in result.content


async def test_a_search_over_its_time_limit_is_ended(tmp_path: Path) -> None:
    """In a thread such a search would block the interpreter and with it the whole worker (W-43)."""
    (tmp_path / "a.txt").write_text("a" * 60 + "!\n")

    async with bench(tmp_path, limits=Limits(search_deadline_s=0.3), env={"PATH": "/nonexistent"}) as tools:
        result = await tools.call("grep", pattern="(a+)+$")
        assert result.is_error
        assert "took longer than 0.3 s" in result.content
