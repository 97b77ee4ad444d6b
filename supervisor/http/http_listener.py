"""Listeners and the exchange of requests and answers over Tornado's HTTP/1.1 connection.

Access is checked and limits are enforced as soon as the headers are there, before a body is read. A request whose end
two readers could see in different places is refused, and its connection is not used again.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BadInput, BulkheadError, Denied
from protocol.ids import RandomSource
from protocol.limits import Limits
from protocol.operations import OPERATIONS
from supervisor.http.accept import Acceptor, RequestStream, last_answer, phrase
from supervisor.http.access import Access, Refusals, absolute_form
from supervisor.http.messages import Request, Response, error_response, unexpected
from supervisor.http.routes import STREAM, MethodUnknown, Route, RouteTable

REFUSED_LINGER_S = 1.0
"""So long a refused body is read and thrown away, so that its sender gets to see the answer."""

REFUSED_READ_BYTES = 64 * 1024

Answerer = Callable[[Request], Awaitable[Response | None]]


class Door(HTTPServerConnectionDelegate):
    """One listener: accepts, and has each request answered by `answer`."""

    def __init__(
        self,
        *,
        listening: socket.socket,
        access: Access,
        answer: Answerer,
        table: RouteTable,
        limits: Limits,
        random: RandomSource,
        log: logging.Logger,
        tasks: TaskOwner,
    ) -> None:
        self.access = access
        self.answer = answer
        self.table = table
        self.limits = limits
        self.random = random
        self.log = log
        self.tasks = tasks
        self.refusals = Refusals()
        self._http = HTTPServer(
            self,
            # Also for one that never sent a byte: clients open connections in advance and keep them for later.
            idle_connection_timeout=limits.idle_connection_s,
            body_timeout=limits.body_deadline_s,
            max_header_size=limits.header_max_bytes * 4,  # above the limit 431, above this the connection is closed
            max_body_size=1 << 62,  # the exchange itself counts
        )
        self._acceptor = Acceptor(
            listening=listening, access=access, limits=limits, take=self._http.handle_stream, log=log
        )

    def open(self) -> None:
        """Accept from now on."""
        self._acceptor.open()

    def close(self) -> None:
        """Accept no more, and close the listening socket."""
        self._acceptor.close()

    async def close_connections(self) -> None:
        """Close what is still connected."""
        await self._http.close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado: a request begins."""
        assert isinstance(request_conn, HTTP1Connection)
        assert isinstance(request_conn.stream, RequestStream)
        request_conn.stream.head_wanted()
        return Exchange(self, request_conn, request_conn.stream)

    def on_close(self, server_conn: object) -> None:
        """Tornado: a connection is gone; its exchange was told."""


