"""Accepts connections of one listening socket, and watches that a request which begins also comes, and can be read.

Out of descriptors, accepting pauses, because asking again at once would only spin. After each pause the connections
that wait are answered 503 from a reserve, instead of being left without an answer.
"""

import asyncio
import errno
import logging
import os
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
    """A connection on which a head that began must be whole within a deadline. Idle time before it is not counted.

    What Tornado cannot read it refuses without a body, or cuts; here that becomes an error like all others.
    """

    def __init__(self, connection: socket.socket, *, head_deadline_s: float) -> None:
        super().__init__(connection, max_buffer_size=READ_BUFFER_BYTES)
        self._head_deadline_s = head_deadline_s
        self._is_head_wanted = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_answered = False

    def head_wanted(self) -> None:
        """The next byte begins a request; it may lie in the buffer, because it came with or after the one before."""
        self._is_head_wanted = True
        if self._read_buffer_size:
            self._head_began()

    def head_came(self) -> None:
        """The head is whole; a body has a deadline of its own."""
        self._is_head_wanted = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def answered(self) -> None:
        """The last answer of this connection was given before its request was whole; whatever follows gets none."""
        self._is_answered = True

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Tornado: bytes are there to be read."""
        count = super().read_from_fd(buf)
        if count and self._is_head_wanted:
            self._head_began()
        return count

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Tornado: send this. Its bare refusal of what is not HTTP is given a body."""
        if data == _BARE_REFUSAL:
            data = b"" if self._is_answered else _NOT_HTTP
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """Tornado: close; with an UnsatisfiableReadError when a line, or a whole head, does not end."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed() and not self._is_answered:
            super().write(_HEAD_TOO_LARGE if self._is_head_wanted else _NOT_HTTP)
        super().close(exc_info)

    def close_fd(self) -> None:
        """Tornado: the connection is closed, by whomever."""
        self.head_came()
        super().close_fd()

    def _head_began(self) -> None:
        if self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._head_deadline_s, self._head_late)

    def _head_late(self) -> None:
        error = BadInput(
            f"cannot wait any longer: a request's headers must be here within {self._head_deadline_s:g} s of its first "
            "byte",
            code="request_timeout",
        )
        self.write(last_answer(error_response(error)))  # what fits goes out at once; more is not owed
        self.close()


class Acceptor:
    """From `open` to `close`; every admitted connection is given to `take`."""

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
        self._responder = OverloadResponder(_NO_DESCRIPTORS, self._is_admitted)
        self._turned_away = 0
        self._is_paused = False

    def open(self) -> None:
        """Accept from now on."""
        self._listening.setblocking(False)
        self._responder.refill()
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept no more; close the listening socket and give the reserve back."""
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
                    self._log.warning("accepting again", extra=fields(turned_away=self._turned_away))
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._pause(error)
                    return
                continue  # the peer was gone before we looked
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
        self._resume = loop.call_later(ACCEPT_PAUSE_S, self._try_again)
        if not self._is_paused:  # once, however long it lasts
            self._is_paused = True
            self._turned_away = 0
            self._log.error("accepting pauses", extra=fields(error=error.strerror, retry_s=ACCEPT_PAUSE_S))

    def _try_again(self) -> None:
        """Accept as before if a descriptor is free; if not, turn away what waits and pause again."""
        self._resume = None
        self._responder.refill()
        try:
            probe = os.dup(self._listening.fileno())
        except OSError as error:
            self._turned_away += self._responder.accept(self._listening)
            self._pause(error)
            return
        os.close(probe)
        self.open()


def last_answer(response: Response, *, has_body: bool = True) -> bytes:
    """The bytes of an answer after which the connection is closed; of its head alone without `has_body`."""
    lines = [
        f"HTTP/1.1 {response.status} {phrase(response.status)}",
        "Content-Type: application/json",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (response.body if has_body else b"")


def phrase(status: int) -> str:
    """The words for a status."""
    return HTTPStatus(status).phrase if status in _KNOWN else "Unknown"


_KNOWN = frozenset(status.value for status in HTTPStatus)

_BARE_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado says to all that it cannot read."""

_NOT_HTTP = last_answer(
    error_response(
        BadInput("cannot read this request: its first line, a header, or the chunks of its body are not HTTP/1.1")
    )
)
_HEAD_TOO_LARGE = last_answer(
    error_response(BadInput("cannot take headers that do not end: they are far too large", code="headers_too_large"))
)
_NO_DESCRIPTORS = last_answer(
    error_response(Unavailable("cannot take this connection: no descriptors are left; try again in a moment"))
)
