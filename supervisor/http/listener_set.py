"""Open and close all listeners of the server, and choose the access check of each."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from protocol.address import TcpAddress
from protocol.base.atomic_file import replace_file
from protocol.base.logs import Redactor, fields
from protocol.base.tasks import TaskOwner
from protocol.ids import RandomSource
from supervisor.config.server_config import ServerConfig
from supervisor.http.access import Access, TcpAccess, UnixAccess, own_hosts
from supervisor.http.http_listener import HttpListener, RequestHandler
from supervisor.http.listeners import Listener, ListenFailed, inherited_listener, open_listener
from supervisor.http.routes import RouteTable
from supervisor.runtime import RuntimeRefused, read_or_make_token

LAST_RESPONSES_S = 2.0
"""How long the last responses and the ends of event streams may take at shutdown."""


class ListenerSet:
    """Accepts connections on all listeners, from `open` until `close`."""

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
        self._servers: list[HttpListener] = []  # replaced ones are kept, because they still have connections
        self._is_closing = False
        self._problem = ""
        self._token = ""  # of the TCP listeners

    @property
    def names(self) -> list[str]:
        """Return the addresses of all listeners."""
        return [str(listener) for listener in self._listeners]

    def open(self) -> None:
        """Open every listener; one that fails is logged. Raises ListenFailed when all fail, RuntimeRefused."""
        openers = [partial(inherited_listener, inherited) for inherited in self._inherited]
        if not (self._inherited and self._config.has_default_listener):
            openers += [partial(open_listener, address) for address in self._config.listeners]
        failures: list[ListenFailed] = []
        for opener in openers:
            try:
                listener = opener()
            except ListenFailed as error:
                failures.append(error)
                continue
            self._listeners.append(listener)
            self._servers.append(self._server(listener))
        if not self._servers:
            raise ListenFailed("; ".join(map(str, failures)) or "cannot listen anywhere: name a listener with --host")
        for failure in failures:
            self._log.error(str(failure))
        for server in self._servers:
            server.open()

    def restore(self) -> None:
        """Listen again wherever the socket file was removed, and write a removed token file again."""
        if self._is_closing:
            return
        if self._token and not self._token_file.exists():
            with contextlib.suppress(OSError):  # tried again in the next round
                replace_file(self._token_file, self._token.encode() + b"\n")
        for index, listener in enumerate(self._listeners):
            if not listener.is_unreachable:
                continue
            try:
                replacement = open_listener(listener.address)
            except ListenFailed as error:
                if str(error) != self._problem:  # retried every second, logged once
                    self._problem = str(error)
                    self._log.error("cannot listen again", extra=fields(reason=error))
                continue
            self._log.error("socket file vanished, listening again", extra=fields(listener=replacement))
            self._problem = ""
            server = self._server(replacement)
            self._servers[index].close()
            self._servers.append(self._servers[index])
            self._listeners[index], self._servers[index] = replacement, server
            server.open()

    def _server(self, listener: Listener) -> HttpListener:
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
        """Stop accepting, remove the socket files, let the last responses finish, then close all connections."""
        for server in self._servers:
            server.close()
        self.remove_files()
        await self._requests.join(LAST_RESPONSES_S)
        await self._requests.close(LAST_RESPONSES_S)
        for server in self._servers:
            try:
                async with asyncio.timeout(LAST_RESPONSES_S):
                    await server.close_connections()
            except TimeoutError:
                self._log.error("connections do not close in time")

    def remove_files(self) -> None:
        """Remove the socket files and never restore them; existing connections are kept."""
        self._is_closing = True
        for listener in self._listeners:
            listener.remove_file()

    def _access(self, listener: Listener) -> Access:
        address = listener.address
        if not isinstance(address, TcpAddress):
            return UnixAccess()
        hosts = own_hosts(address.host, address.port, address.is_loopback, self._config.host_names)
        if self._config.no_auth:
            if not address.is_loopback:  # only an inherited socket; the configuration was checked before
                raise RuntimeRefused(f"cannot listen on {address} without a token: --no-auth is for loopback only")
            # Printed, not logged, so that the warning appears at every log level.
            print(
                f"bulkhead: {address} needs no token: every program of every user on this machine can run commands "
                "as you",
                file=sys.stderr,
            )
            return TcpAccess(hosts, None)
        token = read_or_make_token(self._token_file, self._random)
        self._redactor.register(token)
        self._token = token
        return TcpAccess(hosts, token)