class Exchange(HTTPMessageDelegate):
    """One request and its answer."""

    def __init__(self, door: Door, connection: HTTP1Connection, stream: RequestStream) -> None:
        self._door = door
        self._connection = connection
        self._stream = stream
        self._line = RequestStartLine("", "", "")
        self._headers = HTTPHeaders()
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_refused = False
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        self._is_bound = False

    # --- reading ----------------------------------------------------------------------------------------------------

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        """Look at what can be judged without the body."""
        self._line, self._headers = start_line, headers
        self._stream.head_came()
        self._connection.set_close_callback(self.on_connection_close)
        limits = self._door.limits
        try:
            self._door.access.check(start_line.method, start_line.path, headers)
            size = len(start_line.path) + sum(len(name) + len(value) + 4 for name, value in headers.get_all())
            if size > limits.header_max_bytes:
                raise BadInput(
                    f"cannot take headers of {size} bytes: the limit is {limits.header_max_bytes}",
                    code="headers_too_large",
                )
            if body_length(start_line.version, headers) > limits.body_max_bytes:
                raise _too_large(limits)
        except BulkheadError as error:
            if isinstance(error, Denied):
                self._tell(error)
            if "Content-Length" in headers or "Transfer-Encoding" in headers:
                self._part(error)
            else:
                self._refuse(error)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Collect the body, up to the limit."""
        if self._is_refused:
            return None
        self._size += len(chunk)
        if self._size > self._door.limits.body_max_bytes:
            self._chunks.clear()
            self._refuse(_too_large(self._door.limits))
        else:
            self._chunks.append(chunk)
        return None

    def finish(self) -> None:
        """The request is complete."""
        if self._is_refused:
            self._end()
            return
        self._task = self._door.tasks.start(self._serve(), "request")

    def on_connection_close(self) -> None:
        """The client is gone. Only what is bound to its caller ends with it."""
        self._is_over = True
        if self._task is not None and self._is_bound:
            self._task.cancel()

    # --- answering --------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        door = self._door
        try:
            request = self._request()
            response = await door.answer(request)
        except BulkheadError as error:
            response = error_response(error)
        except Exception as error:
            response = error_response(
                unexpected(
                    error, door.log, door.random, f"{self._line.method} {self._line.path.partition('?')[0][:200]}"
                )
            )
        if response is not None and not self._is_over:
            self._write(response)
            self._end()

    def _request(self) -> Request:
        target = self._line.path
        if not target.startswith("/"):  # as through a proxy
            _, target = absolute_form(target)
        path, _, query = target.partition("?")
        match = self._door.table.match("GET" if self._line.method == "HEAD" else self._line.method, path)
        if self._line.method == "HEAD" and match.route.handler == STREAM:
            raise MethodUnknown("HEAD", ["GET"])  # its head says nothing that an answer without a body could end with
        self._is_bound = is_bound(match.route)
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return Request(
            route=match.route,
            params=match.params,
            query=query,
            headers=self._headers,
            body=body,
            version=self._line.version,
            detach=self._connection.detach,
        )

    def _tell(self, error: Denied) -> None:
        """The log line of a stranger (X05). No query in it: people put tokens there."""
        count = self._door.refusals.note(asyncio.get_running_loop().time())
        if count:
            context: Any = self._connection.context
            self._door.log.warning(
                "request refused",
                extra=fields(
                    code=error.code,
                    address=context.address,
                    method=self._line.method[:20],
                    path=self._line.path.partition("?")[0][:200],
                    refused=count,
                ),
            )

    def _refuse(self, error: BulkheadError) -> None:
        """Answer although the request is not whole yet. What comes of a body is thrown away for a while, then cut."""
        self._is_refused = True
        response = error_response(error)
        if self._size:
            response.headers["Connection"] = "close"
            self._stream.answered()
            asyncio.get_running_loop().call_later(REFUSED_LINGER_S, self._end)
        self._write(response)

    def _part(self, error: BulkheadError) -> None:
        """Answer before any of the body is read, and let nobody read this connection as HTTP any more."""
        self._is_refused = self._is_over = True
        answer = last_answer(error_response(error), has_body=self._line.method != "HEAD")
        self._door.tasks.start(_say_and_close(self._connection.detach(), answer), "refuse")

    def _write(self, response: Response) -> None:
        headers = HTTPHeaders({"Content-Length": str(len(response.body)), **response.headers})
        if response.body:
            headers.setdefault("Content-Type", "application/json")
        line = ResponseStartLine("HTTP/1.1", response.status, phrase(response.status))
        body = None if self._line.method == "HEAD" else response.body
        self._connection.write_headers(line, headers, body)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.finish()


def is_bound(route: Route) -> bool:
    """Does this request end when its caller goes away?"""
    return bool(route.operation) and OPERATIONS[route.operation].is_bound


def _too_large(limits: Limits) -> BadInput:
    return BadInput(f"cannot take this body: the limit is {limits.body_max_bytes} bytes", code="too_large")


def body_length(version: str, headers: HTTPHeaders) -> int:
    """The bytes of the body as far as the headers tell, 0 when they do not. Raises BadInput.

    Stricter than the standard asks: only what every reader before us understands in the same way is let in (C10).
    """
    encoding, length = headers.get("Transfer-Encoding"), headers.get("Content-Length")
    if encoding is not None and (encoding.lower() != "chunked" or length is not None or version != "HTTP/1.1"):
        raise BadInput("cannot tell where this body ends: send one Content-Length, or chunks by HTTP/1.1, not both")
    if length is None:
        return 0
    if not (length.isascii() and length.isdecimal() and len(length) <= _LENGTH_DIGITS_MAX):
        raise BadInput("cannot tell where this body ends: Content-Length must be one number in decimal digits")
    return int(length)


_LENGTH_DIGITS_MAX = 19


async def _say_and_close(stream: IOStream, answer: bytes) -> None:
    """The last words, and time for the sender to get to them before the connection is gone."""
    try:
        async with asyncio.timeout(REFUSED_LINGER_S):
            await stream.write(answer)
            stream.socket.shutdown(socket.SHUT_WR)
            while True:
                await stream.read_bytes(REFUSED_READ_BYTES, partial=True)
                await asyncio.sleep(0)  # a sender that is faster than we would keep the loop for itself
    except (TimeoutError, StreamClosedError, OSError):
        pass
    finally:
        stream.close()
