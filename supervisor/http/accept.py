"""Accept the connections of one listening socket, and limit how long a request may take to send its headers.

When the process is out of descriptors, accepting pauses, because retrying at once would spin. After each pause the
waiting connections are answered with 503 from a reserve, instead of being left without a response.
"""

import asyncio
import errno
import logging
import os
import re
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from tornado.concurrent import Future
from tornado.iostream import IOStream, UnsatisfiableReadError

from protocol.base.logs import fields
from protocol.errors import BadInput, Unavailable
from protocol.limits import Limits
from supervisor.http.access import Access
from supervisor.http.messages import Response, error_response
from supervisor.http.overload import OverloadResponder

READ_BUFFER_BYTES = 4 * 1024 * 1024
ACCEPT_AT_ONCE = 64
ACCEPT_PAUSE_S = 0.2

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class RequestStream(IOStream):
    """Connection with a deadline for the headers of a request; it starts with the first byte, so idle time is free.

    Tornado answers requests that it cannot parse without a body, or closes the connection; here the client gets an
    error response like any other.
    """

    def __init__(self, connection: socket.socket, *, head_deadline_s: float) -> None:
        super().__init__(connection, max_buffer_size=READ_BUFFER_BYTES)
        self._head_deadline_s = head_deadline_s
        self._is_head_expected = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_answered = False

    def expect_head(self) -> None:
        """Expect a new request head; its bytes may already be buffered (pipelining)."""
        self._is_head_expected = True
        if self._read_buffer_size:
            self._head_began()

    def head_complete(self) -> None:
        """Stop the deadline: the head is complete. A body has its own deadline."""
        self._is_head_expected = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def set_answered(self) -> None:
        """Send no further response: the last one was sent before its request was complete."""
        self._is_answered = True

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read available bytes (called by Tornado)."""
        count = super().read_from_fd(buf)
        if count and self._is_head_expected:
            self._head_began()
        return count

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Send bytes (called by Tornado). Its 400 without a body becomes an error response with a body."""
        if data == _BARE_REFUSAL:
            data = b"" if self._is_answered else _NOT_HTTP
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """Close (called by Tornado). An UnsatisfiableReadError means that a line or a head exceeded the buffer."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed() and not self._is_answered:
            super().write(_HEAD_TOO_LARGE if self._is_head_expected else _NOT_HTTP)
        super().close(exc_info)

    def close_fd(self) -> None:
        """Stop the deadline when the connection closes for any reason (called by Tornado)."""
        self.head_complete()
        super().close_fd()

    def _head_began(self) -> None:
        if self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._head_deadline_s, self._head_timed_out)

    def _head_timed_out(self) -> None:
        error = BadInput(
            f"cannot wait for this request: its headers must be complete within {self._head_deadline_s:g} s of its "
            "first byte",
            code="request_timeout",
        )
        self.write(closing_response(error_response(error)))  # sends what fits into the socket buffer; enough here
        self.close()


class Acceptor:
    """Accepts connections from `open` until `close`, and passes each admitted one to `take`."""

    def __init__(
        self,
        *,
        listening: socket.socket,
        access: Access,
        limits: Limits,
        take: Callable[[RequestStream, Any], None],
        log: logging.Logger,
    ) -> None:
        self._listening = listening
        self._access = access
        self._limits = limits
        self._take = take
        self._log = log
        self._resume: asyncio.TimerHandle | None = None
        self._responder = OverloadResponder(_no_descriptors, self._is_admitted)
        self._rejected = 0
        self._is_paused = False

    def open(self) -> None:
        """Start accepting."""
        self._listening.setblocking(False)
        self._responder.refill()
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Stop accepting; close the listening socket and the reserve."""
        if self._resume is not None:
            self._resume.cancel()
        self._responder.close()
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                if self._is_paused:
                    self._is_paused = False
                    self._log.warning("accepting again", extra=fields(turned_away=self._rejected))
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._pause(error)
                    return
                continue  # the peer has already disconnected
            if self._is_admitted(connection, address):
                self._take(RequestStream(connection, head_deadline_s=self._limits.header_deadline_s), address)

    def _is_admitted(self, connection: socket.socket, address: Any) -> bool:
        if self._access.admits(connection):
            return True
        self._log.warning("connection of another user refused", extra=fields(address=address))
        connection.close()
        return False

    # --- out of descriptors -----------------------------------------------------------------------------------------

    def _pause(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._resume = loop.call_later(ACCEPT_PAUSE_S, self._retry)
        if not self._is_paused:  # log once, however long it lasts
            self._is_paused = True
            self._rejected = 0
            self._log.error("accepting pauses", extra=fields(error=error.strerror, retry_s=ACCEPT_PAUSE_S))

    def _retry(self) -> None:
        """Accept again if a descriptor is free; else reject the waiting connections and pause again."""
        self._resume = None
        self._responder.refill()
        try:
            probe = os.dup(self._listening.fileno())
        except OSError as error:
            self._rejected += self._responder.accept(self._listening)
            self._pause(error)
            return
        os.close(probe)
        self.open()


def closing_response(response: Response, *, has_body: bool = True) -> bytes:
    """Serialise a response after which the connection is closed; without `has_body` only its head."""
    lines = [
        f"HTTP/1.1 {response.status} {reason_phrase(response.status)}",
        "Content-Type: application/json",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (response.body if has_body else b"")


def reason_phrase(status: int) -> str:
    """Return the standard reason phrase of a status."""
    return HTTPStatus(status).phrase if status in _KNOWN else "Unknown"


_KNOWN = frozenset(status.value for status in HTTPStatus)

_BARE_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""Tornado's response to everything that it cannot parse."""

_NOT_HTTP = closing_response(
    error_response(
        BadInput("cannot read this request: its first line, a header, or the chunks of its body are not HTTP/1.1")
    )
)
_HEAD_TOO_LARGE = closing_response(
    error_response(BadInput("cannot read these headers: they are far too large", code="headers_too_large"))
)
_NO_DESCRIPTORS = {
    status: closing_response(
        error_response(
            Unavailable(
                "cannot accept this connection: no descriptors are left; try again in a moment",
                status=status,
                retry_after_s=1.0,
            )
        )
    )
    for status in (503, 504)
}
_FIRST_CALL = re.compile(rb"POST /v1/workspaces[ ?]")


def _no_descriptors(request: bytes) -> bytes:
    """Return the answer to a request that begins so; see `Route.status`."""
    return _NO_DESCRIPTORS[504 if _FIRST_CALL.match(request) else 503]
