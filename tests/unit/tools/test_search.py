"""ls, glob and grep: what they find, what they leave out, and their bounds."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run
from worker.tools.search.ignore import Ignore, parse
from worker.tools.search.patterns import compile_glob, expand_braces, matches, split


def _run(tmp_path, story, **more):
    async def main():
        async with bench(tmp_path, **more) as place:
            await story(place)

    run(main())


def _make(root, *paths):
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
        ("**/" * 30 + "z", "/".join("a" * 60), False),  # takes no time
    ],
)
def test_patterns(pattern: Any, path: Any, fits: bool) -> None:
    assert matches(compile_glob(split(pattern)), split(path)) is fits


def test_braces() -> None:
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
def test_gitignore_lines(lines: str, path: str, is_directory: bool, is_ignored: bool) -> None:
    rules = Ignore(((0, parse(lines)),))
    assert rules.is_ignored(path.split("/"), is_directory) is is_ignored


def test_ls_shows_a_tree_without_junk(tmp_path: Path) -> None:
    _make(tmp_path, "b/c.txt", "b/d/e.txt", "a.txt", "node_modules/x.js", "x.pyc", "skip/y", ".git/config", "tmp.bak")
    (tmp_path / ".gitignore").write_text("skip/\n")

    async def story(place):
        result = await place.call("ls", ignore=["*.bak"])
        assert result.content == (
            f"- {tmp_path}/\n  - .gitignore\n  - a.txt\n  - b/\n    - c.txt\n    - d/\n      - e.txt"
        )
        assert result.metadata == {"number_of_files": 6, "truncated": False}
        shallow = await place.call("ls", path="b", depth=1)
        assert shallow.content == f"(Only 1 levels are listed)\n- {tmp_path}/b/\n  - c.txt\n  - d/"
        assert "does not exist" in (await place.call("ls", path="nope")).content
        assert "not a directory" in (await place.call("ls", path="a.txt")).content

    _run(tmp_path, story)


def test_ls_is_bounded(tmp_path: Path) -> None:
    _make(tmp_path, *(f"f{number}" for number in range(30)))

    async def story(place):
        result = await place.call("ls")
        assert result.content.startswith("(There is more: only the first 10 entries)\n")
        assert result.metadata == {"number_of_files": 10, "truncated": True}

    _run(tmp_path, story, limits=Limits(walk_entries_max=10))


def test_glob_gives_the_newest_first(tmp_path: Path) -> None:
    _make(tmp_path, "old.py", "d/mid.py", "new.py", "x.txt", "node_modules/no.py", ".hidden/h.py", "logs/l.py")

    async def story(place):
        result = await place.call("glob", pattern="*.py")
        assert result.content.split("\n") == [str(tmp_path / name) for name in ("new.py", "d/mid.py", "old.py")]
        assert result.metadata == {"number_of_files": 3, "truncated": False}
        assert (await place.call("glob", pattern="*.{txt,md}")).content == str(tmp_path / "x.txt")
        assert (await place.call("glob", pattern="d/*.py")).content == str(tmp_path / "d/mid.py")
        assert (await place.call("glob", pattern="*.py", path="d")).content == str(tmp_path / "d/mid.py")
        assert (await place.call("glob", pattern=".hidden/*")).content == str(tmp_path / ".hidden/h.py")
        assert (await place.call("glob", pattern=f"{tmp_path}/*.txt")).content == str(tmp_path / "x.txt")
        assert (await place.call("glob", pattern="*.rs")).content == "No files found"

    _run(tmp_path, story)


def test_glob_is_bounded(tmp_path: Path) -> None:
    _make(tmp_path, *(f"f{number}" for number in range(30)))

    async def story(place):
        result = await place.call("glob", pattern="f*")
        assert result.content.split("\n")[:2] == [str(tmp_path / "f29"), str(tmp_path / "f28")]
        assert "There are more" in result.content
        assert result.metadata == {"number_of_files": 5, "truncated": True}

    _run(tmp_path, story, limits=Limits(search_results_max=5))


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("needle")

    async def story(place):
        for name, args in (("ls", {}), ("glob", {"pattern": "*.txt"}), ("grep", {"pattern": "needle"})):
            result = await place.call(name, **args)
            assert "bad?.txt" in result.content
            result.content.encode()

    _run(tmp_path, story)


RIPGREP = shutil.which("rg", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture(params=["own", "rg"])
def env(request):
    """The search of our own, and ripgrep where there is one."""
    if request.param == "rg":
        assert RIPGREP is not None, "the test requirements bring ripgrep along"
        return {"PATH": f"{Path(RIPGREP).parent}:{os.environ['PATH']}"}
    return {"PATH": "/nonexistent"}


def test_grep_finds_lines_newest_file_first(tmp_path: Path, env: Any) -> None:
    _make(tmp_path, "old.txt", "new.py", "node_modules/no.txt", ".hidden")
    (tmp_path / "multi.txt").write_text("no\n  alpha beta\nalpha\n")
    os.utime(tmp_path / "multi.txt", (2_000_000, 2_000_000))

    async def story(place):
        result = await place.call("grep", pattern="content|al+pha")
        assert result.content == (
            f"Found 4 matches\n\n{tmp_path}/multi.txt:\n  Line 2, Char 3: " + "  alpha beta\n"
            f"  Line 3, Char 1: alpha\n\n{tmp_path}/new.py:\n  Line 1, Char 1: content of new.py\n\n"
            f"{tmp_path}/old.txt:\n  Line 1, Char 1: content of old.txt"
        )
        assert result.metadata == {"number_of_matches": 4, "truncated": False}
        only = await place.call("grep", pattern="content", include="*.{py,rs}")
        assert "new.py" in only.content
        assert "old.txt" not in only.content
        assert "Found 1 match\n" in (await place.call("grep", pattern="beta", path="multi.txt")).content
        assert (await place.call("grep", pattern="nowhere")).content == "No matches found"

    _run(tmp_path, story, env=env)


def test_grep_takes_plain_text_and_says_what_is_wrong_with_a_pattern(tmp_path: Path, env: Any) -> None:
    (tmp_path / "a.txt").write_text("f(x) and -n\n")

    async def story(place):
        assert "Line 1" in (await place.call("grep", pattern="f(", literal_text=True)).content
        assert "Line 1" in (await place.call("grep", pattern="-n", literal_text=True)).content
        bad = await place.call("grep", pattern="f(")
        assert bad.is_error
        assert "cannot search" in bad.content
        assert (await place.call("grep", pattern="")).is_error

    _run(tmp_path, story, env=env)


def test_grep_is_bounded_in_lines_and_results(tmp_path: Path, env: Any) -> None:
    (tmp_path / "a.txt").write_text("x" * 10_000 + "\n" + "x\n" * 50)
    (tmp_path / "binary").write_bytes(b"x\0x\n")

    async def story(place):
        result = await place.call("grep", pattern="x+")
        assert result.metadata == {"number_of_matches": 10, "truncated": True}
        assert "x" * 500 + "..." in result.content
        assert "x" * 501 not in result.content
        assert "binary" not in result.content

    _run(tmp_path, story, limits=Limits(search_results_max=10), env=env)


def test_a_pattern_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    """In a thread it would hold the interpreter and with it the whole worker (W-43)."""
    (tmp_path / "a.txt").write_text("a" * 60 + "!\n")

    async def story(place):
        result = await place.call("grep", pattern="(a+)+$")
        assert result.is_error
        assert "took longer than 0.3 s" in result.content

    _run(tmp_path, story, limits=Limits(search_deadline_s=0.3), env={"PATH": "/nonexistent"})
