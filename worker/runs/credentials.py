"""Keeps the keys of providers fresh: before a run when a token is nearly over, and after a 401.

One renewal at a time for each provider: within this worker by one task that all wait for, among workers by a lock on a
file. Whoever comes second finds the newer token on disk and takes that. A renewal that has begun is finished although
the run that wanted it is cancelled, since the old token may be worth nothing any more.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from protocol.api.config import GLOBAL, WORKSPACE
from protocol.api.provider import ProviderConfig
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, Unavailable
from worker.config.edit import literal, set_key
from worker.config.files import Object, read_json, state_file
from worker.models.login import can_renew, exchange, is_due
from worker.web.tls import shared_tls

LOCK_S = 45.0
LOCK_POLL_S = 0.1
EXCHANGE_S = 30.0


class Edit(Protocol):
    """`Equipment.edit`."""

    def __call__(self, scope: int, change: Callable[[Object], None]) -> Awaitable[None]: ...


class Logins:
    """The keys of one workspace's providers."""

    def __init__(
        self,
        *,
        providers: Callable[[], Mapping[str, ProviderConfig]],
        reload: Callable[[], Awaitable[bool]],
        edit: Edit,
        data_dir: Path,
        env: Mapping[str, str],
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        """`providers` are those of this moment, `reload` reads the files again, `edit` changes one of them."""
        self._providers = providers
        self._reload = reload
        self._edit = edit
        self._data_dir = data_dir
        self._env = env
        self._clock = clock
        self._log = log
        self._owner = TaskOwner("logins", log)
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    async def fresh(self, provider_id: str) -> None:
        """A run is about to use this provider: renew its token if it is nearly over. Failing is only logged."""
        provider = self._providers().get(provider_id)
        if provider is not None and is_due(provider.oauth, self._clock.wall()):
            await self.renew(provider_id, provider.api_key)

    async def renew(self, provider_id: str, used: str) -> bool:
        """The key `used` does no longer do: is there another one now?

        Does not raise, but for a cancel; that ends the waiting and not the renewal.
        """
        task = self._under_way.get(provider_id)
        if task is None:
            task = self._owner.start(self._renewed(provider_id, used), f"renew-{provider_id}")
            self._under_way[provider_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(provider_id, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        await self._owner.close()

    async def _renewed(self, provider_id: str, used: str) -> bool:
        try:
            await self._reload()  # expands the template of the key again, and reads what another worker wrote
            if self._is_other(provider_id, used):
                return True
            provider = self._providers().get(provider_id)
            if provider is None or provider.oauth is None or not can_renew(provider.oauth):
                return False
            async with self._locked(provider_id):
                await self._reload()
                if not self._is_other(provider_id, used):
                    await self._exchange(provider_id, provider)
            return self._is_other(provider_id, used)
        except (BulkheadError, OSError, TimeoutError) as error:
            self._log.warning("cannot renew a login", extra=fields(provider=provider_id, error=str(error)))
            return False

    async def _exchange(self, provider_id: str, provider: ProviderConfig) -> None:
        import httpx2

        assert provider.oauth is not None
        try:
            async with (
                asyncio.timeout(EXCHANGE_S),
                httpx2.AsyncClient(verify=shared_tls(), timeout=httpx2.Timeout(EXCHANGE_S)) as http,
            ):
                login = await exchange(provider.oauth, http, self._clock.wall)
        except httpx2.HTTPError as error:
            raise Unavailable(f"cannot renew the login of {provider_id}: {type(error).__name__}") from None
        above = ["providers", provider_id]

        def change(tree: Object) -> None:
            set_key(tree, [*above, "api_key"], literal(login["access_token"]))
            set_key(tree, [*above, "oauth"], login)

        scope = await asyncio.to_thread(self._scope_of, provider_id)
        await self._edit(scope, change)
        self._log.info("login renewed", extra=fields(provider=provider_id))

    def _scope_of(self, provider_id: str) -> int:
        """Which of our files holds the login."""
        path = self._data_dir / "bulkhead.json"
        providers = read_json(path).get("providers") if path.exists() else None
        own = providers.get(provider_id) if isinstance(providers, dict) else None
        return WORKSPACE if isinstance(own, dict) and "oauth" in own else GLOBAL

    def _is_other(self, provider_id: str, used: str) -> bool:
        provider = self._providers().get(provider_id)
        return provider is not None and provider.api_key not in ("", used)

    @contextlib.asynccontextmanager
    async def _locked(self, provider_id: str) -> AsyncIterator[None]:
        state = state_file(self._env)
        directory = state.parent if state is not None else self._data_dir
        path = directory / f"login-{re.sub(r'[^A-Za-z0-9._-]', '_', provider_id)[:100]}.lock"
        descriptor = await asyncio.to_thread(_opened, path)
        try:
            async with asyncio.timeout(LOCK_S):
                while not _taken(descriptor):  # noqa: ASYNC110 - nobody tells when a lock on a file becomes free
                    await asyncio.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
