"""The skills of a workspace: looked for before each turn, told to the model, and told to clients when they change."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.api.services import SkillsChanged, SkillState
from protocol.limits import Limits
from worker.config.load import Config
from worker.processes.thread_pool import ThreadPool
from worker.skills.discovery import Cache, Skills, discover
from worker.skills.skill import note
from worker.store.database import Database, Transaction
from worker.toolkit.extension import Extension


class SkillService(Extension):
    """Knows the skills as they were found last."""

    def __init__(self, workspace: Path, *, database: Database, threads: ThreadPool, limits: Limits) -> None:
        self._workspace = workspace
        self._database = database
        self._threads = threads
        self._limits = limits
        self._env: Mapping[str, str] = {}
        self._extra: Sequence[str] = ()
        self._disabled: Sequence[str] = ()
        self._looking = asyncio.Lock()
        self._has_looked = False
        self._cache: Cache = {}
        self.known = Skills()

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Where to look from now on."""
        self._env, self._extra, self._disabled = env, config.options.skills_paths, config.options.disabled_skills

    async def refresh(self) -> None:
        """Look again; clients hear of it when something is different. Bounded."""
        async with self._looking:
            try:
                found = await self._threads.run(
                    lambda _stop: discover(
                        self._workspace, self._env, extra=self._extra, disabled=self._disabled, cache=self._cache
                    ),
                    timeout_s=self._limits.search_deadline_s,
                )
            except TimeoutError:  # a turn can do without; what is known counts on
                return
            is_new, self.known = found != self.known and self._has_looked, found
            self._has_looked = True
            if is_new:
                await self._database.write(self._tell)

    def _tell(self, transaction: Transaction) -> None:
        transaction.emit(SkillsChanged(states=self.states))

    @property
    def states(self) -> list[SkillState]:
        """What became of each file, for clients."""
        return [
            SkillState(name=one.name, path=one.path, state=1 if one.error else 0, error=one.error)
            for one in self.known.found
        ]

    def notes(self) -> Sequence[str]:
        """The list of skills for the system prompt."""
        text = note(self.known.usable)
        return (text,) if text else ()

    def readable(self) -> Sequence[Path]:
        """The directories of the skills may be read without asking."""
        return self.known.roots
