"""Test which shell commands need no permission: known read-only forms and nothing else (W-39)."""

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.tools.shell.read_only_commands import read_only, tokens_of

READ_ONLY = [
    "ls",
    "ls -la src",
    "ls *.py",
    "cat README.md | head -n 20",
    "grep -rn 'foo$' src | wc -l",
    'grep -n "a b" x.txt',
    "find . -name '*.py' -type f",
    "git status",
    "git status --short && git diff --stat",
    "git log --oneline -n 5 -- src",
    "git log -5",
    "git show HEAD~1",
    "git branch -a",
    "git branch",
    "git tag -l",
    "git remote -v",
    "git config --get user.name",
    "git diff --cached; git diff",
    "git blame -L 1,5 a.py",
    "pwd && echo done",
    "date +%Y",
    "sort -rn x.txt",
    "rg -n foo src",
    "tail -n 5 log.txt || true",
    "ls;",
    "echo ';' '|' \"&&\"",
    'echo "a \\"b\\" \\$x"',
    "diff -u a.txt b.txt",
    "free -h",
    "echo ''",
]

NOT_READ_ONLY = [
    "",
    ";",
    "&&",
    "ls &&",
    "| ls",
    "rm -rf .",
    "ls; rm x",
    "ls && rm x",
    "ls | sh",
    "ls & rm x",
    "ls &",
    "ls\nrm x",
    "ls\r\nrm x",
    "echo $(rm x)",
    "echo `rm x`",
    'echo "$(rm x)"',
    'echo "`rm x`"',
    "echo $HOME",
    "echo x > file",
    "echo x >> file",
    "echo x>file",
    "echo x 2>file",
    "cat < file",
    "cat <(rm x)",
    "ls >(rm x)",
    "(rm x)",
    "{ rm x; }",
    "echo {a,b}",
    "FOO=1 ls",
    "PATH=. ls",
    "./ls",
    "/bin/ls",
    "../ls",
    "env rm x",
    "nice rm x",
    "nohup rm x",
    "time rm x",
    "timeout 5 rm x",
    "xargs rm",
    "find . | xargs rm",
    "command rm x",
    "exec rm x",
    "sh -c 'rm x'",
    "kill 1",
    "killall x",
    "set -e",
    "unset X",
    "top",
    "cat /etc/passwd",
    "cat ~/.ssh/id_rsa",
    "cat ../../etc/passwd",
    "cat src/../../x",
    "grep -f/etc/passwd x",
    "grep --file=/etc/passwd x",
    "find . -delete",
    "find . -exec rm {} +",
    "find . -execdir rm x",
    "find . -ok rm x",
    "find . -fprintf out x",
    "find . -name x*",
    "git branch -D main",
    "git branch new",
    "git branch -m a b",
    "git tag -d v1",
    "git tag v2",
    "git remote add x y",
    "git config user.name x",
    "git config --list",
    "git config --get http.extraheader",
    "ps auxe",
    "printenv",
    "git config --get-urlmatch --global x",
    "git diff --output=x",
    "git diff --ext-diff",
    "git log --output=x",
    "git grep -O x",
    "git grep --open-files-in-pager x",
    "git push",
    "git commit -m x",
    "git checkout .",
    "git -c core.pager=x status",
    "git --exec-path=. status",
    "git",
    "git diff *",
    "git show HEAD:* --output=x",
    "rg --pre cat x",
    "rg --pre=cat x",
    "sort -o out in",
    "sort --output=out in",
    "sort --compress-program=sh x",
    "sort -rno out in",
    "uniq in out",
    "date -s 2020-01-01",
    "date --set=x",
    "hostname evil",
    "tree -o out",
    "tail -f x",
    "ls 'unfinished",
    "ls \\",
    "ls #comment",
    "!!",
    "wc --files0-from=x",
    "wc --fi=x",
    "du --files0=x",
    "sort ';' cat -o out",
    'sort "|" cat -o out',
    "sort \\; cat -o out",
    "find '|' echo -delete",
    "rg x '&&' echo --pre=./run.sh",
    "git diff '|' echo --output=x",
    "grep -R x .",
    "grep -nR x .",
    "grep --deref x .",
    "find -L . -name x",
    "find . -follow",
    "ls -LR",
    "ls -l --dereference",
    "rg -nL x",
    "rg -nz x",
    "rg --follow x",
    "diff -l a b",
    "free -s 1",
    "??? x",
]


@pytest.mark.parametrize("command", READ_ONLY)
def test_a_known_read_only_form_needs_no_permission(command: str) -> None:
    assert read_only(command) is not None


@pytest.mark.parametrize("command", NOT_READ_ONLY)
def test_every_other_command_needs_permission(command: str) -> None:
    assert read_only(command) is None


def test_words_that_may_be_paths_are_returned() -> None:
    parsed = read_only("cat a.txt 'b c' | grep -n x d/e")
    assert parsed is not None
    assert set(parsed.words) == {"a.txt", "b c", "x", "d/e"}


def test_values_of_options_that_may_be_paths_are_returned() -> None:
    parsed = read_only("grep --file=a -flink x")
    assert parsed is not None
    assert {"a", "link", "x"} <= set(parsed.words)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab -=.'\"\\;|&\t$", max_size=16))
def test_words_are_split_as_the_shell_does(text: str) -> None:
    """Without operators, bash sees exactly the same words."""
    tokens = tokens_of(f"show {text}")
    if tokens is None or any(token.is_operator for token in tokens):
        return
    shell = subprocess.run(
        ["bash", "-c", 'show() { printf "%s\\0" show "$@"; }; eval "$1"', "bash", f"show {text}"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert shell.stdout.split("\0")[:-1] == [token.text for token in tokens]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_an_unknown_command_is_never_taken_for_a_known_one(words: list[str]) -> None:
    """However the words are quoted, the first one is the program that the shell would run."""
    command = " ".join(shlex.quote(word) for word in ["unknown-program", *words])
    assert read_only(command) is None
    assert read_only(f"ls && {command}") is None
    assert read_only(f"ls | {command}") is None


@given(st.text(alphabet="lsrmcat -;|&<>()$`'\"\\\n=/.~{}#*!", max_size=30))
def test_no_text_with_shell_expansions_is_read_only(command: str) -> None:
    parsed = read_only(command)
    if parsed is not None:
        tokens = tokens_of(command.strip())
        assert tokens is not None
        assert "rm" not in parsed.programs
        assert {token.text for token in tokens if token.is_operator} <= {"|", "||", "&&", ";"}
