"""Is a shell command one that only reads, so that nobody needs to be asked (W-39)? Pure.

The command is taken apart as the shell would, and allowed only when every part of it is a known form: a command of the
table with known options, joined by pipes, `&&`, `||` or `;`. Whatever is not understood is asked about: expansions,
redirections, subshells, assignments, wrappers such as `env` or `timeout`, paths that lead out of the workspace.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_JOINTS = frozenset({"|", "||", "&&", ";"})
_LENGTH_MAX = 4000

Check = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class ReadOnly:
    """A command that only reads. `words` are its arguments that may be paths: they must not lead out by a link."""

    words: tuple[str, ...]


def read_only(command: str) -> ReadOnly | None:
    """The command as a known reading one, None when it is anything else."""
    scan = _scan(command.strip())
    if len(command) > _LENGTH_MAX or not scan.is_plain:
        return None
    lexer = shlex.shlex(command.strip(), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:  # a quotation without its end
        return None
    words: list[str] = []
    part: list[str] = []
    for token in [*tokens, ";"] if tokens and tokens[-1] != ";" else tokens:
        if token in _JOINTS:
            if not _is_known(part, scan.has_pattern):
                return None
            words += [word for word in part[1:] if not word.startswith("-")]
            part = []
        elif token and all(sign in "();<>|&" for sign in token):
            return None
        else:
            part.append(token)
    return ReadOnly(tuple(words)) if tokens and not part else None


@dataclass(frozen=True)
class _Scan:
    """`is_plain`: nothing that the shell would expand or that ends a line. `has_pattern`: names of files come in."""

    is_plain: bool
    has_pattern: bool = False


def _scan(command: str) -> _Scan:
    quote = ""
    is_escaped = has_pattern = False
    for sign in command:
        if sign in "\n\r\0":
            return _Scan(False)
        if quote == "'":
            quote = "" if sign == "'" else quote
        elif is_escaped:
            is_escaped = False
        elif sign == "\\":
            is_escaped = True
        elif sign in "$`!":
            return _Scan(False)
        elif quote == '"':
            quote = "" if sign == '"' else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "{}#":
            return _Scan(False)
        elif sign in "*?[":
            has_pattern = True
    return _Scan(not quote and not is_escaped, has_pattern)


def _is_known(part: Sequence[str], has_pattern: bool) -> bool:
    if not part:
        return False
    name, arguments = part[0], part[1:]
    check = _COMMANDS.get(name)
    if check is None or not all(_stays(word) for word in arguments):
        return False
    # A file may be called like an option, so patterns are only for those whose every option is harmless.
    return check is _anything or (not has_pattern and check(arguments))


def _stays(word: str) -> bool:
    """Does the word, as a path or as the value of an option, stay in the workspace by its spelling?"""
    if word.startswith("-") and not word.startswith("--") and "/" in word:
        return False  # an option with a path right behind it
    value = word.partition("=")[2] if word.startswith("-") else word
    return not value.startswith(("/", "~")) and ".." not in value.split("/")


def _anything(arguments: Sequence[str]) -> bool:
    return True


def _nothing(arguments: Sequence[str]) -> bool:
    return not arguments


def _without(*options: str) -> Check:
    """Any arguments but options that begin like these."""

    def check(arguments: Sequence[str]) -> bool:
        return not any(word.startswith(options) for word in arguments)

    return check


def _only(options: str, *, letters: str = "", words: bool = True) -> Check:
    """Only these options (by name, in any order, `--name=value` too), and bundles of these letters."""
    allowed = frozenset(options.split())

    def is_allowed(word: str) -> bool:
        if not word.startswith("-") or word == "-":
            return words
        name = word.partition("=")[0]
        if name in allowed:
            return True
        bundle = word[1:]
        return not word.startswith("--") and bool(bundle) and all(sign in letters or sign.isdigit() for sign in bundle)

    def check(arguments: Sequence[str]) -> bool:
        return all(is_allowed(word) for word in arguments)

    return check


def _date(arguments: Sequence[str]) -> bool:
    return all(word.startswith("+") or word in ("-u", "-I", "--utc", "-R") for word in arguments)


def _git(arguments: Sequence[str]) -> bool:
    if not arguments:
        return False
    check = _GIT.get(arguments[0])
    return check is not None and check(arguments[1:])


def _git_config(arguments: Sequence[str]) -> bool:
    """One value that holds no secret."""
    return len(arguments) == 2 and arguments[0] == "--get" and arguments[1].startswith(("user.", "core.", "init."))


def _processes(arguments: Sequence[str]) -> bool:
    """Not with their environments, which hold keys."""
    return [*arguments] in ([], ["aux"], ["-ef"])


_LOOK = (
    "--oneline --stat --shortstat --numstat --summary --name-only --name-status --graph --all --decorate --patch "
    "--no-patch --cached --staged --no-color --color --since --until --after --before --author --grep --follow "
    "--reverse --merges --no-merges --first-parent --format --pretty --abbrev-commit --max-count --unified --date "
    "--ignore-all-space --ignore-space-change --word-diff --no-ext-diff --no-textconv --diff-filter "
    "--branches --tags --"
)
_GIT: Mapping[str, Check] = {
    "blame": _only("--line-porcelain --porcelain --show-email --", letters="Lswel"),
    "branch": _only("--list --all --remotes --verbose --show-current --no-color", letters="arv", words=False),
    "config": _git_config,
    "describe": _only("--tags --always --dirty --long --abbrev"),
    "diff": _only(_LOOK, letters="pwbU"),
    "grep": _only("--ignore-case --line-number --count --files-with-matches --word-regexp --", letters="inclwEFPABC"),
    "log": _only(_LOOK, letters="pnwiSG"),
    "ls-files": _only("--cached --deleted --modified --others --exclude-standard --stage --", letters="cdmost"),
    "remote": _only("--verbose", letters="v", words=False),
    "rev-parse": _only("--abbrev-ref --short --show-toplevel --git-dir --is-inside-work-tree --verify --symbolic"),
    "shortlog": _only("--summary --numbered --email", letters="sne"),
    "show": _only(_LOOK, letters="pwbs"),
    "status": _only("--short --branch --porcelain --untracked-files --ignored --long", letters="sbu"),
    "tag": _only("--list", letters="ln", words=False),
}
_COMMANDS: Mapping[str, Check] = {
    "basename": _anything,
    "cal": _nothing,
    "cat": _anything,
    "cut": _anything,
    "date": _date,
    "df": _anything,
    "diff": _anything,
    "dirname": _anything,
    "du": _anything,
    "echo": _anything,
    "false": _nothing,
    "find": _without("-exec", "-ok", "-delete", "-fprint", "-fls", "-files0-from"),
    "free": _anything,
    "git": _git,
    "grep": _anything,
    "groups": _nothing,
    "head": _anything,
    "hostname": _nothing,
    "id": _anything,
    "ls": _anything,
    "nl": _anything,
    "ps": _processes,
    "pwd": _anything,
    "readlink": _anything,
    "realpath": _anything,
    "rg": _without("--pre", "--hostname-bin", "--search-zip", "-z"),
    "sort": _only("--numeric-sort --reverse --unique --key --field-separator --ignore-case", letters="nruktfhVs"),
    "stat": _anything,
    "tail": _only("--lines --bytes", letters="nc"),
    "tr": _anything,
    "tree": _only("--dirsfirst --noreport", letters="adLfi"),
    "true": _nothing,
    "type": _anything,
    "uname": _anything,
    "uptime": _nothing,
    "wc": _without("--files0-from"),
    "which": _anything,
    "whoami": _nothing,
}
