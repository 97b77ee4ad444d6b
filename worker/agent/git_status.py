"""The state of the git worktree, as a conversation is told it at its beginning (5.13).

It is looked up once a session and then kept: a prompt that changed with every edit would make the provider's cache of
the whole conversation useless, and the agent sees newer states with its own commands.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from protocol.base.logs import fields
from protocol.limits import Limits
from worker.processes.child import Children
from worker.processes.environment import tool_environment

STATUS_LINES = 20
LINE_MAX = 200
SESSIONS_KEPT = 256
_QUIET = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_PAGER": "cat",
    "LC_ALL": "C.UTF-8",
}
_HARMLESS = {
    # Programs that the configuration of a repository can name. Nobody asked for anything when a turn begins, so what
    # somebody else's repository says must run nothing, and ask nobody in the network.
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "log.showSignature": "false",
    "protocol.allow": "never",
    "safe.bareRepository": "explicit",
    # What the user likes to see, but the model does not.
    "color.ui": "never",
    "color.status": "never",
    "color.diff": "never",
    "status.showStash": "false",
}
_FILTER = re.compile(r"filter\..*\.(?:clean|process|smudge)", re.DOTALL | re.IGNORECASE)
FILTERS_MAX = 100
OUTPUT_MAX_BYTES = 256 * 1024


class GitState:
    """Remembers what each session was told."""

    def __init__(self, children: Children, limits: Limits, log: logging.Logger) -> None:
        self._children = children
        self._limits = limits
        self._log = log
        self._told: OrderedDict[str, str] = OrderedDict()

    async def of(self, session_id: str, workspace: Path, env: Mapping[str, str]) -> str:
        """Branch, status and last commits as lines of text; "" without git or outside a worktree. Bounded."""
        known = self._told.get(session_id)
        if known is None:
            known = await self._look(workspace, tool_environment(env) | _QUIET)
            self._told[session_id] = known
            while len(self._told) > SESSIONS_KEPT:
                self._told.popitem(last=False)
        return known

    async def _look(self, workspace: Path, env: Mapping[str, str]) -> str:
        env = {**env, **_configured(_HARMLESS)}
        # Filters run when a file looks changed. Those of the user are meant, those of a repository are anybody's.
        own = await self._git(workspace, env, "config", "--show-scope", "--name-only", "--list")
        if own is None or (filters := _filters(own)) is None:
            return ""
        env |= _configured({**_HARMLESS, **filters})
        # Submodules have a configuration of their own.
        status = await self._git(
            workspace, env, "status", "--short", "--branch", "--untracked-files=normal", "--ignore-submodules=dirty"
        )
        if status is None:
            return ""
        head, *changes = [line[:LINE_MAX] for line in status.split("\n")]
        shown = changes[:STATUS_LINES]
        if len(changes) > STATUS_LINES:
            shown.append(f"… and {len(changes) - STATUS_LINES} more")
        commits = await self._git(workspace, env, "log", "--oneline", "--no-decorate", "-n", "3")
        lines = [f"Branch: {head.removeprefix('## ').removeprefix('No commits yet on ')}"]
        lines += ["Changes:", *(f"  {line}" for line in shown)] if shown else ["Changes: none"]
        if commits:
            lines += ["Last commits:", *(f"  {line[:LINE_MAX]}" for line in commits.split("\n"))]
        return "\n".join(lines)

    async def _git(self, workspace: Path, env: Mapping[str, str], *args: str) -> str | None:
        """What git prints, None when it fails or takes too long."""
        try:
            child = await self._children.start(
                ["git", *args], env=env, cwd=workspace, head_bytes=OUTPUT_MAX_BYTES, tail_bytes=0
            )
        except (OSError, ValueError):  # ValueError: a variable that cannot be one
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


def _configured(values: Mapping[str, str]) -> dict[str, str]:
    """Variables that make git take these values over those of all files."""
    found = {"GIT_CONFIG_COUNT": str(len(values))}
    for number, (name, value) in enumerate(values.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _filters(listed: str) -> dict[str, str] | None:
    """What switches the filters off that are named in this list of scopes and names; None when they are too many."""
    if len(listed) >= OUTPUT_MAX_BYTES:
        return None
    found: dict[str, str] = {}
    for line in listed.splitlines():
        scope, _, name = line.partition("\t")
        if scope in ("local", "worktree") and _FILTER.fullmatch(name):
            filter_name = name.rpartition(".")[0]
            found |= {f"{filter_name}.{what}": "" for what in ("clean", "process", "smudge")}
            found[f"{filter_name}.required"] = "false"
    return found if len(found) <= FILTERS_MAX * 4 else None
