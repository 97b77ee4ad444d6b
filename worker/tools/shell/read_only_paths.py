"""Check on the file system that a reading command stays inside and runs no other program (W-39, W-41).

Git runs programs that a repository's own configuration names (`core.fsmonitor`, `diff.*.textconv`, filters), and a hook
whenever it refreshes the index. A directory with files of another author may be such a repository.
"""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from worker.toolkit.paths import locate
from worker.toolkit.tool import ToolContext
from worker.tools.shell.read_only_commands import ReadOnly, paths_of, read_only

NAMES_MAX = 1000  # of files that match the patterns of one command
SYSTEM_DIRECTORIES = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"})
BUILTINS = frozenset({"echo", "false", "pwd", "true", "type"})
GIT_OUTPUT_MAX_BYTES = 1024 * 1024
GITLINK = b"160000 "
REPOSITORIES_MAX = 16
LOOKS_AT_SUBMODULES = frozenset({"status", "diff", "describe"})
"""Subcommands that look into submodules, which have their own configuration."""
TRUSTED_SCOPES = frozenset({"system", "global", "command"})  # set by the user and not by a repository
WORKTREE = "core.worktree"
INDEX_HOOK = "hooks/post-index-change"

DRIVER_KEYS = frozenset({"binary", "funcname", "wordregex", "xfuncname"})
_SECTIONS = frozenset(
    {
        "advice", "alias", "author", "blame", "branch", "color", "column", "commit", "committer", "credential",
        "difftool", "fetch", "format", "gc", "grep", "gui", "http", "include", "includeif", "index", "init",
        "interactive", "lfs", "log", "maintenance", "merge", "mergetool", "pack", "pager", "pretty", "pull", "push",
        "rebase", "receive", "rerere", "sequence", "status", "submodule", "svn", "tag", "url", "user", "versionsort",
    }
)  # fmt: skip
_KEYS = {
    "core": frozenset(
        {
            "abbrev", "autocrlf", "bare", "checkstat", "commentchar", "commitgraph", "compression", "editor", "eol",
            "filemode", "hookspath", "ignorecase", "logallrefupdates", "longpaths", "multipackindex", "pager",
            "precomposeunicode", "preloadindex", "protecthfs", "protectntfs", "quotepath", "repositoryformatversion",
            "safecrlf", "sharedrepository", "sparsecheckout", "sparsecheckoutcone", "symlinks", "trustctime",
            "untrackedcache", "whitespace",
        }
    ),
    "diff": frozenset(
        {
            "algorithm", "colormoved", "context", "funcname", "guitool", "ignoresubmodules", "indentheuristic",
            "mnemonicprefix", "noprefix", "renamelimit", "renames", "submodule", "tool", "wordregex",
            "wserrorhighlight", "xfuncname",
        }
    ),
    "extensions": frozenset(
        {
            "objectformat", "refstorage", "worktreeconfig",
        }
    ),
    "remote": frozenset(
        {
            "fetch", "gh-resolved", "mirror", "prune", "push", "pushdefault", "pushurl", "skipdefaultupdate",
            "skipfetchall", "tagopt", "url",
        }
    ),
}  # fmt: skip
"""Keys that a repository may set: none makes a reading command run a program or leave the worktree."""


def check_reading_command(workspace: Path, directory: Path, command: str, env: Mapping[str, str]) -> ReadOnly | None:
    """Parse a command that only reads, on paths that stay in the workspace; None for any other. Blocks: for threads."""
    parsed = read_only(command)
    if parsed is None or not locate(workspace, str(directory)).inside:
        return None
    names = list(itertools.islice(_names(parsed.patterns, directory), NAMES_MAX + 1))
    if len(names) > NAMES_MAX or any(name.startswith("-") for name in names):
        return None
    if not all(locate(workspace, str(directory / word)).inside for word in (*parsed.words, *names)):
        return None
    if parsed.files and any((directory / word).is_dir() for word in (*parsed.files, *names)):
        return None
    if any(_is_from_workspace(name, workspace, directory, env) for name in parsed.programs - BUILTINS):
        return None
    return parsed


def _names(patterns: Iterable[str], directory: Path) -> Iterable[str]:
    """Yield at least the names by which the shell would replace these patterns, and the paths in them."""
    for pattern in patterns:
        # The shell writes sets of characters differently, so a set is replaced by an asterisk.
        parts = [f"{part.partition('[')[0]}*" if "[" in part else part for part in pattern.split("/")]
        yield from glob.iglob("/".join(parts), root_dir=directory, include_hidden=True)
        if pattern.startswith("-"):
            yield from (path for path in paths_of([pattern]) if not _has_wildcard(path))


def _has_wildcard(text: str) -> bool:
    return any(wildcard in text for wildcard in "*?[")


