"""Read what the system prompt says about a project: its context files, whether it is in git, the date. Blocks.

The order of the files is fixed, so that the same files make the same prompt (W-36). A file with two names counts once,
by the first.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from worker.agent.system_prompt import ContextFile, ProjectContext
from worker.config.expand import expand_path
from worker.store.open_file_guard import is_guarded

CONTEXT_PATHS = (
    ".github/copilot-instructions.md",
    ".cursorrules",
    ".cursor/rules",
    "CLAUDE.md",
    "CLAUDE.local.md",
    "GEMINI.md",
    "gemini.md",
    "crush.md",
    "crush.local.md",
    "Crush.md",
    "Crush.local.md",
    "CRUSH.md",
    "CRUSH.local.md",
    "AGENTS.md",
    "agents.md",
    "Agents.md",
)
"""Relative to the workspace; a directory means all files in it."""

FILE_MAX_BYTES = 64 * 1024
ALL_MAX_BYTES = 192 * 1024
FILES_MAX = 200


def read_project_context(
    workspace: Path,
    *,
    today: date,
    env: Mapping[str, str],
    extra: Sequence[str] = (),
    extra_global: Sequence[str] = (),
) -> ProjectContext:
    """Read the context of the workspace and the user's own files.

    `extra` and `extra_global` are configured context paths, with `~` and a leading `$VAR`. Files that are missing or
    cannot be read are skipped.
    """
    reader = _Reader()
    project = [file for name in (*CONTEXT_PATHS, *extra) for file in reader.read(workspace, name, env)]
    own = [file for name in (*_global_paths(env), *extra_global) for file in reader.read(workspace, name, env)]
    return ProjectContext(str(workspace), is_git(workspace), today, tuple(project), tuple(own))


def is_git(workspace: Path) -> bool:
    """Return whether the directory is in a git worktree."""
    return any(os.path.exists(directory / ".git") for directory in (workspace, *workspace.parents))


def _global_paths(env: Mapping[str, str]) -> list[str]:
    home = env.get("HOME")
    base = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    if not base:
        return []
    crush = env.get("CRUSH_GLOBAL_CONFIG") or f"{base}/crush"
    return [f"{base}/bulkhead/AGENTS.md", f"{crush}/CRUSH.md", f"{base}/AGENTS.md"]


class _Reader:
    """Reads each file once, and a bounded amount of all together."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._left = ALL_MAX_BYTES

    def read(self, workspace: Path, name: str, env: Mapping[str, str]) -> list[ContextFile]:
        """Read the files of one context path."""
        path = expand_path(name, env)
        files = []
        for file in _files(workspace / path) if path else ():
            text = self._text(file)
            if text:
                shown = file.relative_to(workspace) if file.is_relative_to(workspace) else file
                files.append(ContextFile(os.fsencode(shown).decode(errors="replace"), text))
        return files

    def _text(self, path: Path) -> str:
        limit = min(FILE_MAX_BYTES, self._left)
        try:
            status = path.stat()
            if limit <= 0 or (status.st_dev, status.st_ino) in self._seen or not path.is_file():
                return ""
            if is_guarded(path):
                return ""
            self._seen.add((status.st_dev, status.st_ino))
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError):
            return ""
        self._left -= min(len(data), limit)
        text = data[:limit].decode(errors="replace").strip()
        return text if len(data) <= limit else f"{text}\n[the rest of this file is left out: it is too long]"


def _files(path: Path) -> Iterator[Path]:
    """Yield the path itself, or the files below it in the order of their names."""
    if not os.path.isdir(path):  # unlike `Path.is_dir`, false and not an error when it cannot be read
        yield path
        return
    count = 0
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            yield Path(directory, name)
            count += 1
            if count >= FILES_MAX:
                return
