"""Decide from its words whether a shell command only reads, so that it needs no permission (W-39).

The command is parsed as the shell would, and accepted only when every part of it is a known form: a command of the
table with known options, joined by pipes, `&&`, `||` or `;`. Anything else needs permission: expansions, redirections,
subshells, assignments, wrappers such as `env` or `timeout`, paths that lead out of the workspace, options that follow
symbolic links. `worker/tools/shell/read_only_paths.py` checks what depends on the file system.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

_SEPARATORS = frozenset({"|", "||", "&&", ";"})
_OPERATORS = "();<>|&"
_LENGTH_MAX = 4000  # characters of a command
_PATHS_MAX = 200

Check = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class ReadOnly:
    """A command that only reads, judged by its words.

    `words` may be paths, and the shell replaces `patterns` by names of files: none may lead out by a link. `files` are
    those of both that must not be directories, because links in them would be followed. `programs` are the commands,
    `git` the subcommands of git.
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
    """Parse a command that only reads; None for any other."""
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
        if token.text not in _SEPARATORS or not _is_known(part):
            return None
        name, arguments = part[0].text, part[1:]
        programs.add(name)
        if name == "git":
            git.add(arguments[0].text)
        paths = list(paths_of(word.text for word in arguments if not word.has_pattern))
        globs = [word.text for word in arguments if word.has_pattern]
        words += paths
        patterns += globs
        if _COMMANDS[name].follows_links:
            files += paths + globs
        part = []
    if part or len(words) + len(patterns) > _PATHS_MAX:
        return None
    return ReadOnly(tuple(words), tuple(patterns), tuple(files), frozenset(programs), frozenset(git))


def paths_of(arguments: Iterable[str]) -> Iterable[str]:
    """Yield what may be a path: words, values of long options, and each tail of a bundle of short options."""
    for word in arguments:
        if not word.startswith("-"):
            yield word
        elif word.startswith("--"):
            if value := word.partition("=")[2]:
                yield value
        else:
            yield from (word[start:] for start in range(2, len(word)))


def tokens_of(command: str) -> list[Token] | None:
    """Split into words and operators; None when the shell would expand something, or a quote is not closed."""
    tokens: list[Token] = []
    word: list[str] | None = None  # None between words; an empty word is a word too
    has_pattern = False
    quote, at = "", 0

    def end_word() -> None:
        nonlocal word, has_pattern
        if word is not None:
            tokens.append(Token("".join(word), has_pattern=has_pattern))
        word, has_pattern = None, False

    while at < len(command):
        character = command[at]
        at += 1
        if character in "\n\r\0":
            return None
        if quote == "'":
            if character == "'":
                quote = ""
            else:
                assert word is not None
                word.append(character)
            continue
        if character == "\\":
            following = command[at : at + 1]
            if not following or following in "\n\r\0":
                return None
            word = word if word is not None else []
            if quote and following not in '$`"\\':
                word.append(character)  # in double quotes the backslash is kept before any other character
            word.append(following)
            at += 1
            continue
        if character in "$`!":
            return None
        if quote:
            if character == '"':
                quote = ""
            else:
                assert word is not None
                word.append(character)
        elif character in "'\"":
            quote = character
            word = word if word is not None else []
        elif character in " \t":
            end_word()
        elif character in _OPERATORS:
            end_word()
            start = at - 1
            while command[at : at + 1] and command[at] in _OPERATORS:
                at += 1
            tokens.append(Token(command[start:at], is_operator=True))
        elif character in "{}#":
            return None
        else:
            has_pattern = has_pattern or character in "*?["
            word = [*word, character] if word is not None else [character]
    if quote:
        return None
    end_word()
    return tokens


def _is_known(part: Sequence[Token]) -> bool:
    if not part or part[0].has_pattern:
        return False
    form = _COMMANDS.get(part[0].text)
    arguments = [word.text for word in part[1:]]
    if form is None or not all(_stays_inside(word) for word in arguments):
        return False
    # A file may have the name of an option. read_only_paths.py checks that for the few commands that take patterns.
    if any(word.has_pattern for word in part) and not form.takes_patterns:
        return False
    return form.check(arguments)


def _stays_inside(word: str) -> bool:
    """Return whether a path or an option's value stays in the workspace, judged by its spelling."""
    if word.startswith("-") and not word.startswith("--") and "/" in word:
        return False  # an option with a path right behind it
    value = word.partition("=")[2] if word.startswith("-") else word
    return not value.startswith(("/", "~")) and ".." not in value.split("/")


def _any_arguments(arguments: Sequence[str]) -> bool:
    return True


