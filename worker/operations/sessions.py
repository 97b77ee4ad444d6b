"""Operations on sessions and their messages."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from protocol.api.message import Message
from protocol.api.session import Session, WriteSession
from protocol.base.clock import Clock
from protocol.errors import BadInput, Conflict
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.operations.decode import read
from worker.operations.lookup import session_or_404
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.runs.dispatcher import Dispatcher
from worker.store.database import Database, Transaction
from worker.store.tables import file_versions, messages, sessions
from worker.tools.shell.jobs import Jobs

USER_MESSAGES_MAX = 1000
TITLE_MAX = 500


class SessionOperations:
    """The handlers of `session.…` and `workspace.user_messages`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        database: Database,
        jobs: Jobs,
        *,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        on_created: Callable[[str], None],
    ) -> None:
        """`on_created` is called with the id of each new session."""
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._database = database
        self._limits = limits
        self._clock = clock
        self._random = random
        self._on_created = on_created

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "session.list": self.list,
            "session.create": self.create,
            "session.get": self.get,
            "session.put": self.put,
            "session.delete": self.delete,
            "session.history": self.history,
            "session.messages": self.messages,
            "session.user_messages": self.user_messages,
            "workspace.user_messages": self.all_user_messages,
        }

    async def list(self, request: OperationRequest) -> OperationResponse:
        """Return the top-level sessions, most recently changed first."""
        top_level = await self._database.read(sessions.top_level)
        return OperationResponse(msgspec.json.encode([self._shown(session) for session in top_level]))

    async def create(self, request: OperationRequest) -> OperationResponse:
        """Create a session; the client decides only its title."""
        body = read(request.body, WriteSession)
        now = int(self._clock.wall())
        title = (body.title or "")[:TITLE_MAX]
        session = Session(id=new_uuid(self._random), title=title, created_at=now, updated_at=now)

        def job(transaction: Transaction) -> None:
            sessions.create(transaction.connection, session)
            transaction.emit(session, "created", session_id=session.id)

        await self._database.write(job)
        self._on_created(session.id)
        return OperationResponse(msgspec.json.encode(session))

    async def get(self, request: OperationRequest) -> OperationResponse:
        """Return one session, also one that belongs to a sub-agent."""
        session_id = request.args.get("sid", "")
        session = await self._database.read(lambda connection: session_or_404(connection, session_id))
        return OperationResponse(msgspec.json.encode(self._shown(session)))

    async def put(self, request: OperationRequest) -> OperationResponse:
        """Change title, cost or todos; fields that the body leaves out stay as they are."""
        body = read(request.body, WriteSession)
        session_id = body.id or request.args.get("sid", "")
        if body.cost is not None and not body.cost >= 0:
            raise BadInput("cannot set cost to a negative number")
        title = body.title[:TITLE_MAX] if body.title is not None else None
        now = int(self._clock.wall())

        def job(transaction: Transaction) -> Session:
            connection = transaction.connection
            sessions.put(connection, session_id, title=title, cost=body.cost, todos=body.todos, now=now)
            session = session_or_404(connection, session_id)
            transaction.emit(session, "updated", session_id=session_id)
            return session

        return OperationResponse(msgspec.json.encode(self._shown(await self._database.write(job))))

    async def delete(self, request: OperationRequest) -> OperationResponse:
        """End the runs and jobs of a session, then delete it with its child sessions and messages (W-53)."""
        session_id = request.args.get("sid", "")
        family = await self._database.read(
            lambda connection: sessions.family(connection, session_or_404(connection, session_id).id)
        )
        for member in family:
            await self._dispatcher.cancel(member)
        try:
            async with asyncio.timeout(self._limits.drain_s):
                for member in family:
                    await self._dispatcher.session_idle(member)
        except TimeoutError:
            raise Conflict(
                f"cannot delete session {session_id!r}: its run does not end; try again", code="busy", retryable=True
            ) from None

        for member in family:
            await self._jobs.end_of_session(member)

        def job(transaction: Transaction) -> None:
            # Read again: a child session may have been created in the meantime.
            for member in sessions.family(transaction.connection, session_id):
                self._remove(transaction, member)

        await self._database.write(job)
        return OperationResponse()

    def _remove(self, transaction: Transaction, session_id: str) -> None:
        session = sessions.get(transaction.connection, session_id)
        if session is None:
            return
        # One event a message, without its content. For a longer session only the event of the session itself, because
        # the event log would keep little else.
        if session.message_count <= self._limits.event_batch_max:
            for message in messages.of_session(transaction.connection, session_id):
                deleted = replace(message, parts=[])
                transaction.emit(deleted, "deleted", session_id=session_id, key=message.id)
        sessions.remove(transaction.connection, session_id)
        transaction.emit(session, "deleted", session_id=session_id)

    async def history(self, request: OperationRequest) -> OperationResponse:
        """Return the versions of the files that a session changed, in order."""
        session_id = request.args.get("sid", "")
        versions = await self._database.read(lambda connection: file_versions.of_session(connection, session_id))
        return OperationResponse(msgspec.json.encode(versions))

    async def messages(self, request: OperationRequest) -> OperationResponse:
        """Return the conversation, oldest first; parts that are only in memory are stored before."""
        session_id = request.args.get("sid", "")
        await self._dispatcher.flush()
        return _encoded(await self._database.read(lambda connection: messages.of_session(connection, session_id)))

    async def user_messages(self, request: OperationRequest) -> OperationResponse:
        """Return the messages of the user in this session, newest first."""
        session_id = request.args.get("sid", "")
        return _encoded(await self._database.read(lambda connection: messages.user_of_session(connection, session_id)))

    async def all_user_messages(self, request: OperationRequest) -> OperationResponse:
        """Return the messages of the user in all sessions, newest first."""
        return _encoded(
            await self._database.read(lambda connection: messages.user_of_workspace(connection, USER_MESSAGES_MAX))
        )

    def _shown(self, session: Session) -> Session:
        return replace(session, is_busy=self._dispatcher.is_session_busy(session.id))


def _encoded(rows: "list[Message]") -> OperationResponse:
    return OperationResponse(msgspec.json.encode(rows))
