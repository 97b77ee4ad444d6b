"""Does a command that reads by its words also read on this disk (W-39, W-41)? Links, programs, and what git would run.

Git runs programs that a repository's own configuration names (`core.fsmonitor`, `diff.*.textconv`, filters), and a
hook whenever it refreshes the index. A directory that came with somebody's files may be such a repository.
"""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from worker.toolkit.paths import locate
from worker.toolkit.tool import ToolContext
from worker.tools.shell.read_only_commands import ReadOnly, paths_of, read_only

NAMES_MAX = 1000  # of files that the patterns of one command stand for
SYSTEM_DIRECTORIES = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"})
BUILTINS = frozenset({"echo", "false", "pwd", "true", "type"})
GIT_OUTPUT_MAX_BYTES = 1024 * 1024
GITLINK = b"160000 "
REPOSITORIES_MAX = 16
LOOKS_AT_FILES = frozenset({"status", "diff", "describe"})
"""The commands of git that look into submodules, which have a configuration of their own."""
TRUSTED_SCOPES = frozenset({"system", "global", "command"})  # what the user says, not what a repository says
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
"""What a repository may say of itself without making a reading command run a program or leave the worktree."""


def reads_here(workspace: Path, directory: Path, command: str, env: Mapping[str, str]) -> ReadOnly | None:
    """A known reading command, in the workspace, on paths that do not leave it by a link. Blocks: for threads."""
    found = read_only(command)
    if found is None or not locate(workspace, str(directory)).inside:
        return None
    names = list(itertools.islice(_names(found.patterns, directory), NAMES_MAX + 1))
    if len(names) > NAMES_MAX or any(name.startswith("-") for name in names):
        return None
    if not all(locate(workspace, str(directory / word)).inside for word in (*found.words, *names)):
        return None
    if found.files and any((directory / word).is_dir() for word in (*found.files, *names)):
        return None
    if any(_is_from_workspace(name, workspace, directory, env) for name in found.programs - BUILTINS):
        return None
    return found


def _names(patterns: Iterable[str], directory: Path) -> Iterable[str]:
    """At least the names that the shell would put in place of these patterns, and what in them may be a path."""
    for pattern in patterns:
        # Sets of characters are written otherwise here than in the shell: any name from there on will do.
        parts = [f"{part.partition('[')[0]}*" if "[" in part else part for part in pattern.split("/")]
        yield from glob.iglob("/".join(parts), root_dir=directory, include_hidden=True)
        if pattern.startswith("-"):
            yield from (path for path in paths_of([pattern]) if not _has_signs(path))


def _has_signs(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _is_from_workspace(name: str, workspace: Path, directory: Path, env: Mapping[str, str]) -> bool:
    """Would the shell run a program of that name that lies in the workspace, and so may be anybody's?"""
    for entry in env.get("PATH", os.defpath).split(":"):
        path = directory / entry / name
        if os.access(path, os.X_OK) and path.is_file():
            if entry in SYSTEM_DIRECTORIES:
                return False
            return locate(workspace, str(path.parent)).inside or locate(workspace, str(path)).inside
    return False


async def git_runs_nothing(context: ToolContext, found: ReadOnly, directory: Path, env: Mapping[str, str]) -> bool:
    """Would these commands of git run no program that the repository, or one inside it, names?"""
    waiting, seen = [directory], 0
    while waiting:
        seen += 1
        if seen > REPOSITORIES_MAX:
            return False
        place = waiting.pop()
        if not await _is_harmless(context, place, env):
            return False
        if not found.git.isdisjoint(LOOKS_AT_FILES):
            inside = await _submodules(context, place, env)
            if inside is None:
                return False
            waiting += inside
    return True


async def _is_harmless(context: ToolContext, directory: Path, env: Mapping[str, str]) -> bool:
    """Do configuration and hooks of the repository in which this directory lies name nothing that would be run?"""
    listed = await _git(context, directory, env, "config", "--list", "--show-scope", "--null", "--name-only")
    if listed is None:
        return False
    parts = listed.split("\0")
    said = {name for scope, name in zip(parts[::2], parts[1::2], strict=False) if scope not in TRUSTED_SCOPES}
    # Submodules name their worktree. One elsewhere would show files that are none of this workspace's.
    if not all(is_harmless_key(name) for name in said - {WORKTREE}):
        return False
    if WORKTREE in said and not await _has_worktree_inside(context, directory, env):
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
    """May a repository say this of itself? `name` is as git lists it: section and key in lower case."""
    section, _, rest = name.partition(".")
    key = rest.rpartition(".")[2]
    if section == "diff" and "." in rest:
        return key in DRIVER_KEYS
    return section in _SECTIONS or key in _KEYS.get(section, ())


async def _submodules(context: ToolContext, directory: Path, env: Mapping[str, str]) -> list[Path] | None:
    """Repositories in the worktree that the index knows and git would look into; None when that cannot be found out."""
    top = await _git(context, directory, env, "rev-parse", "--show-toplevel")
    if top is None:
        return []
    links = _Links()
    if (
        await _git(context, directory, env, "ls-files", "--stage", "--full-name", "-z", ":/", on_stdout=links.feed)
        is None
    ):
        return None
    root = Path(top.removesuffix("\n"))
    paths = [root / name for name in links.names]
    return await context.children.threads.run(
        lambda _stop: [path for path in paths if (path / ".git").exists()], timeout_s=context.limits.search_deadline_s
    )


class _Links:
    """Picks the submodules out of `git ls-files --stage -z`, whatever the pieces in which it comes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """The next piece."""
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
    """What git says, None when it fails, says too much or takes too long."""
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
