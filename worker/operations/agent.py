"""Operations on the agent of the workspace: which model answers, and reading the configuration again."""

from collections.abc import Mapping

import msgspec

from protocol.api.agent import AgentInfo, InitAgent
from protocol.api.provider import Model, SelectedModel
from protocol.api.session import Session
from worker.config.live import LiveConfig
from worker.operations.decode import read
from worker.operations.lookup import session_or_404
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.permissions.broker import PermissionBroker
from worker.runs.dispatcher import Dispatcher
from worker.runs.live_models import LiveModels
from worker.runs.turn_factory import TurnFactory
from worker.store.database import Database


class AgentOperations:
    """The handlers of `agent.…`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        database: Database,
        *,
        live: LiveConfig,
        models: LiveModels,
        turns: TurnFactory,
        broker: PermissionBroker,
    ) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._live = live
        self._models = models
        self._turns = turns
        self._broker = broker

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "agent.info": self.info,
            "agent.init": self.init,
            "agent.update": self.reload,
            "agent.session": self.session,
            "agent.default_small_model": self.default_small_model,
        }

    async def info(self, request: OperationRequest) -> OperationResponse:
        """Return whether any run is active, and which model would answer a prompt now."""
        await self._live.refresh()
        is_busy = self._dispatcher.is_busy
        if self._live.problem is not None:
            info = AgentInfo(is_busy=is_busy, is_ready=False, model=Model(), model_cfg=SelectedModel())
        else:
            choice = self._models.registry.choice("large")
            info = AgentInfo(is_busy=is_busy, is_ready=True, model=choice.model, model_cfg=choice.selected)
        return OperationResponse(msgspec.json.encode(info))

    async def init(self, request: OperationRequest) -> OperationResponse:
        """Take whether the client is interactive, then reload.

        An interactive client can answer permission requests and questions; without one, turns wait until all MCP
        servers are connected.
        """
        is_interactive = read(request.body, InitAgent, is_optional=True).interactive
        self._turns.waits_for_extensions = not is_interactive
        self._broker.said(is_interactive)
        return await self.reload(request)

    async def reload(self, request: OperationRequest) -> OperationResponse:
        """Read the configuration again, for the next turns; a running turn keeps its own."""
        await self._live.reload()
        return OperationResponse()

    async def session(self, request: OperationRequest) -> OperationResponse:
        """Return a session in short: id, title, whether it is busy."""
        session_id = request.args.get("sid", "")
        session = await self._database.read(lambda connection: session_or_404(connection, session_id))
        short = Session(id=session.id, title=session.title, is_busy=self._dispatcher.is_session_busy(session.id))
        return OperationResponse(msgspec.json.encode(short))

    async def default_small_model(self, request: OperationRequest) -> OperationResponse:
        """Return a provider's model for short side tasks: the cheapest, or the configured one without models."""
        config = self._live.current
        provider = config.providers.get(request.args.get("provider_id", ""))
        if provider is None or not provider.models:
            return OperationResponse(msgspec.json.encode(config.models.get("small", SelectedModel())))
        cheapest = min(provider.models, key=lambda model: (model.cost_per_1m_out, model.id))
        return OperationResponse(msgspec.json.encode(SelectedModel(model=cheapest.id, provider=provider.id)))
