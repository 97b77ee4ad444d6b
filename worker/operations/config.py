"""The configuration as clients may see it."""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from protocol.shapes.provider import ProviderConfig
from worker.operations.table import Handler, Request, Response
from worker.runs.equipment import Equipment


class ConfigOperations:
    """The handlers of `config.…`."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {"config.get": self.get, "config.providers": self.providers}

    async def get(self, request: Request) -> Response:
        """The merged configuration, secrets masked."""
        return Response(self._equipment.outfit.config.wire())

    async def providers(self, request: Request) -> Response:
        """The providers with their models, without keys and headers."""
        config = self._equipment.outfit.config
        return Response(msgspec.json.encode([_catalogue(provider) for provider in config.providers.values()]))


def _catalogue(provider: ProviderConfig) -> dict[str, object]:
    first = provider.models[0].id if provider.models else ""
    return {
        "name": provider.name or provider.id,
        "id": provider.id,
        "api_endpoint": provider.base_url,
        "type": provider.type,
        "default_large_model_id": first,
        "default_small_model_id": first,
        "models": [replace(model, options={}) for model in provider.models],
    }
