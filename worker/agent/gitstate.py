"""The state of the git worktree, as a conversation is told it at its beginning (5.13).

It is looked up once a session and then kept: a prompt that changed with every edit would make the provider's cache of
the whole conversation useless, and the agent sees newer states with its own commands.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from protocol.base.logs import fields
from protocol.limits import Limits
from worker.tools.child import Children
from worker.tools.environment import tool_environment

STATUS_LINES = 20
SESSIONS_KEPT = 256
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}


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
        status = await self._git(workspace, env, "status", "--short", "--branch", "--untracked-files=normal")
        if status is None:
            return ""
        head, *changes = status.splitlines() or [""]
        shown = changes[:STATUS_LINES]
        if len(changes) > STATUS_LINES:
            shown.append(f"… and {len(changes) - STATUS_LINES} more")
        commits = await self._git(workspace, env, "log", "--oneline", "--no-decorate", "-n", "3")
        lines = [f"Branch: {head.removeprefix('## ').removeprefix('No commits yet on ')}"]
        lines += ["Changes:", *(f"  {line}" for line in shown)] if shown else ["Changes: none"]
        if commits:
            lines += ["Last commits:", *(f"  {line}" for line in commits.splitlines())]
        return "\n".join(lines)

    async def _git(self, workspace: Path, env: Mapping[str, str], *args: str) -> str | None:
        """What git prints, None when it fails or takes too long."""
        try:
            child = await self._children.start(["git", *args], env=env, cwd=workspace)
        except OSError:
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
