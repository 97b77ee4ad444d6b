"""The configuration as clients may see it, and their changes to it.

Every change goes into a file, is used from the next turn on, and is told to all clients of the workspace.
"""

from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from msgspec.structs import replace

from protocol.api.config import (
    WORKSPACE,
    ChooseModel,
    ConfigChanged,
    CopilotImport,
    OAuthToken,
    RefreshLogin,
    RemoveKey,
    SetCompact,
    SetKey,
    SetProviderKey,
)
from protocol.api.provider import CatalogueProvider, ProviderConfig, SelectedModel
from protocol.errors import BadInput
from worker.config.edit import literal, names_of, remember_model, remove_key, set_key
from worker.config.files import Object
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.runs.turn_factory import TurnFactory
from worker.store.database import Database, Transaction

_DOCKER: Object = {"type": "stdio", "command": "docker", "args": ["mcp", "gateway", "run"]}


class ConfigOperations:
    """The handlers of `config.…` and `mcp.docker_…`."""

    def __init__(self, equipment: TurnFactory, database: Database, *, workspace_id: str) -> None:
        self._equipment = equipment
        self._database = database
        self._workspace_id = workspace_id

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "config.get": self.get,
            "config.providers": self.providers,
            "config.set": self.set,
            "config.remove": self.remove,
            "config.model": self.model,
            "config.compact": self.compact,
            "config.provider_key": self.provider_key,
            "config.reload": self.reload,
            "config.import_copilot": self.import_copilot,
            "config.refresh_oauth": self.refresh_oauth,
            "mcp.docker_enable": self.docker_enable,
            "mcp.docker_disable": self.docker_disable,
        }

    async def get(self, request: OperationRequest) -> OperationResponse:
        """The merged configuration, secrets masked."""
        return OperationResponse(self._equipment.outfit.config.wire())

    async def providers(self, request: OperationRequest) -> OperationResponse:
        """The providers with their models, without keys and headers."""
        config = self._equipment.outfit.config
        return OperationResponse(
            msgspec.json.encode([_catalogue(provider) for provider in config.shown_providers().values()])
        )

    async def set(self, request: OperationRequest) -> OperationResponse:
        """Put any JSON at a dotted path."""
        wish = read(request.body, SetKey)
        names, value = names_of(wish.key), msgspec.json.decode(wish.value)
        return await self._edit(wish.scope, lambda tree: set_key(tree, names, value), choose=_unchosen(names))

    async def remove(self, request: OperationRequest) -> OperationResponse:
        """Take away what is at a dotted path, if anything is."""
        wish = read(request.body, RemoveKey)
        names = names_of(wish.key)
        return await self._edit(wish.scope, lambda tree: remove_key(tree, names), choose=_unchosen(names))

    async def model(self, request: OperationRequest) -> OperationResponse:
        """Choose a model, for now and later; it becomes the first of the recent ones."""
        wish = read(request.body, ChooseModel)
        providers = self._equipment.outfit.config.providers
        if not wish.model.model or wish.model.provider not in providers:
            raise BadInput(
                f"cannot choose {wish.model.provider[:100]!r}/{wish.model.model[:100]!r}: name a model of one of these "
                "providers: " + ", ".join(providers)
            )
        chosen: Object = msgspec.to_builtins(wish.model)

        def change(tree: Object) -> None:
            set_key(tree, ["models", wish.model_type], chosen)
            remember_model(tree, wish.model_type, chosen)

        return await self._edit(wish.scope, change, choose={wish.model_type: wish.model})

    async def compact(self, request: OperationRequest) -> OperationResponse:
        """Switch the compact view of terminals."""
        wish = read(request.body, SetCompact)
        return await self._edit(
            wish.scope, lambda tree: set_key(tree, ["options", "tui", "compact_mode"], wish.enabled)
        )

    async def provider_key(self, request: OperationRequest) -> OperationResponse:
        """Store a key, or a login with its token as the key."""
        wish = read(request.body, SetProviderKey)
        above = ["providers", wish.provider_id]
        if wish.kind == "string":
            key = msgspec.json.decode(wish.api_key, type=str)
            return await self._edit(wish.scope, lambda tree: set_key(tree, [*above, "api_key"], key))
        token = msgspec.json.decode(wish.api_key, type=OAuthToken)
        if not token.access_token:
            raise BadInput("cannot store this login: field `api_key.access_token` is empty")
        login: Object = msgspec.to_builtins(token)
        # A key in a file is a template; a token is meant as it is.
        template = literal(token.access_token)

        def change(tree: Object) -> None:
            set_key(tree, [*above, "api_key"], template)
            set_key(tree, [*above, "oauth"], login)

        return await self._edit(wish.scope, change)

    async def reload(self, request: OperationRequest) -> OperationResponse:
        """The files of the user were changed through another workspace: use them, and tell it if it matters here."""
        if await self._equipment.reload():
            await self._tell()
        return OperationResponse()

    async def import_copilot(self, request: OperationRequest) -> OperationResponse:
        """There is no login of another program that we take over."""
        return OperationResponse(msgspec.json.encode(CopilotImport()))

    async def refresh_oauth(self, request: OperationRequest) -> OperationResponse:
        """Renew a login. Raises BadInput when that is not possible: then one must log in again."""
        wish = read(request.body, RefreshLogin)
        provider = self._equipment.outfit.config.providers.get(wish.provider_id)
        name = repr(wish.provider_id[:100])
        if provider is None or provider.oauth is None:
            raise BadInput(f"cannot refresh the login of provider {name}: it has no OAuth login; log in first")
        if not await self._equipment.logins.renew(provider.id, provider.api_key):
            raise BadInput(f"cannot refresh the login of provider {name}: no new token was given; log in again")
        await self._tell()
        return OperationResponse()

    async def docker_enable(self, request: OperationRequest) -> OperationResponse:
        """Add Docker's MCP gateway to this workspace's configuration."""
        return await self._edit(WORKSPACE, lambda tree: set_key(tree, ["mcp", "docker"], dict(_DOCKER)))

    async def docker_disable(self, request: OperationRequest) -> OperationResponse:
        """Take it away again."""
        return await self._edit(WORKSPACE, partial(remove_key, names=["mcp", "docker"]))

    async def _edit(
        self, scope: int, change: Callable[[Object], None], *, choose: Mapping[str, SelectedModel | None] | None = None
    ) -> OperationResponse:
        await self._equipment.edit(scope, change, choose=choose)
        await self._tell()
        return OperationResponse()

    async def _tell(self) -> None:
        payload = ConfigChanged(workspace_id=self._workspace_id)

        def job(transaction: Transaction) -> None:
            transaction.emit(payload)

        await self._database.write(job)


def _unchosen(names: list[str]) -> dict[str, SelectedModel | None]:
    """Which models a change at this path decides: what was picked before counts no more."""
    if names[0] != "models":
        return {}
    return dict.fromkeys(names[1:2] or ["large", "small"])


def _catalogue(provider: ProviderConfig) -> CatalogueProvider:
    first = provider.models[0].id if provider.models else ""
    return CatalogueProvider(
        name=provider.name or provider.id,
        id=provider.id,
        api_endpoint=provider.base_url,
        type=provider.type,
        default_large_model_id=first,
        default_small_model_id=first,
        models=[replace(model, options={}) for model in provider.models],
    )
