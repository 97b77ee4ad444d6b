"""Renew the keys of providers: before a run when a token is about to expire, and after a 401.

One renewal at a time for each provider: within this worker by one task that all callers await, between workers by a
lock on a file. The second worker finds the newer token on disk and uses it. A renewal that has begun is finished even
if the run that needed it is cancelled, because the old token may be invalid by then.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from protocol.api.config import GLOBAL, WORKSPACE
from protocol.api.provider import ProviderConfig
from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, Unavailable
from protocol.worker_spec import WorkerSpec
from worker.config.edit import literal, set_key
from worker.config.files import Object, read_json, state_file
from worker.config.live import LiveConfig
from worker.models.login import can_renew, exchange, is_due
from worker.models.transport.provider_http import ProviderHttp
from worker.models.transport.response import TransportError

LOCK_S = 45.0
LOCK_POLL_S = 0.1
EXCHANGE_S = 30.0


class Credentials:
    """The keys of one workspace's providers."""

    def __init__(self, live: LiveConfig, spec: WorkerSpec, *, clock: Clock, log: logging.Logger) -> None:
        self._live = live
        self._data_dir = Path(spec.data_dir)
        self._env = spec.env
        self._clock = clock
        self._log = log
        self._owner = TaskOwner("logins", log)
        self._renewals: dict[str, asyncio.Task[bool]] = {}

    async def ensure_fresh(self, provider_id: str) -> None:
        """Renew the token of a provider before a run uses it, if it is about to expire. A failure is only logged."""
        provider = self._provider(provider_id)
        if provider is not None and is_due(provider.oauth, self._clock.wall()):
            await self.renew(provider_id, provider.api_key)

    async def renew(self, provider_id: str, used: str) -> bool:
        """Replace the key `used`, which was refused; return whether there is another one now.

        Raises only CancelledError; a cancel ends the waiting and not the renewal.
        """
        task = self._renewals.get(provider_id)
        if task is None:
            task = self._owner.start(self._renew(provider_id, used), f"renew-{provider_id}")
            self._renewals[provider_id] = task
            task.add_done_callback(lambda _: self._renewals.pop(provider_id, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the renewals that still run."""
        await self._owner.close()

    async def _renew(self, provider_id: str, used: str) -> bool:
        try:
            await self._live.reload()  # expands the template of the key again, and reads what another worker wrote
            if self._has_other_key(provider_id, used):
                return True
            provider = self._provider(provider_id)
            if provider is None or provider.oauth is None or not can_renew(provider.oauth):
                return False
            async with self._locked(provider_id):
                await self._live.reload()
                if not self._has_other_key(provider_id, used):
                    await self._exchange(provider_id, provider)
            return self._has_other_key(provider_id, used)
        except (BulkheadError, OSError, TimeoutError) as error:
            self._log.warning("cannot renew a login", extra=fields(provider=provider_id, error=str(error)))
            return False

    async def _exchange(self, provider_id: str, provider: ProviderConfig) -> None:
        assert provider.oauth is not None
        http = ProviderHttp(EXCHANGE_S)
        try:
            async with asyncio.timeout(EXCHANGE_S):
                login = await exchange(provider.oauth, http, self._clock.wall)
        except TransportError as error:
            raise Unavailable(f"cannot renew the login of {provider_id}: {error.message}") from None
        finally:
            await http.close()
        parents = ["providers", provider_id]

        def change(tree: Object) -> None:
            set_key(tree, [*parents, "api_key"], literal(login["access_token"]))
            set_key(tree, [*parents, "oauth"], login)

        scope = await asyncio.to_thread(self._scope_of, provider_id)
        await self._live.edit(scope, change)
        self._log.info("login renewed", extra=fields(provider=provider_id))

    def _scope_of(self, provider_id: str) -> int:
        """Return the scope whose file holds the login. Blocks."""
        path = self._data_dir / "bulkhead.json"
        providers = read_json(path).get("providers") if path.exists() else None
        own = providers.get(provider_id) if isinstance(providers, dict) else None
        return WORKSPACE if isinstance(own, dict) and "oauth" in own else GLOBAL

    def _provider(self, provider_id: str) -> ProviderConfig | None:
        return self._live.current.providers.get(provider_id)

    def _has_other_key(self, provider_id: str, used: str) -> bool:
        provider = self._provider(provider_id)
        return provider is not None and provider.api_key not in ("", used)

    @contextlib.asynccontextmanager
    async def _locked(self, provider_id: str) -> AsyncIterator[None]:
        state = state_file(self._env)
        directory = state.parent if state is not None else self._data_dir
        path = directory / f"login-{re.sub(r'[^A-Za-z0-9._-]', '_', provider_id)[:100]}.lock"
        descriptor = await asyncio.to_thread(_open_lock, path)
        try:
            async with asyncio.timeout(LOCK_S):
                while not _try_lock(descriptor):  # noqa: ASYNC110 - the kernel does not notify when a lock is released
                    await asyncio.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
