"""Operations on the configuration: what clients may see of it, and their changes to it.

Every change is written to a file, counts from the next turn on, and is reported to all clients of the workspace.
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
from worker.config.live import LiveConfig
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.runs.credentials import Credentials
from worker.store.database import Database, Transaction

_DOCKER: Object = {"type": "stdio", "command": "docker", "args": ["mcp", "gateway", "run"]}


class ConfigOperations:
    """The handlers of `config.…` and `mcp.docker_…`."""

    def __init__(self, live: LiveConfig, credentials: Credentials, database: Database, *, workspace_id: str) -> None:
        self._live = live
        self._credentials = credentials
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
        """Return the merged configuration, secrets masked."""
        await self._live.refresh()
        return OperationResponse(self._live.current.wire())

    async def providers(self, request: OperationRequest) -> OperationResponse:
        """Return the providers with their models, without keys and headers."""
        config = self._live.current
        return OperationResponse(
            msgspec.json.encode([_catalogue(provider) for provider in config.shown_providers().values()])
        )

    async def set(self, request: OperationRequest) -> OperationResponse:
        """Store a JSON value at a dotted path."""
        body = read(request.body, SetKey)
        names, value = names_of(body.key), msgspec.json.decode(body.value)
        return await self._edit(body.scope, lambda tree: set_key(tree, names, value), choose=_unchosen(names))

    async def remove(self, request: OperationRequest) -> OperationResponse:
        """Remove the value at a dotted path, if there is one."""
        body = read(request.body, RemoveKey)
        names = names_of(body.key)
        return await self._edit(body.scope, lambda tree: remove_key(tree, names), choose=_unchosen(names))

    async def model(self, request: OperationRequest) -> OperationResponse:
        """Choose a model, from the next turn on; it becomes the first of the recent ones."""
        body = read(request.body, ChooseModel)
        providers = self._live.current.providers
        if not body.model.model or body.model.provider not in providers:
            raise BadInput(
                f"cannot choose {body.model.provider[:100]!r}/{body.model.model[:100]!r}: name a model of one of these "
                "providers: " + ", ".join(providers)
            )
        chosen: Object = msgspec.to_builtins(body.model)

        def change(tree: Object) -> None:
            set_key(tree, ["models", body.model_type], chosen)
            remember_model(tree, body.model_type, chosen)

        return await self._edit(body.scope, change, choose={body.model_type: body.model})

    async def compact(self, request: OperationRequest) -> OperationResponse:
        """Switch the compact view of terminals."""
        body = read(request.body, SetCompact)
        return await self._edit(
            body.scope, lambda tree: set_key(tree, ["options", "tui", "compact_mode"], body.enabled)
        )

    async def provider_key(self, request: OperationRequest) -> OperationResponse:
        """Store a key, or a login with its token as the key."""
        body = read(request.body, SetProviderKey)
        parents = ["providers", body.provider_id]
        if body.kind == "string":
            key = msgspec.json.decode(body.api_key, type=str)
            return await self._edit(body.scope, lambda tree: set_key(tree, [*parents, "api_key"], key))
        token = msgspec.json.decode(body.api_key, type=OAuthToken)
        if not token.access_token:
            raise BadInput("cannot store this login: field `api_key.access_token` is empty")
        login: Object = msgspec.to_builtins(token)
        # A key in a file is a template; a token must be taken literally.
        template = literal(token.access_token)

        def change(tree: Object) -> None:
            set_key(tree, [*parents, "api_key"], template)
            set_key(tree, [*parents, "oauth"], login)

        return await self._edit(body.scope, change)

    async def reload(self, request: OperationRequest) -> OperationResponse:
        """Read the configuration again after a change through another workspace; notify clients if it differs."""
        if await self._live.reload():
            await self._notify()
        return OperationResponse()

    async def import_copilot(self, request: OperationRequest) -> OperationResponse:
        """Import nothing: Bulkhead takes over no login of another program."""
        return OperationResponse(msgspec.json.encode(CopilotImport()))

    async def refresh_oauth(self, request: OperationRequest) -> OperationResponse:
        """Renew a login. Raises BadInput when that is not possible and the user must log in again."""
        body = read(request.body, RefreshLogin)
        provider = self._live.current.providers.get(body.provider_id)
        name = repr(body.provider_id[:100])
        if provider is None or provider.oauth is None:
            raise BadInput(f"cannot refresh the login of provider {name}: it has no OAuth login; log in first")
        if not await self._credentials.renew(provider.id, provider.api_key):
            raise BadInput(f"cannot refresh the login of provider {name}: no new token was given; log in again")
        await self._notify()
        return OperationResponse()

    async def docker_enable(self, request: OperationRequest) -> OperationResponse:
        """Add Docker's MCP gateway to this workspace's configuration."""
        return await self._edit(WORKSPACE, lambda tree: set_key(tree, ["mcp", "docker"], dict(_DOCKER)))

    async def docker_disable(self, request: OperationRequest) -> OperationResponse:
        """Remove Docker's MCP gateway from it."""
        return await self._edit(WORKSPACE, partial(remove_key, names=["mcp", "docker"]))

    async def _edit(
        self, scope: int, change: Callable[[Object], None], *, choose: Mapping[str, SelectedModel | None] | None = None
    ) -> OperationResponse:
        await self._live.edit(scope, change, choose=choose)
        await self._notify()
        return OperationResponse()

    async def _notify(self) -> None:
        payload = ConfigChanged(workspace_id=self._workspace_id)

        def job(transaction: Transaction) -> None:
            transaction.emit(payload)

        await self._database.write(job)


def _unchosen(names: list[str]) -> dict[str, SelectedModel | None]:
    """Return the models that a change at this path decides; what a client chose before no longer counts."""
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
