"""The agent of the workspace: which model answers, and reading the configuration again."""

from collections.abc import Mapping

import msgspec

from protocol.api.agent import AgentInfo, AgentWish
from protocol.api.provider import Model, SelectedModel
from protocol.api.session import Session
from protocol.errors import NotFound
from worker.operations.decode import read
from worker.operations.table import Handler, Request, Response
from worker.permissions.broker import Desk
from worker.runs.dispatcher import Dispatcher
from worker.runs.turn_factory import Equipment
from worker.store import sessions
from worker.store.database import Database


class AgentOperations:
    """The handlers of `agent.…`."""

    def __init__(self, dispatcher: Dispatcher, database: Database, equipment: Equipment, desk: Desk) -> None:
        self._dispatcher = dispatcher
        self._desk = desk
        self._database = database
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "agent.info": self.info,
            "agent.init": self.init,
            "agent.update": self.reload,
            "agent.session": self.session,
            "agent.default_small_model": self.default_small_model,
        }

    async def info(self, request: Request) -> Response:
        """Is anything active, and which model would answer a prompt now."""
        if self._equipment.problem is not None:
            nothing = AgentInfo(
                is_busy=self._dispatcher.is_busy, is_ready=False, model=Model(), model_cfg=SelectedModel()
            )
            return Response(msgspec.json.encode(nothing))
        choice = self._equipment.outfit.models.choice("large")
        info = AgentInfo(is_busy=self._dispatcher.is_busy, is_ready=True, model=choice.model, model_cfg=choice.selected)
        return Response(msgspec.json.encode(info))

    async def init(self, request: Request) -> Response:
        """An update; and turns of an agent that nobody watches wait from now on until all servers are connected.

        A client that watches can also answer requests and questions.
        """
        self._equipment.is_interactive = read(request.body, AgentWish, is_optional=True).interactive
        self._desk.said(self._equipment.is_interactive)
        return await self.reload(request)

    async def reload(self, request: Request) -> Response:
        """Read the configuration again, for the turns to come; a running turn keeps its own."""
        await self._equipment.reload()
        return Response()

    async def session(self, request: Request) -> Response:
        """A session in short: id, title, whether it is busy."""
        session_id = request.args.get("sid", "")
        found = await self._database.read(lambda connection: sessions.get(connection, session_id))
        if found is None:
            raise NotFound(f"cannot find session {session_id[:200]!r}", code="session_unknown")
        short = Session(id=found.id, title=found.title, is_busy=self._dispatcher.is_session_busy(found.id))
        return Response(msgspec.json.encode(short))

    async def default_small_model(self, request: Request) -> Response:
        """The model for short side tasks of a provider, or the one that is configured."""
        config = self._equipment.outfit.config
        provider = config.providers.get(request.args.get("provider_id", ""))
        if provider is None or not provider.models:
            return Response(msgspec.json.encode(config.models.get("small", SelectedModel())))
        cheapest = min(provider.models, key=lambda model: (model.cost_per_1m_out, model.id))
        return Response(msgspec.json.encode(SelectedModel(model=cheapest.id, provider=provider.id)))
