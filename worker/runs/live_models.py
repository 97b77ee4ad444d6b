"""Hold the models of the current configuration, and renew their keys.

Each change of the configuration makes a new registry. Running turns may still use the previous ones, so those are
closed only at the end.
"""

import logging
from collections.abc import Mapping

from protocol.base.clock import Clock
from protocol.errors import BadInput
from protocol.limits import Limits
from worker.config.catalogue import BUILTIN_ID, LOCAL_ID
from worker.config.live import LiveConfig
from worker.config.load import WorkspaceConfig
from worker.models.client import ModelClient
from worker.models.registry import ModelChoice, ModelRegistry
from worker.runs.credentials import Credentials
from worker.runs.run_end import MessageAuthor


class LiveModels:
    """The models of one workspace."""

    def __init__(
        self,
        live: LiveConfig,
        credentials: Credentials,
        *,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._live = live
        self._credentials = credentials
        self._limits = limits
        self._clock = clock
        self._log = log
        self._registries: list[ModelRegistry] = []  # the newest is the current one
        live.subscribe(self._configure)

    @property
    def registry(self) -> ModelRegistry:
        """The models of the current configuration."""
        return self._registries[-1]

    def author(self) -> MessageAuthor:
        """Return the model to name in a message that no model wrote."""
        selected = self._live.current.models.get("large")
        return MessageAuthor(selected.model, selected.provider) if selected is not None else MessageAuthor()

    def title_models(self) -> list[ModelClient]:
        """Return the models to ask for a session's title, in order: small, large; neither scripted nor local ones."""
        if self._live.problem is not None:
            return []
        clients: dict[tuple[str, str], ModelClient] = {}
        for kind in ("small", "large"):
            choice = self.registry.choice(kind)
            if choice.provider.type not in (BUILTIN_ID, LOCAL_ID):
                try:
                    clients.setdefault((choice.provider.id, choice.model.id), self.registry.client(kind))
                except BadInput as error:
                    self._log.info(error.message)
        return list(clients.values())

    async def ensure_fresh(self) -> None:
        """Renew the key of the large model's provider if it is about to expire. A failure is only logged."""
        await self._credentials.ensure_fresh(self.registry.choice().provider.id)

    async def close(self) -> None:
        """Close the connections to providers."""
        for registry in self._registries:
            await registry.close()

    def _configure(self, config: WorkspaceConfig, env: Mapping[str, str]) -> None:
        registry = ModelRegistry(config, env, self._limits, clock=self._clock, renew=self._renewed)
        self._registries.append(registry)

    async def _renewed(self, kind: str, refused: ModelChoice) -> tuple[ModelClient, ModelChoice] | None:
        """Return a client for the same model with a newer key than the refused one, None if there is none."""
        if not await self._credentials.renew(refused.provider.id, refused.provider.api_key):
            return None
        choice = self.registry.choice(kind)
        is_same = (choice.provider.id, choice.model.id) == (refused.provider.id, refused.model.id)
        return (self.registry.bare(kind), choice) if is_same else None
