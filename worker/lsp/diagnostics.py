"""What servers say is wrong: kept in bounds, and written down for the model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from worker.lsp.types import ERROR, WARNING, Diagnostic
from worker.toolkit.file_uris import path_of

FILES_MAX = 2000
OF_A_FILE_MAX = 500
SHOWN_MAX = 10
MESSAGE_MAX_CHARACTERS = 1000
_WORDS = {ERROR: "Error", WARNING: "Warning", 3: "Info", 4: "Hint"}

FileDiagnostics = Mapping[str, Sequence[Diagnostic]]
"""Diagnostics by the URI of their file."""


class DiagnosticsStore:
    """The diagnostics of one server. `changes` grows with every piece of news."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Diagnostic, ...]] = {}
        self.changes = 0

    def put(self, uri: str, diagnostics: Sequence[Diagnostic]) -> bool:
        """This is all that is wrong in the file now. Says whether it is something else than before."""
        self.changes += 1
        known = self._found.get(uri, ())
        kept = tuple(diagnostics[:OF_A_FILE_MAX])
        if kept:
            if uri not in self._found and len(self._found) >= FILES_MAX:
                return False
            self._found[uri] = kept
        else:
            self._found.pop(uri, None)
        return kept != known

    def clear(self) -> None:
        """The server is gone, and what it said with it."""
        self._found.clear()
        self.changes += 1

    @property
    def found(self) -> FileDiagnostics:
        """Everything, by URI."""
        return self._found

    @property
    def count(self) -> int:
        """How many diagnostics there are."""
        return sum(map(len, self._found.values()))


class SettleTimer:
    """When to stop waiting for news after a change: at the latest after `most_s`, after `none_s` without any, or as
    soon as there was none for `stable_s` since the last. Times are monotonic seconds."""

    def __init__(self, now: float, *, most_s: float, none_s: float, stable_s: float) -> None:
        self._end = now + most_s
        self._until = now + none_s
        self._stable_s = stable_s

    def news(self, now: float) -> None:
        """Something changed."""
        self._until = now + self._stable_s

    def left(self, now: float) -> float:
        """So long to wait still, 0 when it is enough."""
        return max(0.0, min(self._end, self._until) - now)


def report(path: Path | None, boards: Iterable[FileDiagnostics], root: Path) -> str:
    """What is wrong in the file at `path` and in the rest of the project, for the model; "" for nothing at all."""
    mine: list[tuple[Path, Diagnostic]] = []
    others: list[tuple[Path, Diagnostic]] = []
    for found in boards:
        for uri, diagnostics in found.items():
            where = path_of(uri)
            if where is not None and root in where.parents:
                (mine if where == path else others).extend((where, diagnostic) for diagnostic in diagnostics)
    if not mine and not others:
        return ""
    parts = [_section("file_diagnostics", mine, root), _section("project_diagnostics", others, root)]
    lines = [f"Current file: {_counts(mine)}"] if path is not None else []
    lines.append(f"Project: {_counts([*mine, *others])}")
    parts.append("<diagnostic_summary>\n" + "\n".join(lines) + "\n</diagnostic_summary>")
    return "\n".join(part for part in parts if part)


def _section(name: str, found: list[tuple[Path, Diagnostic]], root: Path) -> str:
    if not found:
        return ""
    found = sorted(found, key=lambda one: (one[1].severity, str(one[0]), one[1].range.start.line))
    lines = [_line(path, diagnostic, root) for path, diagnostic in found[:SHOWN_MAX]]
    if len(found) > SHOWN_MAX:
        lines.append(f"... and {len(found) - SHOWN_MAX} more")
    return f"<{name}>\n" + "\n".join(lines) + f"\n</{name}>"


def _line(path: Path, diagnostic: Diagnostic, root: Path) -> str:
    start = diagnostic.range.start
    source = f" [{diagnostic.source}]" if diagnostic.source else ""
    code = f" ({diagnostic.code})" if isinstance(diagnostic.code, int | str) and diagnostic.code != "" else ""
    message = " ".join(diagnostic.message[:MESSAGE_MAX_CHARACTERS].split())
    word = _WORDS.get(diagnostic.severity, "Hint")
    return f"{word}: {path.relative_to(root)}:{start.line + 1}:{start.character + 1}{source} {message}{code}"


def _counts(found: Sequence[tuple[Path, Diagnostic]]) -> str:
    errors = sum(diagnostic.severity == ERROR for _, diagnostic in found)
    warnings = sum(diagnostic.severity == WARNING for _, diagnostic in found)
    return f"{errors} {'error' if errors == 1 else 'errors'}, {warnings} {'warning' if warnings == 1 else 'warnings'}"
