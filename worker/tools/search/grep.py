"""The tool `grep`: find lines that match a regular expression, with ripgrep if installed, else with `grep_child`.

Both run as a child process, because a slow pattern can be killed there; in a thread it would block the whole worker.
Both print `path NUL line:column:text`, with paths relative to the directory searched.
"""

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.toolkit.paths import ResolvedPath, check_directory
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.files.path_permission import permitted_path
from worker.tools.search.ignore import SKIPPED_DIRECTORIES

LINE_MAX_CHARACTERS = 500
OUTPUT_MAX_BYTES = 4 * 1024 * 1024  # of matches to sort; beyond it the result says that there are more
FALLBACK = "worker.tools.search.grep_child"


class GrepArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `grep`."""

    pattern: Annotated[str, Meta(description="The regular expression to look for")]
    path: Annotated[str, Meta(description="The directory or file to search; the workspace when left out")] = "."
    include: Annotated[str, Meta(description="Only files that match this glob pattern, such as *.{ts,tsx}")] = ""
    literal_text: Annotated[bool, Meta(description="Take the pattern as plain text")] = False


@dataclass(frozen=True)
class LineMatch:
    """One matching line; `column` is that of its first match, both counted from 1."""

    path: str
    line: int
    column: int
    text: str


class Grep:
    """Search the contents of files."""

    spec = ToolSpec(
        "grep",
        description_of(__file__, "grep"),
        schema_of(GrepArgs),
        parallel=False,
        effect="read",
        agents=("main", "task"),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `grep.md`."""
        arguments = read_args(GrepArgs, args)
        if not arguments.pattern:
            raise ToolError("cannot search: the pattern is empty; give a regular expression")
        limits, threads = context.limits, context.children.threads
        directory, matches, cut = await find_matches(arguments, context)
        shown = await threads.run(
            lambda _stop: _newest(matches, directory, limits.search_results_max), timeout_s=limits.search_deadline_s
        )
        truncated = cut or len(shown) < len(matches)
        text = _text(shown, directory) if shown else "No matches found"
        if truncated:
            text += "\n\n(There are more: use a narrower pattern, path or include)"
        return ToolResult(text, metadata={"number_of_matches": len(shown), "truncated": truncated})


async def find_matches(arguments: GrepArgs, context: ToolContext) -> tuple[Path, list[LineMatch], bool]:
    """Return the directory searched, the matches in it, and whether there may be more.

    Raises ToolError for a bad pattern or path, and when the search took too long.
    """
    resolved = await permitted_path(context, arguments.path or ".", verb="search", action="read")

    def prepare(_stop: object) -> tuple[Path, list[str]]:
        directory, target = _directory_and_target(resolved)
        ripgrep = shutil.which("rg", path=context.env.get("PATH", os.defpath))
        return directory, _ripgrep(ripgrep, arguments, target) if ripgrep else _own_search(arguments, target)

    directory, argv = await context.children.threads.run(prepare, timeout_s=context.limits.search_deadline_s)
    matches, cut = await _search(argv, directory, context)
    return directory, matches, cut


async def _search(argv: list[str], directory: Path, context: ToolContext) -> tuple[list[LineMatch], bool]:
    """Run the search and return its matches, and whether there may be more."""
    limits = context.limits
    timeout_s = context.bounds.grep.timeout_s(limits.search_deadline_s)
    env = {"PATH": context.env.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    try:
        child = await context.children.start(argv, env=env, cwd=directory, head_bytes=OUTPUT_MAX_BYTES, tail_bytes=0)
    except (OSError, ValueError) as error:  # an argument is too long, or has a NUL
        raise ToolError(f"cannot search: the search does not start: {error}") from error
    code: int | None = None
    try:
        code = await child.exited_within(timeout_s)
        if code is not None:
            await child.drained(limits.tool_pipe_grace_s)
    finally:
        await child.end()
    matches = _parse(child.stdout.head)
    if code is None and not matches:
        raise ToolError(f"cannot search: it took longer than {timeout_s:g} s; narrow the path")
    if code not in (0, 1, None) and not matches:
        raise ToolError(f"cannot search: {child.stderr.text().strip() or f'the search ended with {code}'}")
    return matches, code is None or child.stdout.dropped_bytes > 0


def _directory_and_target(resolved: ResolvedPath) -> tuple[Path, str]:
    """Return the directory to search and what in it, `.` for all of it. Raises ToolError."""
    if resolved.path.is_file():
        return resolved.path.parent, resolved.path.name
    check_directory(resolved, verb="search")
    return resolved.path, "."


def _ripgrep(program: str, arguments: GrepArgs, target: str) -> list[str]:
    argv = [
        program, "--no-config", "--no-heading", "--with-filename", "--null", "--line-number", "--column",
        "--color=never", "--no-require-git", f"--max-columns={LINE_MAX_CHARACTERS * 4}", "--max-columns-preview",
    ]  # fmt: skip
    if arguments.include:
        argv.append(f"--glob={arguments.include}")
    argv += [f"--glob=!**/{name}/**" for name in sorted(SKIPPED_DIRECTORIES)]
    if arguments.literal_text:
        argv.append("--fixed-strings")
    return [*argv, f"--regexp={arguments.pattern}", "--", f"./{target}"]


def _own_search(arguments: GrepArgs, target: str) -> list[str]:
    pattern = re.escape(arguments.pattern) if arguments.literal_text else arguments.pattern
    try:
        json.dumps(pattern).encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"cannot search: {error}") from error
    request = json.dumps({"pattern": pattern, "include": arguments.include, "target": target})
    return [sys.executable, "-P", "-X", "utf8", "-m", FALLBACK, request]


def _parse(output: bytes) -> list[LineMatch]:
    """Read the matches from complete lines; a last line that was cut off is ignored."""
    matches = []
    for row in output.split(b"\n")[:-1]:
        path, separator, rest = row.partition(b"\0")
        parts = rest.split(b":", 2)
        if separator and len(parts) == 3 and parts[0].isdigit() and parts[1].isdigit():
            text = parts[2].decode("utf-8", "replace").rstrip("\r")
            if len(text) > LINE_MAX_CHARACTERS:
                text = text[:LINE_MAX_CHARACTERS] + "..."
            shown = os.fsdecode(path).removeprefix("./")
            matches.append(LineMatch(shown, int(parts[0]), int(parts[1]), text.replace("\0", "\ufffd")))
    return matches


def _newest(matches: list[LineMatch], directory: Path, limit: int) -> list[LineMatch]:
    """Return the first `limit` matches: the files changed last come first, the lines of a file in order."""
    modified: dict[str, float] = {}
    for match in matches:
        if match.path not in modified:
            try:
                modified[match.path] = (directory / match.path).lstat().st_mtime
            except OSError:
                modified[match.path] = 0.0
    return sorted(matches, key=lambda match: (-modified[match.path], match.path, match.line))[:limit]


def _text(matches: list[LineMatch], directory: Path) -> str:
    by_file: dict[str, list[LineMatch]] = {}
    for match in matches:
        by_file.setdefault(match.path, []).append(match)
    parts = [f"Found {len(matches)} {'match' if len(matches) == 1 else 'matches'}"]
    for path, matches_in_file in by_file.items():
        lines = "\n".join(f"  Line {match.line}, Char {match.column}: {match.text}" for match in matches_in_file)
        parts.append(f"{directory / path}:\n{lines}")
    return "\n\n".join(parts)
