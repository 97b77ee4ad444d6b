"""The tools `ls` and `glob`: what is in a directory, and files whose path fits a pattern."""

import heapq
import itertools
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.processes.thread_pool import Stop
from worker.toolkit.paths import ResolvedPath, check_directory
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.path_permission import permitted_path, with_variables
from worker.tools.search.directory_walk import Entry, walk
from worker.tools.search.ignore import DEFAULT_LINES, Ignore, parse
from worker.tools.search.patterns import expand_braces, matches, split

GLOB_DROPPED = frozenset({"coverage", "logs", "generated", "bower_components", "jspm_packages"})
"""Directories that ls shows, but whose files are hardly ever meant by a pattern."""

LS_ENTRIES_MAX = 100_000
"""However many entries the configuration lets `ls` show: they are all in memory at once."""


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
    """What a walk found; `truncated` when there is more, because of a bound or of time."""

    entries: list[Entry]
    truncated: bool


class Ls:
    """Lists a directory as a tree."""

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
        wanted = read_args(LsArgs, args)
        limits, bounds = context.limits, context.bounds.ls
        most = min(bounds.max_items or limits.walk_entries_max, LS_ENTRIES_MAX)
        depth = min(wanted.depth or bounds.max_depth, bounds.max_depth or wanted.depth)
        place = await permitted_path(
            context,
            with_variables(wanted.path, context) or ".",
            verb="list",
            action="list",
            params={"path": wanted.path, "ignore": wanted.ignore, "depth": wanted.depth},
        )

        def list_directory(stop: Stop) -> SearchResult:
            check_directory(place, verb="list")
            rules = Ignore(((0, DEFAULT_LINES), (0, parse("\n".join(wanted.ignore)))))
            walked = walk(place.path, lambda: stop.is_asked, depth_max=depth, rules=rules)
            entries = list(itertools.islice(walked, most + 1))
            truncated = len(entries) > most or stop.is_asked
            return SearchResult(entries[:most], truncated)

        found = await context.children.threads.run(list_directory, timeout_s=limits.search_deadline_s)
        note = f"(There is more: only the first {len(found.entries)} entries)\n" if found.truncated else ""
        if depth:
            note = f"(Only {depth} levels are listed)\n"
        return ToolResult(
            note + _tree(place.path, found.entries),
            metadata={"number_of_files": len(found.entries), "truncated": found.truncated},
        )


class Glob:
    """Finds files by pattern, newest first."""

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
        wanted = read_args(GlobArgs, args)
        limits = context.limits
        if not wanted.pattern:
            raise ToolError("cannot search: the pattern is empty; give one such as **/*.py")

        place = await permitted_path(context, wanted.path or ".", verb="search", action="read")

        def find(stop: Stop) -> tuple[list[str], bool]:
            check_directory(place, verb="search")
            pattern = _relative_pattern(wanted.pattern, place)
            return _newest(place.path, pattern, limits.search_results_max, stop)

        timeout_s = context.bounds.glob.timeout_s(limits.search_deadline_s)
        paths, truncated = await context.children.threads.run(find, timeout_s=timeout_s)
        text = "\n".join(str(place.path / path) for path in paths) or "No files found"
        if truncated:
            text += "\n\n(There are more: use a narrower pattern or path)"
        return ToolResult(text, metadata={"number_of_files": len(paths), "truncated": truncated})


def _tree(root: Path, entries: list[Entry]) -> str:
    """The entries as an indented tree; parents stand before their children in any order of walking."""
    below: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        below.setdefault(entry.names[:-1], []).append(entry)
    lines = [f"- {root}/"]
    waiting = list(reversed(below.get((), [])))
    while waiting:
        entry = waiting.pop()
        end = "/" if entry.is_directory else "@" if entry.is_link else ""
        lines.append(f"{'  ' * len(entry.names)}- {entry.names[-1]}{end}")
        waiting += reversed(below.get(entry.names, []))
    return "\n".join(lines)


def _relative_pattern(pattern: str, place: ResolvedPath) -> str:
    """The pattern as seen from `place`. Raises ToolError when it leads out (W-42)."""
    if pattern.startswith("/"):
        prefix = f"{place.path}/"
        if not pattern.startswith(prefix):
            raise ToolError(f"cannot search for {pattern}: it is not below {place.path}; use a relative pattern")
        pattern = pattern[len(prefix) :]
    if ".." in pattern.split("/"):
        raise ToolError(f"cannot search for {pattern}: it must not contain '..'; use path for the directory")
    return pattern


def _newest(root: Path, pattern: str, most: int, stop: Stop) -> tuple[list[str], bool]:
    """The newest files that fit, and whether there are more. Memory is bounded by `most`."""
    # Without a slash a pattern means names at any depth, as in a `.gitignore`.
    shapes = [split(each) if "/" in each else ("**", *split(each)) for each in expand_braces(pattern)]
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for shape in shapes:
        start = _literal_start(root, shape)
        by_start.setdefault(start, []).append(shape[len(start) :])
    newest: list[tuple[float, str]] = []
    kept: set[str] = set()  # alternatives may find a file twice
    fitting = 0
    for start, below in by_start.items():
        wants_hidden = any(part.startswith(".") for shape in below for part in shape)
        for entry in walk(root.joinpath(*start), lambda: stop.is_asked):
            if entry.is_directory or not GLOB_DROPPED.isdisjoint(entry.names):
                continue
            if not wants_hidden and any(name.startswith(".") for name in entry.names):
                continue
            if not any(matches(shape, entry.names) for shape in below):
                continue
            path = "/".join((*start, *entry.names))
            if path in kept:
                continue
            fitting += 1
            kept.add(path)
            heapq.heappush(newest, (_modified(root, path), path))
            if len(newest) > most:
                kept.discard(heapq.heappop(newest)[1])
    return [path for _, path in sorted(newest, reverse=True)], fitting > most or stop.is_asked


def _literal_start(root: Path, shape: tuple[str, ...]) -> tuple[str, ...]:
    """The directories that a pattern names itself: what is named is meant, though it may be ignored otherwise.

    Never through a link, as in any other walk.
    """
    start: list[str] = []
    for part in shape[:-1]:
        if any(sign in part for sign in "*?["):
            break
        start.append(part)
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
