"""The life of one MCP server: its session, what it offers, the calls to it, its login.

One task holds the connection from its beginning to its end. Whatever goes wrong in there becomes the state `error`,
and the next call connects again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.base.backoff import Backoff
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, Conflict
from worker.config.sections import McpSettings, OAuthToken
from worker.mcp.capabilities import McpCapabilities, McpFailed, McpSession, NeedsLogin, What
from worker.mcp.connector import ENDED, Connector, McpEnvironment
from worker.mcp.lifecycle import Effect, End, Launch, McpLifecycle, McpState
from worker.mcp.settings import ServerTarget

if TYPE_CHECKING:  # imports the library
    from worker.mcp.session import LiveSession

REASON_MAX = 1000
RETRY = Backoff(first_s=10.0, max_s=300.0)
"""A server that was there once and cannot be connected is left alone so long, first and at most: turns wait for it."""
CHANGES_S = 1.0
"""A server that says again and again that its lists have changed is asked no more often."""
T = TypeVar("T")


class McpServer:
    """One server of the configuration."""

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        token: OAuthToken | None,
        env: Mapping[str, str],
        around: McpEnvironment,
        changed: Callable[["McpServer", str], None],
    ) -> None:
        """`settings` are those of `plan.settings_of`; `env` is the workspace's; `changed` gets the type of an event."""
        self.name = name
        self.settings = settings
        self.offer = McpCapabilities()
        self.connected_at: float | None = None
        self.login_url = ""
        self.is_logging_in = False
        self._around = around
        self._changed = changed
        self._limits = around.limits
        self._life = McpLifecycle()
        self._tasks = TaskOwner(f"mcp {name}", around.log)
        self._reach = Connector(name, settings, token, env, around, on_changed=self._list_changed, tasks=self._tasks)
        self._run_task: asyncio.Task[None] | None = None
        self._session: LiveSession | None = None
        self._was_connected = False
        self._failed_starts = 0
        self._retry_at = 0.0
        self._calls = 0
        self._reviving = asyncio.Lock()
        self._moved = asyncio.Event()
        self._stale: set[What] = set()
        self._is_refreshing = False

    @property
    def token(self) -> OAuthToken | None:
        """What it gets to know who asks; a new one counts from the next connection on."""
        return self._reach.token

    @token.setter
    def token(self, token: OAuthToken | None) -> None:
        self._reach.token = token

    @property
    def state(self) -> McpState:
        """Where it is now."""
        return self._life.state

    @property
    def error(self) -> str:
        """Why it is in the state error or needs a login."""
        return self._life.error

    @property
    def is_broken(self) -> bool:
        """Was it connected, and then failed? False for a while after each try to connect it again that failed, too."""
        is_due = self._around.clock.now() >= self._retry_at
        return self.state is McpState.ERROR and self._was_connected and is_due

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, or connect again."""
        self._perform(self._life.start())

    async def close(self) -> None:
        """End it for good. Bounded."""
        self._life.disable()
        await self._tasks.close(self._limits.settle_s)

    async def settled(self) -> None:
        """Wait until it is no longer being connected. Bounded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._reach.start_s + self._limits.settle_s):
                while self.state is McpState.STARTING:
                    self._moved.clear()
                    await self._moved.wait()

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Launch(generation):
                    self._run_task = self._tasks.start(self._run(generation, self._run_task), "connection")
                case End():
                    self._forget()
                    if self._run_task is not None and self._run_task is not asyncio.current_task():
                        self._run_task.cancel()
        if effects:
            self._tell()

    def _forget(self) -> None:
        self._session = None
        self.offer = McpCapabilities()
        self.connected_at = None
        self._stale.clear()

    def _tell(self) -> None:
        self._moved.set()
        self._changed(self, "state_changed")

    async def _run(self, generation: int, before: "asyncio.Task[None] | None") -> None:
        """One connection. A cancel ends it without a word: who cancels has said why."""
        if before is not None and not before.done():
            await asyncio.wait({before}, timeout=self._limits.settle_s)
        is_login = False
        try:
            await self._reach.load()
            async with asyncio.timeout(self._reach.start_s) as limit, self._reach.connected() as session:
                offer = await session.offer()
                limit.reschedule(None)
                if not self._life.connected(generation):
                    return
                self._session, self.offer, self._was_connected = session, offer, True
                self._failed_starts = 0
                self.connected_at = self._around.clock.wall()
                self._tell()
                await session.ended.wait()
            reason = "it closed the connection"
        except TimeoutError:
            reason = f"it was not connected within {self._reach.start_s:g} s"
            if self._reach.note():
                reason += f"; it wrote {self._reach.note()!r} to its output"
        except NeedsLogin as error:
            is_login, reason = True, str(error)
        except (OSError, ValueError, BulkheadError, McpFailed) as error:
            reason = str(error)
        self._ended(generation, is_login, reason)

    def _ended(self, generation: int, is_login: bool, reason: str) -> None:
        reason = self._reach.clean(reason)[:REASON_MAX]
        if self.state is McpState.STARTING and generation == self._life.generation:
            self._retry_at = self._around.clock.now() + RETRY.delay_s(self._failed_starts)
            self._failed_starts += 1
        is_news = self._life.refused(generation, reason) if is_login else self._life.failed(generation, reason)
        if is_news:
            log = self._around.log.info if reason == ENDED else self._around.log.warning
            log("MCP server failed", extra=fields(server=self.name, reason=reason))
            self._forget()
            self._tell()

    # --- what is asked of it ----------------------------------------------------------------------------------------

    async def ask(self, work: Callable[[McpSession], Awaitable[T]]) -> T:
        """What `work` gives on a session that is alive; a dead one is rebuilt once, before. Raises McpFailed.

        Never twice: a call that broke off may have done what it was to do.
        """
        session = await self._alive()
        self._calls += 1
        try:
            return await work(session)
        except McpFailed as error:
            if error.is_lost:
                await self._lost()
                raise McpFailed(self._reach.clean(f"{error}; {self.error}" if self.error else str(error))) from None
            raise McpFailed(self._reach.clean(str(error))) from None
        finally:
            self._calls -= 1

    async def _lost(self) -> None:
        """The connection broke in a call: the task that holds it knows more in a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.settle_s):
                while self.state is McpState.CONNECTED and self._session is not None:
                    self._moved.clear()
                    await self._moved.wait()

    async def _alive(self) -> McpSession:
        async with self._reviving:
            session = self._session
            if session is not None and await self._answers(session):
                return session
            if self.state is McpState.DISABLED:
                raise McpFailed("it is disabled")
            if self.state is McpState.NEEDS_AUTH:
                raise McpFailed(f"somebody has to log in first: {self.error}")
            if self.state is not McpState.STARTING:
                self.start()
            await self.settled()
            if self._session is None:
                raise McpFailed(self.error or "it is not connected")
            return self._session

    async def _answers(self, session: McpSession) -> bool:
        if self._calls:  # it may be busy with one; ending it would end that call
            return True
        try:
            async with asyncio.timeout(self._limits.mcp_ping_s):
                await session.ping()
        except (TimeoutError, McpFailed) as error:
            self._around.log.info("MCP server does not answer", extra=fields(server=self.name, reason=str(error)))
            return False
        return session is self._session

    # --- its lists --------------------------------------------------------------------------------------------------

    def _list_changed(self, what: What) -> None:
        self._stale.add(what)
        if not self._is_refreshing and self._session is not None:
            self._is_refreshing = True
            self._tasks.start(self._follow(), "lists")

    async def _follow(self) -> None:
        """Ask for what has changed and tell clients, but not too often."""
        try:
            while self._stale and self._session is not None:
                what = self._stale.pop()
                await self.refresh(what)
                self._changed(self, f"{what}_list_changed")
                await asyncio.sleep(CHANGES_S)
        finally:
            self._is_refreshing = False

    async def refresh(self, what: What) -> None:
        """Ask for one list again. A server that is not connected, or does not tell, keeps what is known. Bounded."""
        session = self._session
        if session is None:
            return
        ask: dict[What, Callable[[], Awaitable[Any]]] = {
            "tools": session.tools,
            "prompts": session.prompts,
            "resources": session.resources,
        }
        try:
            async with asyncio.timeout(self._reach.start_s):
                found = await ask[what]()
        except (TimeoutError, McpFailed) as error:
            self._around.log.info(
                "no list", extra=fields(server=self.name, what=what, reason=self._reach.clean(str(error)))
            )
            return
        if session is self._session:
            changes: dict[str, Any] = {what: found}
            self.offer = replace(self.offer, **changes)

    # --- its login --------------------------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Wait until somebody has logged in, and connect. Raises McpFailed, Conflict; a cancel ends the login."""
        if self.is_logging_in:
            raise Conflict(f"cannot log in at {self.name}: a login is under way already", code="busy")
        if not self.settings.oauth or self.settings.type == "stdio":
            raise Conflict(f"cannot log in at {self.name}: set mcp.{self.name}.oauth for a server on the network")
        if self.settings.disabled:
            raise Conflict(f"cannot log in at {self.name}: it is disabled; remove mcp.{self.name}.disabled first")
        self.is_logging_in = True
        try:
            await self._reach.load()
            target = await self._reach.target()
            token = await self._token_of_somebody(target)
        finally:
            self.is_logging_in = False
            self.login_url = ""
        if token is not None:
            await self._reach.save(target, token)
        self.start()
        await self.settled()
        if self.state is not McpState.CONNECTED:
            raise McpFailed(self.error or "it is not connected")

    async def _token_of_somebody(self, target: ServerTarget) -> OAuthToken | None:
        from worker.mcp.login import log_in

        def show(url: str) -> None:
            self.login_url = url

        limits = self._limits
        try:
            async with asyncio.timeout(limits.mcp_login_s):
                return await log_in(self.settings, target, show=show, limits=limits, clock=self._around.clock)
        except TimeoutError:
            raise McpFailed(f"authorization cancelled: nobody logged in within {limits.mcp_login_s:g} s") from None
        except McpFailed as error:
            raise McpFailed(target.clean(str(error))) from None
