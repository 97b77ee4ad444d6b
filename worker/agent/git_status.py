"""Read the state of the git worktree for the system prompt, once for each session.

The text stays the same for the session: a system prompt that changed with every edit would make the provider's cache of
the whole conversation useless, and the agent can run git itself. It is begun early, when the session is created: the
runs of git take longer than anything else before the first request to a model.
"""

import asyncio
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.base.logs import fields
from protocol.base.regular_file import read_regular_file
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits
from worker.agent.project_context import is_git
from worker.processes.child import ChildProcesses
from worker.processes.environment import tool_environment

STATUS_LINES = 20
LINE_MAX = 200
SESSIONS_KEPT = 256
EARLY_S = 10.0
"""How long a state that was read early, at the creation of a session, is good for its first turn."""
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_PAGER": "cat",
    "LC_ALL": "C.UTF-8",
}
_OWN_VARIABLES = frozenset({"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"})
"""Variables of git that do not change which configuration it reads."""
_SAFE_SETTINGS = {
    # A repository's configuration can name programs. No user asked for these commands, so they must neither run
    # programs of an untrusted repository nor use the network.
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "log.showSignature": "false",
    "protocol.allow": "never",
    "safe.bareRepository": "explicit",
    # Settings for people that do not help the model.
    "color.ui": "never",
    "color.status": "never",
    "color.diff": "never",
    "status.showStash": "false",
}
_MAY_FILTER = re.compile(rb"\[\s*(?:filter|include)", re.IGNORECASE)
"""A section of a configuration file that defines a filter, or may read one from another file."""
CONFIG_MAX_BYTES = 64 * 1024
_FILTER = re.compile(r"filter\..*\.(?:clean|process|smudge)", re.DOTALL | re.IGNORECASE)
FILTERS_MAX = 100
OUTPUT_MAX_BYTES = 256 * 1024


@dataclass(slots=True)
class _Reading:
    """The reading for one session. After the first turn has used it, it stays."""

    task: asyncio.Task[str]
    begun_at: float
    is_used: bool = False


class GitStatus:
    """Reads the state for each session once, and keeps it."""

    def __init__(self, children: ChildProcesses, limits: Limits, log: logging.Logger) -> None:
        self._children = children
        self._limits = limits
        self._log = log
        self._tasks = TaskOwner("git", log)
        self._by_session: OrderedDict[str, _Reading] = OrderedDict()

    def begin(self, session_id: str, workspace: Path, env: Mapping[str, str]) -> None:
        """Begin to read the state for a session, unless it was read; does not wait."""
        self._reading(session_id, workspace, env)

    async def of(self, session_id: str, workspace: Path, env: Mapping[str, str]) -> str:
        """Return branch, status and last commits as lines of text; "" without git or outside a worktree. Bounded.

        A caller that is cancelled does not end the reading, which the next one needs as well.
        """
        reading = self._reading(session_id, workspace, env)
        reading.is_used = True
        return await asyncio.shield(reading.task)

    async def close(self) -> None:
        """End what is still read."""
        await self._tasks.close()

    def _reading(self, session_id: str, workspace: Path, env: Mapping[str, str]) -> _Reading:
        reading, now = self._by_session.get(session_id), self._children.clock.now()
        if reading is None or not self._is_good(reading, now):
            work = self._read(workspace, tool_environment(env) | _ENVIRONMENT)
            reading = _Reading(self._tasks.start(work, f"status-{session_id}"), now)
            self._by_session[session_id] = reading
            while len(self._by_session) > SESSIONS_KEPT:
                self._by_session.popitem(last=False)
        return reading

    def _is_good(self, reading: _Reading, now: float) -> bool:
        if reading.task.done() and (reading.task.cancelled() or reading.task.exception() is not None):
            return False
        return reading.is_used or now - reading.begun_at <= EARLY_S

    async def _read(self, workspace: Path, env: Mapping[str, str]) -> str:
        try:
            is_worktree, may_filter = await self._children.threads.run(
                lambda _stop: (is_git(workspace), _may_filter(workspace, env)), timeout_s=self._limits.git_s
            )
        except TimeoutError:
            return ""
        if not is_worktree:
            return ""
        env = {**env, **_as_variables(_SAFE_SETTINGS)}
        # Filters run when a file looks changed. Those of the user are intended, those of a repository are not trusted.
        if may_filter:
            own = await self._git(workspace, env, "config", "--show-scope", "--name-only", "--list")
            if own is None or (filters := _disable_filters(own)) is None:
                return ""
            env |= _as_variables({**_SAFE_SETTINGS, **filters})
        status, commits = await asyncio.gather(
            # Submodules have their own configuration.
            self._git(
                workspace, env, "status", "--short", "--branch", "--untracked-files=normal", "--ignore-submodules=dirty"
            ),
            self._git(workspace, env, "log", "--oneline", "--no-decorate", "-n", "3"),
        )
        if status is None:
            return ""
        head, *changes = [line[:LINE_MAX] for line in status.split("\n")]
        shown = changes[:STATUS_LINES]
        if len(changes) > STATUS_LINES:
            shown.append(f"… and {len(changes) - STATUS_LINES} more")
        lines = [f"Branch: {head.removeprefix('## ').removeprefix('No commits yet on ')}"]
        lines += ["Changes:", *(f"  {line}" for line in shown)] if shown else ["Changes: none"]
        if commits:
            lines += ["Last commits:", *(f"  {line[:LINE_MAX]}" for line in commits.split("\n"))]
        return "\n".join(lines)

    async def _git(self, workspace: Path, env: Mapping[str, str], *args: str) -> str | None:
        """Run git and return its output; None when it fails or takes too long."""
        try:
            child = await self._children.start(
                ["git", *args], env=env, cwd=workspace, head_bytes=OUTPUT_MAX_BYTES, tail_bytes=0
            )
        except (OSError, ValueError):  # ValueError: an invalid variable
            return None
        try:
            code = await child.exited_within(self._limits.git_s)
            if code == 0:
                await child.drained(self._limits.tool_pipe_grace_s)
        finally:
            await child.end()
        if code is None:
            self._log.info("git takes too long", extra=fields(command=" ".join(args[:1])))
        return child.stdout.text().rstrip() if code == 0 else None


