"""Search the skills of a workspace before each turn, list them for the model, and notify clients of changes."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.api.services import SkillsChanged, SkillState
from protocol.limits import Limits
from worker.config.load import WorkspaceConfig
from worker.processes.thread_pool import ThreadPool
from worker.skills.discovery import Cache, Skills, discover
from worker.skills.skill import note
from worker.store.database import Database, Transaction
from worker.toolkit.extension import Extension


class SkillService(Extension):
    """Keeps the result of the last search."""

    def __init__(self, workspace: Path, *, database: Database, threads: ThreadPool, limits: Limits) -> None:
        self._workspace = workspace
        self._database = database
        self._threads = threads
        self._limits = limits
        self._env: Mapping[str, str] = {}
        self._extra: Sequence[str] = ()
        self._disabled: Sequence[str] = ()
        self._lock = asyncio.Lock()
        self._has_searched = False
        self._cache: Cache = {}
        self.latest = Skills()

    def configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        """Apply the configured directories and disabled skills."""
        self._env, self._extra, self._disabled = env, config.options.skills_paths, config.options.disabled_skills

    async def refresh(self) -> None:
        """Search again, and notify clients when something changed. Bounded in time."""
        async with self._lock:
            try:
                skills = await self._threads.run(
                    lambda _stop: discover(
                        self._workspace, self._env, extra=self._extra, disabled=self._disabled, cache=self._cache
                    ),
                    timeout_s=self._limits.search_deadline_s,
                )
            except TimeoutError:  # the turn uses the last result
                return
            has_changed = self._has_searched and skills != self.latest
            self.latest = skills
            self._has_searched = True
            if has_changed:
                await self._database.write(self._emit)

    def _emit(self, transaction: Transaction) -> None:
        transaction.emit(SkillsChanged(states=self.states))

    @property
    def states(self) -> list[SkillState]:
        """Return the state of each file, for clients."""
        return [
            SkillState(name=file.name, path=file.path, state=1 if file.error else 0, error=file.error)
            for file in self.latest.files
        ]

    def notes(self) -> Sequence[str]:
        """Return the list of skills for the system prompt."""
        text = note(self.latest.usable)
        return (text,) if text else ()

    def readable(self) -> Sequence[Path]:
        """Return the directories of the skills, which may be read without permission."""
        return self.latest.roots
