"""Run one MCP server: connect and reconnect, keep its lists current, call it, log in at it.

One task owns the connection from start to end. Any failure in it becomes the state `error`, and the next call
reconnects.
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
from worker.mcp.settings import McpTarget

if TYPE_CHECKING:  # imports the library
    from worker.mcp.session import LiveSession

REASON_MAX = 1000
RETRY = Backoff(first_s=10.0, max_s=300.0)
"""Delays before a turn reconnects a server that failed to reconnect: the turn waits for it."""
LIST_INTERVAL_S = 1.0
"""Minimum time between two requests for changed lists, however often the server reports a change."""
T = TypeVar("T")


class McpServer:
    """One configured server, connected or not. All methods run on the event loop."""

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        token: OAuthToken | None,
        env: Mapping[str, str],
        environment: McpEnvironment,
        on_event: Callable[["McpServer", str], None],
    ) -> None:
        """Make a server that is not connected yet.

        `settings` come from `settings.settings_of`, `env` is the workspace's environment, and `on_event` is called
        with the type of each event.
        """
        self.name = name
        self.settings = settings
        self.capabilities = McpCapabilities()
        self.connected_at: float | None = None
        self.login_url = ""
        self.is_logging_in = False
        self._environment = environment
        self._on_event = on_event
        self._limits = environment.limits
        self._lifecycle = McpLifecycle()
        self._tasks = TaskOwner(f"mcp {name}", environment.log)
        self._connector = Connector(
            name, settings, token, env, environment, on_changed=self._list_changed, tasks=self._tasks
        )
        self._run_task: asyncio.Task[None] | None = None
        self._session: LiveSession | None = None
        self._was_connected = False
        self._failed_starts = 0
        self._retry_at = 0.0
        self._calls = 0
        self._connect_lock = asyncio.Lock()
        self._state_changed = asyncio.Event()
        self._stale: set[What] = set()
        self._is_refreshing = False

    @property
    def token(self) -> OAuthToken | None:
        """The access token; a new one is used from the next connection on."""
        return self._connector.token

    @token.setter
    def token(self, token: OAuthToken | None) -> None:
        self._connector.token = token

    @property
    def state(self) -> McpState:
        """The current state."""
        return self._lifecycle.state

    @property
    def error(self) -> str:
        """Why the state is ERROR or NEEDS_AUTH; "" otherwise."""
        return self._lifecycle.error

    @property
    def is_broken(self) -> bool:
        """Whether to reconnect before a turn: it was connected, failed, and the delay after a failed try is over."""
        is_due = self._environment.clock.now() >= self._retry_at
        return self.state is McpState.ERROR and self._was_connected and is_due

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, or reconnect."""
        self._perform(self._lifecycle.start())

    async def close(self) -> None:
        """Disconnect for good. Bounded."""
        self._lifecycle.disable()
        await self._tasks.close(self._limits.settle_s)

    async def settled(self) -> None:
        """Wait until it is no longer connecting. Bounded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._connector.start_timeout_s + self._limits.settle_s):
                while self.state is McpState.STARTING:
                    self._state_changed.clear()
                    await self._state_changed.wait()

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Launch(generation):
                    self._run_task = self._tasks.start(self._run(generation, self._run_task), "connection")
                case End():
                    self._reset()
                    if self._run_task is not None and self._run_task is not asyncio.current_task():
                        self._run_task.cancel()
        if effects:
            self._publish_state()

    def _reset(self) -> None:
        self._session = None
        self.capabilities = McpCapabilities()
        self.connected_at = None
        self._stale.clear()

    def _publish_state(self) -> None:
        self._state_changed.set()
        self._on_event(self, "state_changed")

    async def _run(self, generation: int, previous: "asyncio.Task[None] | None") -> None:
        """Hold one connection until it ends. A cancel is not reported: the canceller has already changed the state."""
        if previous is not None and not previous.done():
            await asyncio.wait({previous}, timeout=self._limits.settle_s)
        needs_login = False
        try:
            await self._connector.load()
            async with (
                asyncio.timeout(self._connector.start_timeout_s) as limit,
                self._connector.connected() as session,
            ):
                capabilities = await session.capabilities()
                limit.reschedule(None)
                if not self._lifecycle.connected(generation):
                    return
                self._session, self.capabilities, self._was_connected = session, capabilities, True
                self._failed_starts = 0
                self.connected_at = self._environment.clock.wall()
                self._publish_state()
                await session.ended.wait()
            reason = "it closed the connection"
        except TimeoutError:
            reason = f"it was not connected within {self._connector.start_timeout_s:g} s"
            if output := self._connector.stray_output():
                reason += f"; it wrote {output!r} to its output"
        except NeedsLogin as error:
            needs_login, reason = True, str(error)
        except (OSError, ValueError, BulkheadError, McpFailed) as error:
            reason = str(error)
        self._ended(generation, needs_login, reason)

    def _ended(self, generation: int, needs_login: bool, reason: str) -> None:
        reason = self._connector.redact(reason)[:REASON_MAX]
        if self.state is McpState.STARTING and generation == self._lifecycle.generation:
            self._retry_at = self._environment.clock.now() + RETRY.delay_s(self._failed_starts)
            self._failed_starts += 1
        end = self._lifecycle.refused if needs_login else self._lifecycle.failed
        if end(generation, reason):
            log = self._environment.log.info if reason == ENDED else self._environment.log.warning
            log("MCP server failed", extra=fields(server=self.name, reason=reason))
            self._reset()
            self._publish_state()

    # --- calls ------------------------------------------------------------------------------------------------------

    async def ask(self, work: Callable[[McpSession], Awaitable[T]]) -> T:
        """Run `work` on a live session and return its result; reconnects first if needed. Raises McpFailed.

        `work` runs only once: a call whose connection broke may have taken effect.
        """
        session = await self._live_session()
        self._calls += 1
        try:
            return await work(session)
        except McpFailed as error:
            if error.is_lost:
                await self._disconnected()
                raise McpFailed(
                    self._connector.redact(f"{error}; {self.error}" if self.error else str(error))
                ) from None
            raise McpFailed(self._connector.redact(str(error))) from None
        finally:
            self._calls -= 1

    async def _disconnected(self) -> None:
        """Wait until the task that owns a broken connection has recorded why it broke. Bounded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.settle_s):
                while self.state is McpState.CONNECTED and self._session is not None:
                    self._state_changed.clear()
                    await self._state_changed.wait()

    async def _live_session(self) -> McpSession:
        async with self._connect_lock:
            session = self._session
            if session is not None and await self._is_responsive(session):
                return session
            if self.state is McpState.DISABLED:
                raise McpFailed("it is disabled")
            if self.state is McpState.NEEDS_AUTH:
                raise McpFailed(f"log in first: {self.error}")
            if self.state is not McpState.STARTING:
                self.start()
            await self.settled()
            if self._session is None:
                raise McpFailed(self.error or "it is not connected")
            return self._session

    async def _is_responsive(self, session: McpSession) -> bool:
        if self._calls:  # it may be too busy with a call to answer; reconnecting would break that call
            return True
        try:
            async with asyncio.timeout(self._limits.mcp_ping_s):
                await session.ping()
        except (TimeoutError, McpFailed) as error:
            self._environment.log.info("MCP server does not answer", extra=fields(server=self.name, reason=str(error)))
            return False
        return session is self._session

    # --- lists ------------------------------------------------------------------------------------------------------

    def _list_changed(self, what: What) -> None:
        self._stale.add(what)
        if not self._is_refreshing and self._session is not None:
            self._is_refreshing = True
            self._tasks.start(self._refresh_stale(), "lists")

    async def _refresh_stale(self) -> None:
        """Request the changed lists and publish an event for each, at most one per `LIST_INTERVAL_S`."""
        try:
            while self._stale and self._session is not None:
                what = self._stale.pop()
                await self.refresh(what)
                self._on_event(self, f"{what}_list_changed")
                await asyncio.sleep(LIST_INTERVAL_S)
        finally:
            self._is_refreshing = False

    async def refresh(self, what: What) -> None:
        """Request one list again; keep the current one if the server is not connected or fails. Bounded."""
        session = self._session
        if session is None:
            return
        requests: dict[What, Callable[[], Awaitable[Any]]] = {
            "tools": session.tools,
            "prompts": session.prompts,
            "resources": session.resources,
        }
        try:
            async with asyncio.timeout(self._connector.start_timeout_s):
                items = await requests[what]()
        except (TimeoutError, McpFailed) as error:
            self._environment.log.info(
                "no list", extra=fields(server=self.name, what=what, reason=self._connector.redact(str(error)))
            )
            return
        if session is self._session:
            changes: dict[str, Any] = {what: items}
            self.capabilities = replace(self.capabilities, **changes)

    # --- login ------------------------------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Wait until the user has logged in, then connect. Cancelling ends the login. Raises McpFailed, Conflict."""
        if self.is_logging_in:
            raise Conflict(f"cannot log in at {self.name}: a login is already under way", code="busy")
        if not self.settings.oauth or self.settings.type == "stdio":
            raise Conflict(f"cannot log in at {self.name}: set mcp.{self.name}.url and mcp.{self.name}.oauth first")
        if self.settings.disabled:
            raise Conflict(f"cannot log in at {self.name}: it is disabled; remove mcp.{self.name}.disabled first")
        self.is_logging_in = True
        try:
            await self._connector.load()
            target = await self._connector.target()
            token = await self._request_token(target)
        finally:
            self.is_logging_in = False
            self.login_url = ""
        if token is not None:
            await self._connector.save_token(target, token)
        self.start()
        await self.settled()
        if self.state is not McpState.CONNECTED:
            raise McpFailed(self.error or "it is not connected")

    async def _request_token(self, target: McpTarget) -> OAuthToken | None:
        from worker.mcp.login import log_in

        def show_url(url: str) -> None:
            self.login_url = url

        limits = self._limits
        try:
            async with asyncio.timeout(limits.mcp_login_s):
                return await log_in(
                    self.settings, target, show_url=show_url, limits=limits, clock=self._environment.clock
                )
        except TimeoutError:
            raise McpFailed(f"authorization cancelled: no login within {limits.mcp_login_s:g} s") from None
        except McpFailed as error:
            raise McpFailed(target.redact(str(error))) from None