def _may_filter(workspace: Path, env: Mapping[str, str]) -> bool:
    """Return whether the repository's own configuration may define filters. Blocks.

    False only for the usual repository: `.git` is a directory, no variable points git elsewhere, and the two files that
    are its own configuration have no section that could define one. git is asked about all others.
    """
    if any(name.startswith("GIT_") and name not in _ENVIRONMENT and name not in _OWN_VARIABLES for name in env):
        return True
    is_found = False
    for directory in (workspace, *workspace.parents):  # all of them: git passes over a `.git` that is no repository
        git = directory / ".git"
        if not os.path.lexists(git):
            continue
        is_found = True
        try:
            if git.is_symlink() or not git.is_dir() or (git / "commondir").exists():
                return True
            if any(_MAY_FILTER.search(_text(git / name)) for name in ("config", "config.worktree")):
                return True
        except (OSError, ValueError):
            return True
    return not is_found


def _text(path: Path) -> bytes:
    """Return the content of a regular file, b"" for a missing one. Raises OSError, ValueError for a long one."""
    try:
        data = read_regular_file(path, CONFIG_MAX_BYTES, follows_links=False)
    except FileNotFoundError:
        return b""
    if len(data) > CONFIG_MAX_BYTES:
        raise ValueError(f"{path} is too long")
    return data


def _as_variables(values: Mapping[str, str]) -> dict[str, str]:
    """Return variables by which git prefers these values to those of all files."""
    variables = {"GIT_CONFIG_COUNT": str(len(values))}
    for number, (name, value) in enumerate(values.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def _disable_filters(listed: str) -> dict[str, str] | None:
    """Return settings that disable the filters in a list of scopes and names; None when there are too many."""
    if len(listed) >= OUTPUT_MAX_BYTES:
        return None
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        scope, _, name = line.partition("\t")
        if scope in ("local", "worktree") and _FILTER.fullmatch(name):
            filter_name = name.rpartition(".")[0]
            settings |= {f"{filter_name}.{what}": "" for what in ("clean", "process", "smudge")}
            settings[f"{filter_name}.required"] = "false"
    return settings if len(settings) <= FILTERS_MAX * 4 else None
