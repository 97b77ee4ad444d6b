"""Serve HTTP requests of one listener, over Tornado's HTTP/1.1 connection.

Access and limits are checked as soon as the headers are complete, before a body is read. A request whose end is
ambiguous between two parsers is refused and its connection closed, against request smuggling.
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
from supervisor.http.accept import Acceptor, RequestStream, closing_response, reason_phrase
from supervisor.http.access import Access, Refusals, absolute_form
from supervisor.http.messages import Request, Response, error_response, unexpected
from supervisor.http.routes import STREAM, MethodUnknown, Route, RouteTable

REFUSED_LINGER_S = 1.0
"""How long to keep reading a rejected body, so that the client can still read the response."""

REFUSED_READ_BYTES = 64 * 1024

RequestHandler = Callable[[Request], Awaitable[Response | None]]


class HttpListener(HTTPServerConnectionDelegate):
    """Accepts the connections of one listening socket and answers each request with `answer`."""

    def __init__(
        self,
        *,
        listening: socket.socket,
        access: Access,
        answer: RequestHandler,
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
            # Also applies before the first byte: clients open connections in advance and keep them for later.
            idle_connection_timeout=limits.idle_connection_s,
            body_timeout=limits.body_deadline_s,
            max_header_size=limits.header_max_bytes * 4,  # above header_max_bytes: 431; above this: closed
            max_body_size=1 << 62,  # RequestExchange enforces the limit
        )
        self._acceptor = Acceptor(
            listening=listening, access=access, limits=limits, take=self._http.handle_stream, log=log
        )

    def open(self) -> None:
        """Start accepting."""
        self._acceptor.open()

    def close(self) -> None:
        """Stop accepting and close the listening socket."""
        self._acceptor.close()

    async def close_connections(self) -> None:
        """Close all open connections."""
        await self._http.close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Begin a request (called by Tornado)."""
        assert isinstance(request_conn, HTTP1Connection)
        assert isinstance(request_conn.stream, RequestStream)
        request_conn.stream.expect_head()
        return RequestExchange(self, request_conn, request_conn.stream)

    def on_close(self, server_conn: object) -> None:
        """Do nothing (called by Tornado): the exchange is notified by its close callback."""


class RequestExchange(HTTPMessageDelegate):
    """One request and its response."""

    def __init__(self, listener: HttpListener, connection: HTTP1Connection, stream: RequestStream) -> None:
        self._listener = listener
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
        """Check everything that does not need the body."""
        self._line, self._headers = start_line, headers
        self._stream.head_complete()
        self._connection.set_close_callback(self.on_connection_close)
        limits = self._listener.limits
        try:
            self._listener.access.check(start_line.method, start_line.path, headers)
            size = len(start_line.path) + sum(len(name) + len(value) + 4 for name, value in headers.get_all())
            if size > limits.header_max_bytes:
                raise BadInput(
                    f"cannot accept headers of {size} bytes: the limit is {limits.header_max_bytes}",
                    code="headers_too_large",
                )
            if body_length(start_line.version, headers) > limits.body_max_bytes:
                raise _too_large(limits)
        except BulkheadError as error:
            if isinstance(error, Denied):
                self._log_refusal(error)
            if "Content-Length" in headers or "Transfer-Encoding" in headers:
                self._refuse_and_close(error)
            else:
                self._refuse(error)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Collect the body, up to the limit."""
        if self._is_refused:
            return None
        self._size += len(chunk)
        if self._size > self._listener.limits.body_max_bytes:
            self._chunks.clear()
            self._refuse(_too_large(self._listener.limits))
        else:
            self._chunks.append(chunk)
        return None

    def finish(self) -> None:
        """Answer the complete request (called by Tornado)."""
        if self._is_refused:
            self._end()
            return
        self._task = self._listener.tasks.start(self._serve(), "request")

    def on_connection_close(self) -> None:
        """Cancel the request if its operation is bound to the caller's connection; others continue."""
        self._is_over = True
        if self._task is not None and self._is_bound:
            self._task.cancel()

    # --- answering --------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        listener = self._listener
        try:
            request = self._request()
            response = await listener.answer(request)
        except BulkheadError as error:
            response = error_response(error)
        except Exception as error:
            where = f"{self._line.method} {self._line.path.partition('?')[0][:200]}"
            response = error_response(unexpected(error, listener.log, listener.random, where))
        if response is not None and not self._is_over:
            self._write(response)
            self._end()

    def _request(self) -> Request:
        target = self._line.path
        if not target.startswith("/"):  # absolute form, as sent to proxies
            _, target = absolute_form(target)
        path, _, query = target.partition("?")
        match = self._listener.table.match("GET" if self._line.method == "HEAD" else self._line.method, path)
        if self._line.method == "HEAD" and match.route.handler == STREAM:
            raise MethodUnknown("HEAD", ["GET"])  # the head of a stream gives no length, so its end would be unclear
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

    def _log_refusal(self, error: Denied) -> None:
        """Log a refused request, without its query, which may contain a token."""
        count = self._listener.refusals.note(asyncio.get_running_loop().time())
        if count:
            context: Any = self._connection.context
            self._listener.log.warning(
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
        """Answer before the request is complete. The rest of its body is discarded for REFUSED_LINGER_S."""
        self._is_refused = True
        response = error_response(error)
        if self._size:
            response.headers["Connection"] = "close"
            self._stream.set_answered()
            asyncio.get_running_loop().call_later(REFUSED_LINGER_S, self._end)
        self._write(response)

    def _refuse_and_close(self, error: BulkheadError) -> None:
        """Answer before the body is read, and parse nothing more from this connection."""
        self._is_refused = self._is_over = True
        response = closing_response(error_response(error), has_body=self._line.method != "HEAD")
        self._listener.tasks.start(_send_and_close(self._connection.detach(), response), "refuse")

    def _write(self, response: Response) -> None:
        headers = HTTPHeaders({"Content-Length": str(len(response.body)), **response.headers})
        if response.body:
            headers.setdefault("Content-Type", "application/json")
        line = ResponseStartLine("HTTP/1.1", response.status, reason_phrase(response.status))
        body = None if self._line.method == "HEAD" else response.body
        self._connection.write_headers(line, headers, body)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.finish()


def is_bound(route: Route) -> bool:
    """Return whether this request is cancelled when its client disconnects."""
    return bool(route.operation) and OPERATIONS[route.operation].is_bound


def _too_large(limits: Limits) -> BadInput:
    return BadInput(f"cannot accept this body: the limit is {limits.body_max_bytes} bytes", code="too_large")


def body_length(version: str, headers: HTTPHeaders) -> int:
    """Return the length of the body that the headers give, 0 when they give none. Raises BadInput.

    Stricter than the standard: only headers that every proxy understands in the same way are accepted.
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


async def _send_and_close(stream: IOStream, response: bytes) -> None:
    """Send a response, give the client REFUSED_LINGER_S to read it, and close the connection."""
    try:
        async with asyncio.timeout(REFUSED_LINGER_S):
            await stream.write(response)
            stream.socket.shutdown(socket.SHUT_WR)
            while True:
                await stream.read_bytes(REFUSED_READ_BYTES, partial=True)
                await asyncio.sleep(0)  # otherwise a fast sender would occupy the loop
    except (TimeoutError, StreamClosedError, OSError):
        pass
    finally:
        stream.close()
