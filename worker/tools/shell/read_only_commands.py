"""Is a shell command one that only reads, so that nobody needs to be asked (W-39)? Pure.

The command is taken apart as the shell would, and allowed only when every part of it is a known form: a command of the
table with known options, joined by pipes, `&&`, `||` or `;`. Whatever is not understood is asked about: expansions,
redirections, subshells, assignments, wrappers such as `env` or `timeout`, paths that lead out of the workspace, options
that follow symbolic links. What depends on the disk is looked up by `worker/tools/shell/read_only_paths.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

_JOINTS = frozenset({"|", "||", "&&", ";"})
_OPERATORS = "();<>|&"
_LENGTH_MAX = 4000
_PATHS_MAX = 200

Check = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class ReadOnly:
    """A command that only reads, as far as its words tell.

    `words` may be paths, `patterns` are what the shell makes names of files of: none may lead out by a link. `files`
    are those of both that must be no directories, because links in them would be followed. `programs` are the commands,
    `git` those of git.
    """

    words: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    programs: frozenset[str] = frozenset()
    git: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Token:
    """A word without its quotes, or an operator of the shell."""

    text: str
    is_operator: bool = False
    has_pattern: bool = False


def read_only(command: str) -> ReadOnly | None:
    """The command as a known reading one, None when it is anything else."""
    tokens = tokens_of(command.strip()) if len(command) <= _LENGTH_MAX else None
    if not tokens:
        return None
    if tokens[-1] != Token(";", is_operator=True):
        tokens = [*tokens, Token(";", is_operator=True)]
    words: list[str] = []
    patterns: list[str] = []
    files: list[str] = []
    programs: set[str] = set()
    git: set[str] = set()
    part: list[Token] = []
    for token in tokens:
        if not token.is_operator:
            part.append(token)
            continue
        if token.text not in _JOINTS or not _is_known(part):
            return None
        name, arguments = part[0].text, part[1:]
        programs.add(name)
        if name == "git":
            git.add(arguments[0].text)
        paths = list(paths_of(word.text for word in arguments if not word.has_pattern))
        shapes = [word.text for word in arguments if word.has_pattern]
        words += paths
        patterns += shapes
        if _COMMANDS[name].follows_inside:
            files += paths + shapes
        part = []
    if part or len(words) + len(patterns) > _PATHS_MAX:
        return None
    return ReadOnly(tuple(words), tuple(patterns), tuple(files), frozenset(programs), frozenset(git))


def paths_of(arguments: Iterable[str]) -> Iterable[str]:
    """What of these arguments may be a path: words, values of long options, any end of a bundle of short ones."""
    for word in arguments:
        if not word.startswith("-"):
            yield word
        elif word.startswith("--"):
            if value := word.partition("=")[2]:
                yield value
        else:
            yield from (word[start:] for start in range(2, len(word)))


def tokens_of(command: str) -> list[Token] | None:
    """The words and operators; None for what the shell would expand, and for what does not end."""
    tokens: list[Token] = []
    word: list[str] | None = None  # None: between words; '' is a word as well
    has_pattern = False
    quote, at = "", 0

    def end_word() -> None:
        nonlocal word, has_pattern
        if word is not None:
            tokens.append(Token("".join(word), has_pattern=has_pattern))
        word, has_pattern = None, False

    while at < len(command):
        sign = command[at]
        at += 1
        if sign in "\n\r\0":
            return None
        if quote == "'":
            if sign == "'":
                quote = ""
            else:
                assert word is not None
                word.append(sign)
            continue
        if sign == "\\":
            following = command[at : at + 1]
            if not following or following in "\n\r\0":
                return None
            word = word if word is not None else []
            if quote and following not in '$`"\\':
                word.append(sign)  # in double quotes it stands for itself before anything else
            word.append(following)
            at += 1
            continue
        if sign in "$`!":
            return None
        if quote:
            if sign == '"':
                quote = ""
            else:
                assert word is not None
                word.append(sign)
        elif sign in "'\"":
            quote = sign
            word = word if word is not None else []
        elif sign in " \t":
            end_word()
        elif sign in _OPERATORS:
            end_word()
            start = at - 1
            while command[at : at + 1] and command[at] in _OPERATORS:
                at += 1
            tokens.append(Token(command[start:at], is_operator=True))
        elif sign in "{}#":
            return None
        else:
            has_pattern = has_pattern or sign in "*?["
            word = [*word, sign] if word is not None else [sign]
    if quote:
        return None
    end_word()
    return tokens


def _is_known(part: Sequence[Token]) -> bool:
    if not part or part[0].has_pattern:
        return False
    form = _COMMANDS.get(part[0].text)
    arguments = [word.text for word in part[1:]]
    if form is None or not all(_stays(word) for word in arguments):
        return False
    # A file may be called like an option; reading.py looks for that, but only for those that could do little with it.
    if any(word.has_pattern for word in part) and not form.takes_patterns:
        return False
    return form.check(arguments)


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


def _without(*options: str, letters: str = "") -> Check:
    """Any arguments but options that begin like these, and bundles with one of these letters."""

    def check(arguments: Sequence[str]) -> bool:
        return not any(
            word.startswith(options)
            or (word.startswith("-") and not word.startswith("--") and any(sign in letters for sign in word))
            for word in arguments
        )

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


@dataclass(frozen=True)
class _Form:
    """How a command may be used. `follows_inside`: it follows links that it finds in directories."""

    check: Check
    takes_patterns: bool = False
    follows_inside: bool = False


_FREE = _Form(_anything, takes_patterns=True)
_NOTHING = _Form(_nothing)
# Long options may be cut short, so these are the shortest beginnings that are understood.
_COMMANDS: Mapping[str, _Form] = {
    "basename": _FREE,
    "cal": _NOTHING,
    "cat": _FREE,
    "cut": _FREE,
    "date": _Form(_date),
    "df": _FREE,
    "diff": _Form(_without("--pag", letters="l"), takes_patterns=True, follows_inside=True),
    "dirname": _FREE,
    "du": _Form(_without("--de", "--f", letters="L"), takes_patterns=True),
    "echo": _FREE,
    "false": _NOTHING,
    "find": _Form(
        _without("-exec", "-ok", "-delete", "-fprint", "-fls", "-files0-from", "-L", "-follow"),
    ),
    "free": _Form(_only("--human --bytes --kibi --mebi --gibi --total --wide", letters="bkmghtlvw", words=False)),
    "git": _Form(_git),
    "grep": _Form(_without("--de", letters="R"), takes_patterns=True),
    "groups": _NOTHING,
    "head": _FREE,
    "hostname": _NOTHING,
    "id": _FREE,
    "ls": _Form(_without("--de", letters="L"), takes_patterns=True),
    "nl": _FREE,
    "ps": _Form(_processes),
    "pwd": _FREE,
    "readlink": _FREE,
    "realpath": _FREE,
    "rg": _Form(_without("--pre", "--hostname-bin", "--search-zip", "--follow", letters="Lz")),
    "sort": _Form(
        _only("--numeric-sort --reverse --unique --key --field-separator --ignore-case", letters="nruktfhVs")
    ),
    "stat": _FREE,
    "tail": _Form(_only("--lines --bytes", letters="nc")),
    "tr": _FREE,
    "tree": _Form(_only("--dirsfirst --noreport", letters="adLfi")),
    "true": _NOTHING,
    "type": _FREE,
    "uname": _FREE,
    "uptime": _NOTHING,
    "wc": _Form(_without("--f")),
    "which": _FREE,
    "whoami": _NOTHING,
}