def _no_arguments(arguments: Sequence[str]) -> bool:
    return not arguments


def _without(*options: str, letters: str = "") -> Check:
    """Accept any arguments except options that begin with these, and bundles that contain these letters."""

    def check(arguments: Sequence[str]) -> bool:
        return not any(
            word.startswith(options)
            or (word.startswith("-") and not word.startswith("--") and any(character in letters for character in word))
            for word in arguments
        )

    return check


def _only(options: str, *, letters: str = "", words: bool = True) -> Check:
    """Accept only these options (`--name=value` too), and bundles of these letters."""
    allowed = frozenset(options.split())

    def is_allowed(word: str) -> bool:
        if not word.startswith("-") or word == "-":
            return words
        name = word.partition("=")[0]
        if name in allowed:
            return True
        bundle = word[1:]
        return (
            not word.startswith("--")
            and bool(bundle)
            and all(character in letters or character.isdigit() for character in bundle)
        )

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
    """Accept reading one value that is not a secret."""
    return len(arguments) == 2 and arguments[0] == "--get" and arguments[1].startswith(("user.", "core.", "init."))


def _ps(arguments: Sequence[str]) -> bool:
    """Accept lists without environments, which may contain keys."""
    return [*arguments] in ([], ["aux"], ["-ef"])


_GIT_OUTPUT_OPTIONS = (
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
    "diff": _only(_GIT_OUTPUT_OPTIONS, letters="pwbU"),
    "grep": _only("--ignore-case --line-number --count --files-with-matches --word-regexp --", letters="inclwEFPABC"),
    "log": _only(_GIT_OUTPUT_OPTIONS, letters="pnwiSG"),
    "ls-files": _only("--cached --deleted --modified --others --exclude-standard --stage --", letters="cdmost"),
    "remote": _only("--verbose", letters="v", words=False),
    "rev-parse": _only("--abbrev-ref --short --show-toplevel --git-dir --is-inside-work-tree --verify --symbolic"),
    "shortlog": _only("--summary --numbered --email", letters="sne"),
    "show": _only(_GIT_OUTPUT_OPTIONS, letters="pwbs"),
    "status": _only("--short --branch --porcelain --untracked-files --ignored --long", letters="sbu"),
    "tag": _only("--list", letters="ln", words=False),
}


@dataclass(frozen=True)
class _Form:
    """How a command may be used. `follows_links`: it follows links that it finds in directories."""

    check: Check
    takes_patterns: bool = False
    follows_links: bool = False


_ANY = _Form(_any_arguments, takes_patterns=True)
_NONE = _Form(_no_arguments)
# Long options may be abbreviated, so these are the shortest prefixes that the commands accept.
_COMMANDS: Mapping[str, _Form] = {
    "basename": _ANY,
    "cal": _NONE,
    "cat": _ANY,
    "cut": _ANY,
    "date": _Form(_date),
    "df": _ANY,
    "diff": _Form(_without("--pag", letters="l"), takes_patterns=True, follows_links=True),
    "dirname": _ANY,
    "du": _Form(_without("--de", "--f", letters="L"), takes_patterns=True),
    "echo": _ANY,
    "false": _NONE,
    "find": _Form(
        _without("-exec", "-ok", "-delete", "-fprint", "-fls", "-files0-from", "-L", "-follow"),
    ),
    "free": _Form(_only("--human --bytes --kibi --mebi --gibi --total --wide", letters="bkmghtlvw", words=False)),
    "git": _Form(_git),
    "grep": _Form(_without("--de", letters="R"), takes_patterns=True),
    "groups": _NONE,
    "head": _ANY,
    "hostname": _NONE,
    "id": _ANY,
    "ls": _Form(_without("--de", letters="L"), takes_patterns=True),
    "nl": _ANY,
    "ps": _Form(_ps),
    "pwd": _ANY,
    "readlink": _ANY,
    "realpath": _ANY,
    "rg": _Form(_without("--pre", "--hostname-bin", "--search-zip", "--follow", letters="Lz")),
    "sort": _Form(
        _only("--numeric-sort --reverse --unique --key --field-separator --ignore-case", letters="nruktfhVs")
    ),
    "stat": _ANY,
    "tail": _Form(_only("--lines --bytes", letters="nc")),
    "tr": _ANY,
    "tree": _Form(_only("--dirsfirst --noreport", letters="adLfi")),
    "true": _NONE,
    "type": _ANY,
    "uname": _ANY,
    "uptime": _NONE,
    "wc": _Form(_without("--f")),
    "which": _ANY,
    "whoami": _NONE,
}
