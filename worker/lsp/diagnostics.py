"""Store the diagnostics that servers publish, within limits, and format them for the model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from worker.lsp.types import ERROR, WARNING, Diagnostic
from worker.toolkit.file_uris import path_of

FILES_MAX = 2000
DIAGNOSTICS_PER_FILE_MAX = 500
SHOWN_MAX = 10
MESSAGE_MAX_CHARACTERS = 1000
_SEVERITIES = {ERROR: "Error", WARNING: "Warning", 3: "Info", 4: "Hint"}

FileDiagnostics = Mapping[str, Sequence[Diagnostic]]
"""Diagnostics by the URI of their file."""


class DiagnosticsStore:
    """The diagnostics of one server by file. `changes` counts the updates."""

    def __init__(self) -> None:
        self._by_uri: dict[str, tuple[Diagnostic, ...]] = {}
        self.changes = 0

    def put(self, uri: str, diagnostics: Sequence[Diagnostic]) -> bool:
        """Replace the diagnostics of a file. Returns whether they differ from the previous ones."""
        self.changes += 1
        previous = self._by_uri.get(uri, ())
        kept = tuple(diagnostics[:DIAGNOSTICS_PER_FILE_MAX])
        if kept:
            if uri not in self._by_uri and len(self._by_uri) >= FILES_MAX:
                return False
            self._by_uri[uri] = kept
        else:
            self._by_uri.pop(uri, None)
        return kept != previous

    def clear(self) -> None:
        """Drop all diagnostics, because the server has ended."""
        self._by_uri.clear()
        self.changes += 1

    @property
    def by_uri(self) -> FileDiagnostics:
        """All diagnostics by the URI of their file."""
        return self._by_uri

    @property
    def count(self) -> int:
        """The number of diagnostics."""
        return sum(map(len, self._by_uri.values()))


class SettleTimer:
    """Decides how long to wait for diagnostics after a change. Times are monotonic seconds.

    The wait ends `max_s` after the change, after `none_s` if no update came, or `stable_s` after the last update.
    """

    def __init__(self, now: float, *, max_s: float, none_s: float, stable_s: float) -> None:
        self._latest_end = now + max_s
        self._end = now + none_s
        self._stable_s = stable_s

    def updated(self, now: float) -> None:
        """Restart the wait for the next update."""
        self._end = now + self._stable_s

    def remaining(self, now: float) -> float:
        """Return how many seconds to wait yet, 0 when the wait is over."""
        return max(0.0, min(self._latest_end, self._end) - now)


def report(path: Path | None, servers: Iterable[FileDiagnostics], root: Path) -> str:
    """Format the diagnostics of all `servers` for the model: those of the file at `path`, then the rest of the project.

    Returns "" when there are none in the project directory `root`.
    """
    in_file: list[tuple[Path, Diagnostic]] = []
    in_others: list[tuple[Path, Diagnostic]] = []
    for by_uri in servers:
        for uri, diagnostics in by_uri.items():
            file = path_of(uri)
            if file is not None and root in file.parents:
                (in_file if file == path else in_others).extend((file, diagnostic) for diagnostic in diagnostics)
    if not in_file and not in_others:
        return ""
    parts = [_section("file_diagnostics", in_file, root), _section("project_diagnostics", in_others, root)]
    lines = [f"Current file: {_counts(in_file)}"] if path is not None else []
    lines.append(f"Project: {_counts([*in_file, *in_others])}")
    parts.append("<diagnostic_summary>\n" + "\n".join(lines) + "\n</diagnostic_summary>")
    return "\n".join(part for part in parts if part)


def _section(name: str, entries: list[tuple[Path, Diagnostic]], root: Path) -> str:
    if not entries:
        return ""
    entries = sorted(entries, key=lambda entry: (entry[1].severity, str(entry[0]), entry[1].range.start.line))
    lines = [_line(path, diagnostic, root) for path, diagnostic in entries[:SHOWN_MAX]]
    if len(entries) > SHOWN_MAX:
        lines.append(f"... and {len(entries) - SHOWN_MAX} more")
    return f"<{name}>\n" + "\n".join(lines) + f"\n</{name}>"


def _line(path: Path, diagnostic: Diagnostic, root: Path) -> str:
    start = diagnostic.range.start
    source = f" [{diagnostic.source}]" if diagnostic.source else ""
    code = f" ({diagnostic.code})" if isinstance(diagnostic.code, int | str) and diagnostic.code != "" else ""
    message = " ".join(diagnostic.message[:MESSAGE_MAX_CHARACTERS].split())
    severity = _SEVERITIES.get(diagnostic.severity, "Hint")
    return f"{severity}: {path.relative_to(root)}:{start.line + 1}:{start.character + 1}{source} {message}{code}"


def _counts(entries: Sequence[tuple[Path, Diagnostic]]) -> str:
    errors = sum(diagnostic.severity == ERROR for _, diagnostic in entries)
    warnings = sum(diagnostic.severity == WARNING for _, diagnostic in entries)
    return f"{errors} {'error' if errors == 1 else 'errors'}, {warnings} {'warning' if warnings == 1 else 'warnings'}"
