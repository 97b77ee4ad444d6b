"""Decide what ls, glob and grep leave out: names that are junk in every project, and the `.gitignore` files.

The rules are those of git, with these differences: `.git/info/exclude` and the user's global file are not read, `?` and
sets count characters where git counts bytes, and a slash in a set ends the name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from worker.tools.search.patterns import NamePattern, PathPattern, matches

SKIPPED_DIRECTORIES = frozenset(
    {
        ".git", ".svn", ".hg", ".bzr", ".vscode", ".idea", "node_modules", "__pycache__", ".pytest_cache", ".cache",
        ".tmp", ".Trash", ".Spotlight-V100", ".fseventsd", ".crush", ".bulkhead", "OrbStack", ".local", ".share",
    }
)  # fmt: skip
"""Directories that are never entered, wherever they are."""

DEFAULT_PATTERNS = (
    "*.swp", "*.swo", "*~", ".DS_Store", "Thumbs.db", "target", "build", "dist", "out", "bin", "obj", "*.o", "*.so",
    "*.dylib", "*.dll", "*.exe", "*.log", "*.tmp", "*.temp", "*.pyc", "*.pyo", "vendor", "Cargo.lock",
    "package-lock.json", "yarn.lock", "pnpm-lock.yaml",
)  # fmt: skip
"""Names that are left out unless a `.gitignore` includes them again with `!`."""

GITIGNORE_MAX_BYTES = 64 * 1024
COMPILED_MAX = 1024  # patterns of names, kept from walk to walk

_SPECIAL = re.compile(r"[*?\[\\]")
_CLOSING_BRACKET, _HYPHEN = ("]", True), ("-", True)
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t-\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
"""The character classes of POSIX, as they are written in a set of a regular expression."""

_Token = tuple[str, bool]
"""A character of a pattern, and whether it may have a special meaning: no backslash escapes it."""


class _NeverMatches(Exception):
    """The pattern is empty or malformed; git lets it match nothing."""


@dataclass(frozen=True)
class IgnorePattern:
    """One pattern of a `.gitignore`. One that is not anchored applies to names at any depth."""

    pattern: PathPattern
    is_negated: bool
    directories_only: bool
    is_anchored: bool

    def matches(self, names: Sequence[str], is_directory: bool) -> bool:
        """Return whether a path matches; `names` lead to it from the directory of the `.gitignore`."""
        if self.directories_only and not is_directory:
            return False
        if self.is_anchored:
            return matches(self.pattern, names)
        pattern = self.pattern[-1]
        return pattern is not None and bool(pattern(names[-1]))


def parse(text: str) -> tuple[IgnorePattern, ...]:
    """Read the patterns of a `.gitignore`. Those that match nothing are left out."""
    lines = []
    for raw in text.removeprefix("\ufeff").split("\n"):
        if raw.startswith("#"):
            continue
        pattern = _strip_trailing_spaces(raw.removesuffix("\r"))
        is_negated = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        directories_only = pattern.endswith("/")
        pattern = pattern.removesuffix("/")
        try:
            compiled = _compile(pattern.removeprefix("/"))
        except _NeverMatches:
            continue
        lines.append(IgnorePattern(compiled, is_negated, directories_only, is_anchored="/" in pattern))
    return tuple(lines)


def _strip_trailing_spaces(pattern: str) -> str:
    """Remove the spaces at the end that no backslash escapes."""
    stripped = pattern.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != pattern else stripped


def _compile(pattern: str) -> PathPattern:
    names = pattern.split("/")
    compiled = [None if len(name) > 1 and not name.strip("*") else _compile_name(name) for name in names]
    if compiled[-1] is None:  # `a/**` matches everything in `a`, and not `a`
        compiled.append(_compile_name("*"))
    return compiled


@lru_cache(COMPILED_MAX)
def _compile_name(name: str) -> NamePattern:
    """Prepare the pattern of one name. Raises _NeverMatches."""
    if not name:
        raise _NeverMatches
    if not _SPECIAL.search(name):
        return name.__eq__
    if name[0] == "*" and not _SPECIAL.search(name, 1):
        suffix = name[1:]
        return lambda candidate: candidate.endswith(suffix)
    first, *others = _translate(_tokens(name))
    expression = first
    for part in others[:-1]:  # the first place where it matches is as good as any later one, so no other is tried
        expression += f"(?>.*?{part})"
    expression += "".join(f".*{part}" for part in others[-1:])
    return re.compile(expression, re.DOTALL).fullmatch


def _tokens(name: str) -> list[_Token]:
    tokens, characters = [], iter(name)
    for character in characters:
        if character != "\\":
            tokens.append((character, True))
        elif escaped := next(characters, ""):
            tokens.append((escaped, False))
        else:
            raise _NeverMatches
    return tokens


def _translate(tokens: list[_Token]) -> list[str]:
    """Translate into regular expressions of a fixed length, one more than there are asterisks between them."""
    parts, at = [""], 0
    while at < len(tokens):
        match tokens[at]:
            case ("*", True):
                parts.append("")
            case ("?", True):
                parts[-1] += "."
            case ("[", True):
                try:
                    expression, at = _translate_set(tokens, at + 1)
                except (LookupError, ValueError):  # no closing bracket, or no such class
                    raise _NeverMatches from None
                parts[-1] += expression
            case (character, _):
                parts[-1] += re.escape(character)
        at += 1
    return parts


def _translate_set(tokens: list[_Token], at: int) -> tuple[str, int]:
    """Translate the set whose content begins at `at`; returns the position of its closing bracket too."""
    is_negated = tokens[at] in (("!", True), ("^", True))
    first = at = at + is_negated
    content, previous = "", ""
    while tokens[at] != _CLOSING_BRACKET or at == first:
        if (name := _class_name(tokens, at)) is not None:
            content += _CLASSES[name]
            previous = ""
            at += len(f"[:{name}:]")
        elif tokens[at] == _HYPHEN and previous and tokens[at + 1] != _CLOSING_BRACKET:
            last, _ = tokens[at + 1]
            if previous <= last:
                content += f"{re.escape(previous)}-{re.escape(last)}"
            previous = ""
            at += 2
        else:
            previous, _ = tokens[at]
            content += re.escape(previous)
            at += 1
    return f"[{'^' if is_negated else ''}{content}]", at


def _class_name(tokens: list[_Token], at: int) -> str | None:
    """Return the name of the class `[:name:]` at this position, None when there is none."""
    if tokens[at : at + 2] != [("[", True), (":", True)]:
        return None
    end = tokens.index(_CLOSING_BRACKET, at + 2)
    text = "".join(character for character, _ in tokens[at + 2 : end])
    return text[:-1] if text.endswith(":") else None


DEFAULT_LINES = parse("\n".join(DEFAULT_PATTERNS))


@dataclass(frozen=True)
class Ignore:
    """The rules that apply in one directory: the defaults, then each `.gitignore` from the root of the walk down.

    `layers` are pairs of depth (number of names from the root of the walk) and lines.
    """

    layers: tuple[tuple[int, tuple[IgnorePattern, ...]], ...] = ((0, DEFAULT_LINES),)

    def with_gitignore(self, depth: int, gitignore: str) -> "Ignore":
        """Return the rules for a directory `depth` names below the root that has this `.gitignore`."""
        lines = parse(gitignore)
        return Ignore((*self.layers, (depth, lines))) if lines else self

    def is_ignored(self, names: Sequence[str], is_directory: bool) -> bool:
        """Return whether the path (names from the root of the walk) is left out, given that its parents are not."""
        if is_directory and names[-1] in SKIPPED_DIRECTORIES:
            return True
        for depth, lines in reversed(self.layers):
            for line in reversed(lines):
                if line.matches(names[depth:], is_directory):
                    return not line.is_negated
        return False