def _is_from_workspace(name: str, workspace: Path, directory: Path, env: Mapping[str, str]) -> bool:
    """Return whether the shell would run a program of the workspace, which may come from anywhere."""
    for entry in env.get("PATH", os.defpath).split(":"):
        path = directory / entry / name
        if os.access(path, os.X_OK) and path.is_file():
            if entry in SYSTEM_DIRECTORIES:
                return False
            return locate(workspace, str(path.parent)).inside or locate(workspace, str(path)).inside
    return False


async def git_runs_nothing(context: ToolContext, command: ReadOnly, directory: Path, env: Mapping[str, str]) -> bool:
    """Return whether git would run no program that this repository, or a submodule, names."""
    waiting, count = [directory], 0
    while waiting:
        count += 1
        if count > REPOSITORIES_MAX:
            return False
        repository = waiting.pop()
        if not await _is_harmless(context, repository, env):
            return False
        if not command.git.isdisjoint(LOOKS_AT_SUBMODULES):
            submodules = await _submodules(context, repository, env)
            if submodules is None:
                return False
            waiting += submodules
    return True


async def _is_harmless(context: ToolContext, directory: Path, env: Mapping[str, str]) -> bool:
    """Return whether configuration and hooks of this directory's repository name no program that would run."""
    listed = await _git(context, directory, env, "config", "--list", "--show-scope", "--null", "--name-only")
    if listed is None:
        return False
    parts = listed.split("\0")
    keys = {name for scope, name in zip(parts[::2], parts[1::2], strict=False) if scope not in TRUSTED_SCOPES}
    # A submodule names its worktree. One that is elsewhere would show files outside of the workspace.
    if not all(is_harmless_key(name) for name in keys - {WORKTREE}):
        return False
    if WORKTREE in keys and not await _has_worktree_inside(context, directory, env):
        return False
    hook = await _git(context, directory, env, "rev-parse", "--git-path", INDEX_HOOK)
    if hook is None:
        return True  # no repository, or none that git would use
    path = directory / hook.removesuffix("\n")
    return not await context.children.threads.run(
        lambda _stop: path.exists(), timeout_s=context.limits.search_deadline_s
    )


async def _has_worktree_inside(context: ToolContext, directory: Path, env: Mapping[str, str]) -> bool:
    top = await _git(context, directory, env, "rev-parse", "--show-toplevel")
    if top is None:
        return False
    return await context.children.threads.run(
        lambda _stop: locate(context.workspace, top.removesuffix("\n")).inside,
        timeout_s=context.limits.search_deadline_s,
    )


def is_harmless_key(name: str) -> bool:
    """Return whether a repository may set this key. `name` is as git lists it: section and key in lower case."""
    section, _, rest = name.partition(".")
    key = rest.rpartition(".")[2]
    if section == "diff" and "." in rest:
        return key in DRIVER_KEYS
    return section in _SECTIONS or key in _KEYS.get(section, ())


async def _submodules(context: ToolContext, directory: Path, env: Mapping[str, str]) -> list[Path] | None:
    """List the submodules that git would look into; None when git fails."""
    top = await _git(context, directory, env, "rev-parse", "--show-toplevel")
    if top is None:
        return []
    reader = _SubmoduleReader()
    arguments = ("ls-files", "--stage", "--full-name", "-z", ":/")
    if await _git(context, directory, env, *arguments, on_stdout=reader.feed) is None:
        return None
    root = Path(top.removesuffix("\n"))
    paths = [root / name for name in reader.names]
    return await context.children.threads.run(
        lambda _stop: [path for path in paths if (path / ".git").exists()], timeout_s=context.limits.search_deadline_s
    )


class _SubmoduleReader:
    """Collects the submodules from the output of `git ls-files --stage -z`, in pieces of any size."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read a piece of the output."""
        *entries, self._rest = (self._rest + data).split(b"\0")
        for entry in entries:
            if entry.startswith(GITLINK) and len(self.names) <= REPOSITORIES_MAX:
                self.names.append(os.fsdecode(entry.partition(b"\t")[2]))


async def _git(
    context: ToolContext,
    directory: Path,
    env: Mapping[str, str],
    *arguments: str,
    on_stdout: Callable[[bytes], None] | None = None,
) -> str | None:
    """Run git and return its output; None when it fails, prints too much or takes too long."""
    limits = context.limits
    try:
        child = await context.children.start(
            ["git", *arguments],
            env=env,
            cwd=directory,
            head_bytes=GIT_OUTPUT_MAX_BYTES,
            tail_bytes=0,
            on_stdout=on_stdout,
        )
    except OSError:
        return None
    try:
        code = await child.exited_within(limits.git_s)
        is_whole = await child.drained(limits.tool_pipe_grace_s)
    finally:
        await child.end()
    if code != 0 or not is_whole or child.stdout.dropped_bytes:
        return None
    return os.fsdecode(child.stdout.head)
