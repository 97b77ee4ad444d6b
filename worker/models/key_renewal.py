"""Renew a rejected key: after a 401, send the same request once more with a newer key."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from protocol.api.provider import Model
from worker.models.client import ModelClient, ModelEvent, ModelFailure, ModelRequest

UNAUTHORIZED = 401


class RenewingModel:
    """Delegates to a client; after a 401, to the one that `renew` returns."""

    def __init__(self, client: ModelClient, renew: Callable[[], Awaitable[ModelClient | None]]) -> None:
        """`renew` looks for a newer key and returns a client that uses it, None when there is none. It does not raise,
        and can be cancelled."""
        self._client = client
        self._renew = renew

    @property
    def model(self) -> Model:
        return self._client.model

    @property
    def provider_id(self) -> str:
        return self._client.provider_id

    @property
    def is_flat_rate(self) -> bool:
        return self._client.is_flat_rate

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request at most twice; see `ModelClient`. Raises the first failure if there is no newer key."""
        try:
            async with aclosing(self._client.stream(request)) as events:
                async for event in events:
                    yield event
            return
        except ModelFailure as error:
            if error.provider_status != UNAUTHORIZED or error.in_stream:
                raise
            newer = await self._renew()
            if newer is None:
                raise
        self._client = newer
        async with aclosing(newer.stream(request)) as events:
            async for event in events:
                yield event
