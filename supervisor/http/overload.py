"""Answer connections with 503 from descriptors kept in reserve, when none are left to serve them.

A connection that is closed while its client still writes may cost the client the answer: the write fails (EPIPE), and
unread bytes at the server make reading fail too (ECONNRESET). So each connection is answered when its request begins
to arrive, and then read until the client closes it, within a deadline.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

RESERVED_DESCRIPTORS = 16
"""How many connections are rejected at the same time; bounds the cost of a flood."""
REQUEST_WAIT_S = 1.0
"""How long to wait for the first byte of a request before the connection is answered without one."""
LINGER_S = 1.0
"""How long to keep reading after the answer, so that the client can still read it."""
READ_BYTES = 64 * 1024


class OverloadResponder:
    """Holds the reserve of one listener; each reserved descriptor serves one connection at a time."""

    def __init__(self, answer: Callable[[bytes], bytes], is_admitted: Callable[[socket.socket, Any], bool]) -> None:
        """Answer every connection for which `is_admitted`, called with the peer's address, is true.

        `answer` takes the beginning of the request, b"" when none came in time. `is_admitted` closes the others.
        """
        self._answer_to = answer
        self._is_admitted = is_admitted
        self._reserve: list[int] = []
        self._unanswered: set[socket.socket] = set()
        self._deadlines: dict[socket.socket, asyncio.TimerHandle] = {}

    def refill(self) -> None:
        """Reserve descriptors up to RESERVED_DESCRIPTORS, as far as they are available."""
        with contextlib.suppress(OSError):
            while len(self._reserve) + len(self._deadlines) < RESERVED_DESCRIPTORS:
                self._reserve.append(os.open("/", os.O_PATH | os.O_CLOEXEC))

    def accept(self, listening: socket.socket) -> int:
        """Accept waiting connections while there is a reserve, and begin to answer them; return their number."""
        accepted = 0
        for _ in range(len(self._reserve)):
            os.close(self._reserve.pop())
            try:
                connection, address = listening.accept()
            except OSError:
                break  # no connection waits, or another thread took the descriptor
            if self._is_admitted(connection, address):
                accepted += 1
                connection.setblocking(False)
                self._unanswered.add(connection)
                asyncio.get_running_loop().add_reader(connection, self._readable, connection)
                self._set_deadline(connection, REQUEST_WAIT_S)
        self.refill()
        return accepted

    def close(self) -> None:
        """Close all connections that are being answered, and the reserved descriptors."""
        for connection in list(self._deadlines):
            self._close(connection)
        while self._reserve:
            os.close(self._reserve.pop())

    def _readable(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            self.refill()
        elif connection in self._unanswered:
            self._answer(connection, data)

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        self._unanswered.discard(connection)
        self._set_deadline(connection, LINGER_S)
        with contextlib.suppress(OSError):  # the client has disconnected, which the next read reports
            connection.send(self._answer_to(request))
            connection.shutdown(socket.SHUT_WR)

    def _expired(self, connection: socket.socket) -> None:
        if connection in self._unanswered:
            self._answer(connection, b"")
        else:
            self._close(connection)
            self.refill()

    def _set_deadline(self, connection: socket.socket, delay_s: float) -> None:
        if connection in self._deadlines:
            self._deadlines[connection].cancel()
        self._deadlines[connection] = asyncio.get_running_loop().call_later(delay_s, self._expired, connection)

    def _close(self, connection: socket.socket) -> None:
        self._unanswered.discard(connection)
        self._deadlines.pop(connection).cancel()
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
