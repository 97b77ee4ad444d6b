"""All listeners of the server together: which are opened, who may come in by which, and their orderly end."""

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from protocol.address import TcpAddress
from protocol.base.logs import Redactor, fields
from protocol.base.tasks import TaskOwner
from protocol.ids import RandomSource
from supervisor.config.server_config import ServerConfig
from supervisor.http.access import Access, TcpAccess, UnixAccess, own_hosts
from supervisor.http.http_listener import HttpListener, RequestHandler
from supervisor.http.listeners import Listener, ListenFailed, inherited_listener, open_listener
from supervisor.http.routes import RouteTable
from supervisor.runtime import RuntimeRefused, read_or_make_token

LAST_ANSWERS_S = 2.0
"""So long the last answers and the ends of streams may take on their way out."""


class ListenerSet:
    """From `open` to `close`."""

    def __init__(
        self,
        *,
        config: ServerConfig,
        token_file: Path,
        inherited: Sequence[socket.socket],
        answer: RequestHandler,
        random: RandomSource,
        redactor: Redactor,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._token_file = config.token_file or token_file
        self._inherited = inherited
        self._answer = answer
        self._random = random
        self._redactor = redactor
        self._log = log
        self._table = RouteTable()
        self._requests = TaskOwner("http", log)
        self._listeners: list[Listener] = []
        self._doors: list[HttpListener] = []  # those that were replaced still have their connections
        self._is_closing = False
        self._problem = ""

    @property
    def names(self) -> list[str]:
        """Where we listen."""
        return [str(listener) for listener in self._listeners]

    def open(self) -> None:
        """Open every listener; one that fails is logged. Raises ListenFailed when none is left, RuntimeRefused."""
        wanted = [partial(inherited_listener, found) for found in self._inherited]
        if not (self._inherited and self._config.has_default_listener):
            wanted += [partial(open_listener, address) for address in self._config.listeners]
        failed: list[ListenFailed] = []
        for opener in wanted:
            try:
                listener = opener()
            except ListenFailed as error:
                failed.append(error)
                continue
            self._listeners.append(listener)
            self._doors.append(self._door(listener))
        if not self._doors:
            raise ListenFailed("; ".join(map(str, failed)) or "cannot listen anywhere: name a listener with --host")
        for refusal in failed:
            self._log.error(str(refusal))
        for door in self._doors:
            door.open()

    def restore(self) -> None:
        """Listen anew where somebody removed our socket file: who is connected stays, but nobody else could come."""
        if self._is_closing:
            return
        for place, listener in enumerate(self._listeners):
            if not listener.is_unreachable:
                continue
            try:
                again = open_listener(listener.address)
            except ListenFailed as error:
                if str(error) != self._problem:  # it is tried every second
                    self._problem = str(error)
                    self._log.error("cannot listen again", extra=fields(reason=error))
                continue
            self._log.error("socket file vanished, listening again", extra=fields(listener=again))
            self._problem = ""
            door = self._door(again)
            self._doors[place].close()
            self._doors.append(self._doors[place])
            self._listeners[place], self._doors[place] = again, door
            door.open()

    def _door(self, listener: Listener) -> HttpListener:
        return HttpListener(
            listening=listener.socket,
            access=self._access(listener),
            answer=self._answer,
            table=self._table,
            limits=self._config.limits,
            random=self._random,
            log=self._log,
            tasks=self._requests,
        )

    async def close(self) -> None:
        """Accept no more, remove our socket files, let the last answers out, then cut what is left."""
        for door in self._doors:
            door.close()
        self.remove_files()
        await self._requests.join(LAST_ANSWERS_S)
        await self._requests.close(LAST_ANSWERS_S)
        for door in self._doors:
            try:
                async with asyncio.timeout(LAST_ANSWERS_S):
                    await door.close_connections()
            except TimeoutError:
                self._log.error("connections do not close in time")

    def remove_files(self) -> None:
        """Remove our socket files for good; who is connected stays connected."""
        self._is_closing = True
        for listener in self._listeners:
            listener.remove_file()

    def _access(self, listener: Listener) -> Access:
        address = listener.address
        if not isinstance(address, TcpAddress):
            return UnixAccess()
        hosts = own_hosts(address.host, address.port, address.is_loopback, self._config.host_names)
        if self._config.no_auth:
            if not address.is_loopback:  # an inherited one; the others were checked with the configuration
                raise RuntimeRefused(f"cannot listen on {address} without a token: --no-auth is for loopback only")
            # Printed, not logged: whatever the log level is, the one who chose this reads what it means (X02).
            print(
                f"bulkhead: {address} asks for no token: every program on this machine, of any user, may run commands "
                "here as you",
                file=sys.stderr,
            )
            return TcpAccess(hosts, None)
        token = read_or_make_token(self._token_file, self._random)
        self._redactor.register(token)
        return TcpAccess(hosts, token)
