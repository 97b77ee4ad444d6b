"""The tools `ls` and `glob`: list a directory, and find files whose path matches a pattern."""

import heapq
import itertools
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import StopFlag
from worker.toolkit.paths import ResolvedPath, check_directory
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.path_permission import permitted_path, with_variables
from worker.tools.search.directory_walk import Entry, walk
from worker.tools.search.ignore import DEFAULT_LINES, Ignore, parse
from worker.tools.search.patterns import compile_glob, expand_braces, glob_names, matches

GLOB_DROPPED = frozenset({"coverage", "logs", "generated", "bower_components", "jspm_packages"})
"""Directories that ls shows, but whose files are rarely what a pattern is meant to find."""

LS_ENTRIES_MAX = 100_000
"""Whatever the configuration allows `ls` to show: all entries are in memory at once."""


class LsArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `ls`."""

    path: Annotated[str, Meta(description="The directory to list; the workspace when left out")] = "."
    ignore: Annotated[list[str], Meta(description="Glob patterns of names to leave out")] = []
    depth: Annotated[int, Meta(ge=0, description="How many levels down; 0 means all")] = 0


class GlobArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `glob`."""

    pattern: Annotated[str, Meta(description="The pattern, such as **/*.py or src/{a,b}/*.ts")]
    path: Annotated[str, Meta(description="The directory to search; the workspace when left out")] = "."


@dataclass(frozen=True)
class SearchResult:
    """The entries of a walk; `truncated` when a limit or the deadline left some out."""

    entries: list[Entry]
    truncated: bool


class Ls:
    """List a directory as a tree."""

    spec = ToolSpec(
        "ls",
        description_of(__file__, "ls"),
        schema_of(LsArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `ls.md`."""
        arguments = read_args(LsArgs, args)
        limits, bounds = context.limits, context.bounds.ls
        limit = min(bounds.max_items or limits.walk_entries_max, LS_ENTRIES_MAX)
        depth = min(arguments.depth or bounds.max_depth, bounds.max_depth or arguments.depth)
        resolved = await permitted_path(
            context,
            with_variables(arguments.path, context) or ".",
            verb="list",
            action="list",
            params={"path": arguments.path, "ignore": arguments.ignore, "depth": arguments.depth},
        )

        def list_directory(stop: StopFlag) -> SearchResult:
            check_directory(resolved, verb="list")
            rules = Ignore(((0, DEFAULT_LINES), (0, parse("\n".join(arguments.ignore)))))
            walked = walk(resolved.path, lambda: stop.is_asked, depth_max=depth, rules=rules)
            entries = list(itertools.islice(walked, limit + 1))
            truncated = len(entries) > limit or stop.is_asked
            return SearchResult(entries[:limit], truncated)

        result = await context.children.threads.run(list_directory, timeout_s=limits.search_deadline_s)
        note = f"(There is more: only the first {len(result.entries)} entries)\n" if result.truncated else ""
        if depth:
            note = f"(Only {depth} levels are listed)\n"
        return ToolResult(
            note + _tree(resolved.path, result.entries),
            metadata={"number_of_files": len(result.entries), "truncated": result.truncated},
        )


class Glob:
    """Find files by pattern, newest first."""

    spec = ToolSpec(
        "glob",
        description_of(__file__, "glob"),
        schema_of(GlobArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `glob.md`."""
        arguments = read_args(GlobArgs, args)
        limits = context.limits
        if not arguments.pattern:
            raise ToolError("cannot search: the pattern is empty; give one such as **/*.py")

        resolved = await permitted_path(context, arguments.path or ".", verb="search", action="read")

        def find(stop: StopFlag) -> tuple[list[str], bool]:
            check_directory(resolved, verb="search")
            pattern = _relative_pattern(arguments.pattern, resolved)
            return _newest(resolved.path, pattern, limits.search_results_max, stop)

        timeout_s = context.bounds.glob.timeout_s(limits.search_deadline_s)
        paths, truncated = await context.children.threads.run(find, timeout_s=timeout_s)
        text = "\n".join(str(resolved.path / path) for path in paths) or "No files found"
        if truncated:
            text += "\n\n(There are more: use a narrower pattern or path)"
        return ToolResult(text, metadata={"number_of_files": len(paths), "truncated": truncated})


def _tree(root: Path, entries: list[Entry]) -> str:
    """Format the entries as an indented tree, each parent before its children in any order of walking."""
    children: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        children.setdefault(entry.names[:-1], []).append(entry)
    lines = [f"- {root}/"]
    waiting = list(reversed(children.get((), [])))
    while waiting:
        entry = waiting.pop()
        end = "/" if entry.is_directory else "@" if entry.is_link else ""
        lines.append(f"{'  ' * len(entry.names)}- {entry.names[-1]}{end}")
        waiting += reversed(children.get(entry.names, []))
    return "\n".join(lines)


def _relative_pattern(pattern: str, resolved: ResolvedPath) -> str:
    """Return the pattern relative to the searched directory. Raises ToolError when it leads outside (W-42)."""
    if pattern.startswith("/"):
        prefix = f"{resolved.path}/"
        if not pattern.startswith(prefix):
            raise ToolError(f"cannot search for {pattern}: it is not below {resolved.path}; use a relative pattern")
        pattern = pattern[len(prefix) :]
    if ".." in pattern.split("/"):
        raise ToolError(f"cannot search for {pattern}: it must not contain '..'; use path for the directory")
    return pattern


def _newest(root: Path, pattern: str, limit: int, stop: StopFlag) -> tuple[list[str], bool]:
    """Return the newest files that match, and whether there are more. Memory is bounded by `limit`."""
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for names in map(glob_names, expand_braces(pattern)):
        start = _literal_start(root, names)
        by_start.setdefault(start, []).append(names[len(start) :])
    newest: list[tuple[float, str]] = []
    kept: set[str] = set()  # two alternatives may find the same file
    matching = 0
    for start, rests in by_start.items():
        includes_hidden = any(name.startswith(".") for rest in rests for name in rest)
        patterns = [compile_glob(rest) for rest in rests]
        for entry in walk(root.joinpath(*start), lambda: stop.is_asked):
            if entry.is_directory or not GLOB_DROPPED.isdisjoint(entry.names):
                continue
            if not includes_hidden and any(name.startswith(".") for name in entry.names):
                continue
            if not any(matches(pattern, entry.names) for pattern in patterns):
                continue
            path = "/".join((*start, *entry.names))
            if path in kept:
                continue
            matching += 1
            kept.add(path)
            heapq.heappush(newest, (_modified(root, path), path))
            if len(newest) > limit:
                kept.discard(heapq.heappop(newest)[1])
    return [path for _, path in sorted(newest, reverse=True)], matching > limit or stop.is_asked


def _literal_start(root: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the directories that a pattern names without a wildcard; the user means them even if they are ignored.

    Symbolic links are not followed, as in any other walk.
    """
    start: list[str] = []
    for name in names[:-1]:
        if any(wildcard in name for wildcard in "*?["):
            break
        start.append(name)
        if not _is_plain_directory(root.joinpath(*start)):
            return ()
    return tuple(start)


def _is_plain_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _modified(root: Path, path: str) -> float:
    try:
        return os.lstat(root / path).st_mtime
    except OSError:
        return 0.0
