"""Find symbols by the names that models use for them: `name`, `Class.name`, `module::name`."""

import re
from collections.abc import Iterable, Iterator, Sequence

from worker.lsp.edits import units_of
from worker.lsp.types import KINDS, Symbol

_SEPARATOR = re.compile(r"::|\.|#|/|->")
_DECLARES = re.compile(
    r"\b(?:def|class|func|function|fn|struct|enum|trait|interface|type|const|let|var|val|module|namespace|package|impl|"
    r"static|public|private|protected|object|record|union|typedef|macro|define)\b"
)
OUTLINE_MAX = 500


def steps_of(symbol: str) -> list[str]:
    """Split a symbol's name into its parts, outermost first; [] for an empty name."""
    return [step for step in _SEPARATOR.split(symbol.strip().removesuffix("()")) if step]


def word_pattern(word: str) -> str:
    """Return a regular expression for the whole word, in the syntax common to ripgrep and Python."""
    start = r"\b" if word[:1].isalnum() or word[:1] == "_" else ""
    end = r"\b" if word[-1:].isalnum() or word[-1:] == "_" else ""
    return f"{start}{re.escape(word)}{end}"


def columns_of(line: str, word: str) -> list[int]:
    """Return the columns at which the word begins in the line, in UTF-16 units."""
    return [units_of(line, match.start()) for match in re.finditer(word_pattern(word), line)]


def looks_like_declaration(line: str) -> bool:
    """Return whether the line probably declares something, so that it is tried first."""
    return _DECLARES.search(line) is not None


def find_symbols(symbols: Sequence[Symbol], steps: Sequence[str]) -> list[Symbol]:
    """Return the symbols whose path ends with these names, at any depth."""
    return [symbol for path, symbol in _walk(symbols, ()) if _ends_with(path, steps)]


def outline(symbols: Sequence[Symbol]) -> list[str]:
    """Return one line for each symbol, indented by depth: kind, name and lines; at most `OUTLINE_MAX`."""
    lines = []
    for path, symbol in _walk(symbols, ()):
        whole = symbol.whole
        lines_shown = f" (lines {whole.start.line + 1}-{whole.end.line + 1})" if whole is not None else ""
        kind = KINDS[symbol.kind] if 0 < symbol.kind < len(KINDS) else "symbol"
        lines.append(f"{'  ' * (len(path) - 1)}{kind} {symbol.name}{lines_shown}")
        if len(lines) == OUTLINE_MAX:
            lines.append("... and more")
            break
    return lines


def _walk(symbols: Iterable[Symbol], parents: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Symbol]]:
    for symbol in symbols:
        path = (*parents, _bare(symbol.name))
        yield path, symbol
        yield from _walk(symbol.children or (), path)


def _ends_with(path: tuple[str, ...], steps: Sequence[str]) -> bool:
    return len(path) >= len(steps) and list(path[-len(steps) :]) == list(steps)


def _bare(name: str) -> str:
    """Remove the parameters or the receiver that some servers put after or before the name."""
    name = name.split("(")[0] if not name.startswith("(") else name.rpartition(")")[2].lstrip(".")
    return name.strip() or name
