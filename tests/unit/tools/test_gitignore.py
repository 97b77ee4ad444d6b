"""Compare the paths that a walk leaves out because of a `.gitignore` with those that git ignores."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from worker.tools.search.directory_walk import walk
from worker.tools.search.ignore import Ignore, parse

FILES = (
    *("a", "b", "ab", "abc", "a.c", "axc", "aXc", "x.log", "keep.log", "été", "5", ".hidden", "#odd", "!odd", "tab\t"),
    *("with space", "trailing ", "back\\slash", "star*", "a[b]c", "a]c", "a-c", "a^c", "a!c", "foobar", "foo-bar.o"),
    *("d/a", "d/x.log", "d/keep.log", "d/e/a", "d/e/f/a", "d/e/f/x.log", "e/a", "e/d/a", "foo/bar", "foo/x/bar"),
    *("foo/x/y/bar", "x/foo/bar", "build/out", "d/build/out", "d/only", "only", "docs/build"),
)
DIRECTORIES = ("empty", "d/empty", "a.d", "ab.d/sub")

CASES = {
    "a name at any depth": "a",
    "a suffix": "*.log",
    "a suffix included again": "*.log\n!keep.log",
    "included again and ignored again": "*.log\n!keep.log\nkeep.log",
    "anchored": "/only",
    "anchored by a slash inside": "d/a",
    "anchored by a slash inside, with a leading slash": "/d/a",
    "a directory only": "build/",
    "a directory only, anchored": "/build/",
    "a directory only that is a file": "a/",
    "a directory and its contents": "d",
    "a file in an ignored directory cannot be included again": "d/\n!d/a",
    "a directory included again": "/*\n!/d",
    "everything but one path": "/*\n!/d/\n/d/*\n!/d/e/",
    "any depth before": "**/bar",
    "any depth before a path": "**/foo/bar",
    "any depth between": "foo/**/bar",
    "any depth after": "foo/**",
    "any depth after, one name": "d/**/a",
    "any depth twice": "**/d/**/a",
    "any depth, a directory": "**/build/",
    "nothing but any depth": "**",
    "nothing but any depth, directories": "**/",
    "nothing but any depth, anchored": "/**",
    "three asterisks": "foo/***/bar",
    "two asterisks in a name": "a**c",
    "two asterisks before a name": "d/**a",
    "everything": "*",
    "everything included again": "*\n!*",
    "any character": "a?c",
    "any name of one character": "?",
    "a set": "a[bx]c",
    "a range": "a[a-x]c",
    "a set that is negated": "a[!bx]c",
    "a set that is negated with a caret": "a[^bx]c",
    "a set with a bracket": "a[]b]c",
    "a set with a hyphen": "a[-]c",
    "a set with a hyphen at the end": "a[x-]c",
    "a set with an escape": "a[\\]]c",
    "a set with a caret that is not first": "a[b^]c",
    "a set with an exclamation mark that is not first": "a[b!]c",
    "a class": "[[:digit:]]",
    "a class among other characters": "a[[:upper:]-]c",
    "a class that is negated": "a[![:alpha:]]c",
    "a class that does not exist": "a[[:nothing:]]c",
    "a range that is empty": "a[x-b]c",
    "a set without end": "a[bc",
    "a set without end at the end of a name": "a[b]c[",
    "an escaped bracket": "a\\[b]c",
    "an escaped asterisk": "star\\*",
    "an escaped backslash": "back\\\\slash",
    "an escape of an ordinary character": "\\a\\b\\c",
    "an escape at the end": "back\\",
    "a comment": "#odd",
    "an escaped comment": "\\#odd",
    "an escaped exclamation mark": "\\!odd",
    "a comment after a pattern": "a #odd",
    "an indented comment": " #odd",
    "an exclamation mark alone": "*\n!",
    "an exclamation mark twice": "!odd\n!!odd",
    "trailing spaces": "with space  ",
    "a trailing space that is escaped": "trailing\\ ",
    "a trailing space that is escaped, then others": "trailing\\   ",
    "a leading space": " a",
    "a trailing tab": "tab\t",
    "a trailing tab is not a space": "a\t",
    "line ends of Windows": "*.log\r\n!keep.log\r\n",
    "a byte order mark": "\ufeffa\n",
    "control characters that do not end a line": "a\x0bb\nb\x85a",
    "no newline at the end": "a\nb",
    "empty lines": "\n\n   \na\n",
    "a slash alone": "/",
    "two slashes at the end": "d//",
    "two slashes inside": "d//a",
    "two slashes at the beginning": "//only",
    "a dot as a name": "./a",
    "a hidden name": ".*",
    "an asterisk does not span directories": "foo/*/bar",
    "an asterisk between slashes": "/*/a",
    "several asterisks": "*o*b*r*",
    "asterisk and set": "*[0-9]",
    "text that is not ASCII": "été",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a git worktree with all the files; the tests write its `.gitignore`."""
    root = tmp_path_factory.mktemp("repository")
    _git(root, "init", "--quiet")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    (root / "link.d").symlink_to("d")
    return root


def _git(root: Path, *arguments: str, paths: str = "") -> str:
    """Run git without the configuration of the user and return its output."""
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, env=env, input=paths, capture_output=True, text=True).stdout


def _all_paths(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if ".git" not in path.relative_to(root).parts}


def _ignored_by_git(root: Path) -> set[str]:
    """Ask git about every path; a path in an ignored directory is ignored."""
    paths = "\0".join(sorted(_all_paths(root)))
    return set(filter(None, _git(root, "check-ignore", "--no-index", "-z", "--stdin", paths=paths).split("\0")))


def _ignored_by_walk(root: Path) -> set[str]:
    """Return the paths that a walk without the default patterns does not reach."""
    return _all_paths(root) - {"/".join(entry.names) for entry in walk(root, lambda: False, rules=Ignore(()))}


@pytest.mark.parametrize("lines", CASES.values(), ids=CASES)
async def test_a_walk_leaves_out_what_git_ignores(repository: Path, lines: str) -> None:
    (repository / ".gitignore").write_text(lines, newline="")
    assert _ignored_by_walk(repository) == _ignored_by_git(repository)


async def test_the_gitignore_in_the_deepest_directory_decides(repository: Path) -> None:
    (repository / ".gitignore").write_text("a\n/d/e/f/x.log\n")
    (repository / "d/.gitignore").write_text("!a\n/e/a\nbuild\n")
    try:
        ignored = _ignored_by_walk(repository)
        assert ignored == _ignored_by_git(repository)
    finally:
        (repository / "d/.gitignore").unlink()
    assert {"a", "e/a", "d/e/a", "d/build", "d/e/f/x.log"} <= ignored
    assert "d/a" not in ignored


@pytest.mark.parametrize("pattern", ["*a" * 20 + "b", "**/" * 30 + "z", "a*" * 60 + "[b-c]", "**/*a*" * 20 + "b"])
async def test_no_pattern_takes_long(pattern: str) -> None:
    """Backtracking over the whole path would take years and block all threads."""
    rules = Ignore(((0, parse(pattern)),))
    start = time.process_time()
    assert not rules.is_ignored(["a" * 200] * 20, is_directory=False)
    assert time.process_time() - start < 1.0
